"""The same sums whatever the number of cores; and on every x86 processor, for those who want them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

COMMON_KERNELS_VARIABLE = "PERSONA_COMMON_KERNELS"
_COMMON_KERNELS = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "COMPATIBLE"}
KERNEL_VARIABLES = (COMMON_KERNELS_VARIABLE, *_COMMON_KERNELS)
"""What decides which kernels libraries choose, once, when they are imported."""


def choose_common_kernels() -> None:
    """Have torch and MKL use kernels that every x86 processor with AVX2 has, if `PERSONA_COMMON_KERNELS` is 1.

    By default both take the fastest kernels of the processor, which add in another order on another one: the same run
    gives other last bits, and after a training other weights, rates and data versions. The common kernels cost a
    third of the speed of a matrix product, or more. Takes effect in a process that has not imported torch yet;
    variables that are set already are left alone. Sources: ATen's `get_cpu_capability`; Intel oneMKL, "Conditional
    Numerical Reproducibility".
    """
    if os.environ.get(COMMON_KERNELS_VARIABLE) == "1":
        for name, value in _COMMON_KERNELS.items():
            os.environ.setdefault(name, value)


@contextmanager
def one_thread() -> Iterator[None]:
    """Have linear algebra use one thread for a block: another number adds in another order, and gives other last bits.

    On matrices as small as those of an analysis it is also several times faster than one thread for each core.
    """
    import scipy.linalg  # noqa: F401  # brings a BLAS of its own, which must be there to be limited
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        yield
