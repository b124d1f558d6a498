"""Task functions that worker processes import by name."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def double(number: int) -> int:
    return 2 * number


def double_or_fail(number: int) -> int:
    if number == 3:
        raise ValueError(f"{number} cannot be doubled")
    return 2 * number


def double_or_die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def process_and_threads(_: int) -> tuple[int, str | None]:
    return os.getpid(), os.environ.get("OMP_NUM_THREADS")


def tell(name: str) -> tuple[bool, str | None, str | None]:
    """Whether torch was there before the task, a variable of the environment, and the threads; says so on the standard output."""
    print("told", flush=True)
    return "torch" in sys.modules, os.environ.get(name), os.environ.get("OMP_NUM_THREADS")


def kernels(_: int) -> tuple[str, str]:
    import torch

    return torch.backends.cpu.get_cpu_capability(), os.environ.get("MKL_CBWR", "")


def announce_and_wait(file: Path) -> None:
    file.write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(120)


def visible_devices(_: object) -> dict[str, str | None]:
    """Return the choice of GPUs as a task sees it."""
    return {"visible": os.environ.get("CUDA_VISIBLE_DEVICES")}


def keep_a_model(_: object) -> dict[str, int]:
    """Load something that stays for the next task; return how often it was loaded."""
    from persona_assets.tasks.loaded import loaded

    count: list[int] = loaded("test", "model", lambda: [0])
    count[0] += 1
    return {"uses": count[0]}
