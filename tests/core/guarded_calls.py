"""What the guarded processes of the tests do: imported by name in a child."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

from persona_assets.errors import LakeError


def process_id() -> int:
    return os.getpid()


def environment_of(name: str) -> str | None:
    return os.environ.get(name)


def refuse() -> None:
    raise LakeError("no such product")


def refuse_because() -> None:
    try:
        stumble()
    except ZeroDivisionError as error:
        raise LakeError("no such share") from error


def stumble() -> float:
    return 1 / 0


def hang() -> None:
    time.sleep(600)


def vanish() -> None:
    os._exit(3)


def three_then_hang() -> Iterator[int]:
    yield from range(3)
    hang()


def leave_a_child() -> int:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid
