"""Child processes for numeric work: what they have before they begin, and when they end.

A process that works with models imports torch and transformers first, which takes several seconds of a core. On Linux such
processes can be forked from one server process that has imported them: the seconds are spent once, and they share its memory.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from multiprocessing.reduction import DupFd
from typing import Any

from persona_assets.malloc import keep_freed_memory
from persona_assets.numerics import KERNEL_VARIABLES, choose_common_kernels

_PRELOADED = "persona_assets.models.preloaded"
SERVER_THREADS = 1


@dataclass
class _Server:
    kernels: tuple[str | None, ...] | None = None  # under which its libraries chose theirs; None while there is no server


_server = _Server()


def preload_model_libraries(threads: int) -> None:
    """Start the server that imports the libraries of models, unless it runs; returns at once.

    Does nothing where no child could come from it: where processes cannot be forked safely from one that has loaded such
    libraries, and for another number of threads than the server's.

    Args:
        threads: numeric threads of the children to come.
    """
    if sys.platform != "linux" or threads != SERVER_THREADS:
        return
    choose_common_kernels()
    multiprocessing.set_forkserver_preload([_PRELOADED])
    forkserver.ensure_running()
    if _server.kernels is None:
        _server.kernels = _kernels()


def child_context(threads: int) -> BaseContext:
    """Return the context in which a child process starts fastest: from the server if it runs, else a process of its own.

    Args:
        threads: numeric threads of the child; a library's own are fixed when it is imported.
    """
    from_server = _server.kernels == _kernels() and threads == SERVER_THREADS
    return multiprocessing.get_context("forkserver" if from_server else "spawn")


class ChildSetup:
    """What a child does first: it takes over environment and outputs of the process that starts it, and sets its threads.

    Called in the child, as a pool's initializer.
    """

    def __init__(self, threads: int) -> None:
        """Note how many numeric threads the child has."""
        self._threads = threads
        self._environment: dict[str, str] = {}
        self._outputs: tuple[Any, ...] = ()

    def __getstate__(self) -> dict[str, object]:
        # Pickled when a child starts: as things are then, and not as they were when its server started.
        return {
            "_threads": self._threads,
            "_environment": dict(os.environ),
            "_outputs": tuple(DupFd(number) for number in (1, 2)),
        }

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)

    def __call__(self) -> None:
        """Set this process up."""
        for number, output in zip((1, 2), self._outputs, strict=True):
            os.dup2(output.detach(), number)
        os.environ.clear()
        os.environ.update(self._environment)
        set_numeric_environment(self._threads)
        keep_freed_memory()
        threading.Thread(target=exit_when_orphaned, daemon=True).start()


def set_numeric_environment(threads: int) -> None:
    """Set the variables that numeric libraries read once, when they are imported."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    # Threads that wait by spinning starve each other on a busy machine.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ["TQDM_DISABLE"] = "1"  # the bars of several processes would run into each other
    choose_common_kernels()


def exit_when_orphaned() -> None:
    """End this process when the one that started it has ended.

    A killed run cannot stop its children, whose work nobody would record.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _kernels() -> tuple[str | None, ...]:
    return tuple(os.environ.get(name) for name in KERNEL_VARIABLES)
