"""Progress of long work: who is done, how many remain, how long it will take."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

LOGGER = logging.getLogger("persona_assets.progress")


@dataclass(frozen=True)
class ProgressEvent:
    """One step of a stage; `done` of `total` keys are finished, `key` was the last."""

    stage: str
    done: int
    total: int
    key: str
    note: str
    seconds_left: float | None

    @property
    def text(self) -> str:
        """For example `adapter 7/12 librarian, 41 s left`."""
        left = "" if self.seconds_left is None or self.done == self.total else f", {self.seconds_left:.0f} s left"
        note = f" ({self.note})" if self.note else ""
        return f"{self.stage} {self.done}/{self.total} {self.key}{note}{left}"


@dataclass
class Progress:
    """Counts the keys of one stage and says each one to a listener and to the log `persona_assets.progress`."""

    stage: str
    total: int
    say: Callable[[str], object] = LOGGER.info
    done: int = 0
    _worked: int = 0
    _started: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        """Announce the stage."""
        self._publish("", "start", None)

    def skipped(self, key: str) -> None:
        """Count a key that needed no work."""
        self.done += 1
        self._publish(key, "unchanged, skipped", None)

    def finished(self, key: str, note: str = "") -> None:
        """Count a key that was worked on; the time left comes from these alone."""
        self.done += 1
        self._worked += 1
        each = (time.monotonic() - self._started) / self._worked
        self._publish(key, note, each * (self.total - self.done))

    def _publish(self, key: str, note: str, seconds_left: float | None) -> None:
        event = ProgressEvent(self.stage, self.done, self.total, key, note, seconds_left)
        for listener in _listeners:
            listener(event)
        self.say(event.text)


_listeners: list[Callable[[ProgressEvent], None]] = []


def listen(listener: Callable[[ProgressEvent], None]) -> Callable[[], None]:
    """Have every progress event of this process passed to `listener`; call the returned function to stop."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)
