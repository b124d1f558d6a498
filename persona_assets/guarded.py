"""Call a library that may hang, or retry for minutes, in a process of its own with a time limit.

A client library of a remote service keeps caches, threads and helper processes for the life of the process, and not all
of its waits can be limited by its own settings. In a child process all of that can be ended: when a call takes too long the
child is killed with everything it started, and the caller gets one sentence.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Self

from persona_assets.errors import PersonaAssetsError
from persona_assets.processes import exit_when_orphaned

_CLOSING_SECONDS = 10.0
_BYTES_PER_SECOND = 256 * 1024  # the slowest connection that a transfer waits for
_TRANSFER_SECONDS = 6 * 3600.0


class GuardedCallError(PersonaAssetsError):
    """A guarded call did not end as it should: it took too long, or its process died."""


class UnforeseenError(GuardedCallError):
    """A guarded call raised something that is not made for users; the traceback is a note of this error."""


class GuardedProcess:
    """A child process that calls functions for this one, one after the other.

    It starts with the first call, and again after it was killed; it ends with `close`, or with this object.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Prepare a child.

        Args:
            environment: variables that the child has besides those of this process.
        """
        self._environment = dict(environment)
        self._process: Any = None
        self._connection: Connection | None = None
        self._end: Callable[[], object] = lambda: None

    def call(self, function: Callable[..., Any], *arguments: object, seconds: float) -> Any:
        """Call a module-level function in the child and return its result; raises as `stream` does."""
        (value,) = self.stream(_only, function, *arguments, seconds=seconds)
        return value

    def stream(self, function: Callable[..., Iterator[Any]], *arguments: object, seconds: float) -> Generator[Any, None, None]:
        """Call a module-level generator function in the child and yield what it yields, as it arrives.

        Args:
            function: imported by name in the child; arguments and values are pickled.
            arguments: of the function.
            seconds: the longest wait for the next value, or for the end; then the child is killed.

        Raises:
            PersonaAssetsError: raised by the function itself; what caused it there is a note of it.
            GuardedCallError: it took too long, died, or raised anything else (`UnforeseenError`).
        """
        connection = self._started()
        finished = False
        try:
            connection.send((function, arguments))
            while connection.poll(seconds):
                kind, value = connection.recv()
                finished = kind != "value"
                if kind == "value":
                    yield value
                elif kind == "end":
                    return
                else:
                    raise value
            raise GuardedCallError(f"no answer within {seconds:.0f} s")
        except (EOFError, OSError) as error:
            raise GuardedCallError("its process died: killed, or out of memory") from error
        finally:
            if not finished:  # the child still works on it, or is gone
                self.kill()

    def close(self) -> None:
        """End the child, with time to finish what its libraries have under way."""
        if self._connection is not None:
            with suppress(OSError):
                self._connection.send(None)
            self._process.join(_CLOSING_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the child and everything it started, at once."""
        self._end()
        self._process = self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close() if error is None else self.kill()

    def _started(self) -> Connection:
        if self._connection is None:
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, self._environment), daemon=True)
            self._process.start()
            theirs.close()
            self._end = weakref.finalize(self, _end, self._process, self._connection)
        return self._connection


def transfer_seconds(seconds: float, size: int) -> float:
    """Return how long a transfer of so many bytes may take, given the longest wait for an answer."""
    return seconds + min(size / _BYTES_PER_SECOND, _TRANSFER_SECONDS)


def _end(process: Any, connection: Connection) -> None:
    connection.close()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # it may not lead its group yet
    process.join()


def _only(function: Callable[..., Any], *arguments: object) -> Iterator[Any]:
    yield function(*arguments)


def _serve(connection: Connection, environment: Mapping[str, str]) -> None:
    os.setsid()  # a group of its own, to be killed as a whole; Ctrl-C is its parent's to handle
    threading.Thread(target=exit_when_orphaned, daemon=True).start()
    os.environ.update(environment)
    while True:
        try:
            asked = connection.recv()
        except EOFError:
            return
        if asked is None:
            return
        function, arguments = asked
        # Whatever is raised belongs to the caller, who is in another process.
        try:
            for value in function(*arguments):
                connection.send(("value", value))
        except PersonaAssetsError as error:
            if error.__cause__ is not None:
                error.add_note(traceback.format_exc())  # a cause is not pickled with what it caused
            connection.send(("error", error))
        except Exception as error:  # noqa: BLE001
            unforeseen = UnforeseenError(f"{type(error).__name__}: {error}")
            unforeseen.add_note(traceback.format_exc())
            connection.send(("error", unforeseen))
        else:
            connection.send(("end", None))
