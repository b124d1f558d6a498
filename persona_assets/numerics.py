"""The same sums on every x86 processor: kernels of one instruction set, chosen before torch is imported."""

from __future__ import annotations

import os

_COMMON_KERNELS = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2"}


def choose_common_kernels() -> None:
    """Have torch and MKL use AVX2 kernels on a CPU, even where it has longer registers.

    By default both use the widest instructions of the processor, which add in another order: the same run would give
    other weights, rates and data versions on another machine. Variables that are set already are left alone; so are
    processors without AVX2, where torch chooses for itself. Takes effect in a process that has not imported torch yet.
    Sources: ATen's `get_cpu_capability`; Intel oneMKL, "Conditional Numerical Reproducibility".
    """
    for name, value in _COMMON_KERNELS.items():
        os.environ.setdefault(name, value)
