"""Training and evaluation metrics, sent to a tracker beside the work: it never waits for them, and never fails with them.

What is sent is read off products that are in the lake already. The SDK runs in a guarded process, fed by a thread; when its
server does not take the metrics they are kept on disk, in the form that `wandb sync` sends later.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from persona_assets.errors import ConfigurationError, PersonaAssetsError
from persona_assets.guarded import GuardedProcess
from persona_assets.wandb_process import explain, wandb_process

FORM = "wandb:ENTITY/PROJECT or wandb:PROJECT"
_SECONDS = 120.0
_INIT_SECONDS = 30

Value = float | int | str


@dataclass(frozen=True)
class TrackedRun:
    """One training or evaluation.

    Attributes:
        key: unique; sending the same key again replaces what was sent.
        name: what people read.
        group: profile or study that it belongs to.
        job: what was done.
        config: plain JSON values that it was done with.
        history: one row of metrics for each step, from step 1.
        summary: metrics of the whole.
    """

    key: str
    name: str
    group: str
    job: str
    config: Mapping[str, object]
    history: Sequence[Mapping[str, Value]]
    summary: Mapping[str, Value]


@dataclass(frozen=True)
class WandbTarget:
    """A project on Weights & Biases; no entity means the account's own."""

    entity: str | None
    project: str


class TrackingError(PersonaAssetsError):
    """The tracker's server does not take metrics."""


def parse_target(text: str) -> WandbTarget:
    """Read where metrics go to.

    Raises:
        ConfigurationError: it names no project.
    """
    scheme, _, place = text.partition(":")
    parts = place.split("/")
    if scheme != "wandb" or not 1 <= len(parts) <= 2 or not all(parts):
        raise ConfigurationError(f"{text!r} names no tracker: expected {FORM}.")
    return WandbTarget(parts[0] if len(parts) == 2 else None, parts[-1])


class Tracking:
    """Sends runs to Weights & Biases in the background, in the order in which they came."""

    def __init__(
        self, target: WandbTarget, directory: Path, *, offline: bool, say: Callable[[str], object], seconds: float = _SECONDS
    ) -> None:
        """Start the thread; the SDK starts with the first run.

        Args:
            target: where to.
            directory: where the SDK keeps what it has not sent.
            offline: send nothing, keep everything.
            say: told by `log` and `close`, in their thread, what happened meanwhile.
            seconds: the longest wait for one run, and for all that is left in the end.
        """
        self._target, self._directory, self._offline, self._say, self._seconds = target, directory, offline, say, seconds
        self._waiting: queue.SimpleQueue[TrackedRun | None] = queue.SimpleQueue()
        self._happened: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._logged = self._sent = self._kept = 0
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def log(self, run: TrackedRun) -> None:
        """Queue a run; returns at once."""
        self._logged += 1
        self._waiting.put(run)
        self._tell()

    def close(self) -> None:
        """Wait for what is queued, but not for ever, and say how it ended."""
        self._waiting.put(None)
        self._thread.join(self._seconds)
        self._tell()
        if self._kept and (waiting := unsent_runs(self._directory)):
            self._say(waiting)
        lost = self._logged - self._sent - self._kept
        if lost:
            late = f" within {self._seconds:.0f} s" if self._thread.is_alive() else ""
            self._say(f"Tracking: {lost} of {self._logged} runs were not tracked{late}.")

    def _tell(self) -> None:
        while not self._happened.empty():
            self._say(self._happened.get())

    def _work(self) -> None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with wandb_process(self._directory, retries=1) as process:
                self._send_all(process)
        except OSError as error:
            self._happened.put(f"Tracking: {self._directory} cannot be used ({error}).")

    def _send_all(self, process: GuardedProcess) -> None:
        offline = self._offline
        while (run := self._waiting.get()) is not None:
            reason = None if offline else self._send(process, run, offline=False)
            if not offline and reason is None:
                self._sent += 1
                continue
            if not offline:
                offline = True
                self._happened.put(f"Tracking: {reason} From here on the metrics are kept on disk; the work goes on.")
            reason = self._send(process, run, offline=True)
            if reason is None:
                self._kept += 1
            else:
                self._happened.put(f"Tracking: {run.name} was not tracked: {reason}")

    def _send(self, process: GuardedProcess, run: TrackedRun, *, offline: bool) -> str | None:
        """Send or keep a run; returns why it could not be done."""
        try:
            process.call(send, self._target, run, offline, seconds=self._seconds)
        except PersonaAssetsError as error:
            return str(error) if isinstance(error, TrackingError) else f"the SDK of W&B: {error}."
        return None


def unsent_runs(directory: Path) -> str | None:
    """Say how many runs wait in a directory and how to send them; None when there is none."""
    runs = directory / "wandb"
    waiting = [each for each in runs.glob("offline-run-*") if not list(each.glob("*.synced"))]
    if not waiting:
        return None
    are = "1 run is" if len(waiting) == 1 else f"{len(waiting)} runs are"
    return f"Tracking: {are} kept in {runs}. Send with: wandb sync {runs}/offline-run-*"


def send(target: WandbTarget, run: TrackedRun, offline: bool) -> None:
    """Log a run as a whole; this runs in the guarded process.

    Raises:
        TrackingError: the server does not take it.
    """
    import wandb

    try:
        if not offline:
            _check_key()
        logged = wandb.init(
            entity=target.entity,
            project=target.project,
            id=run.key,
            name=run.name,
            group=run.group,
            job_type=run.job,
            config=dict(run.config),
            mode="offline" if offline else "online",
            reinit="create_new",
            settings=wandb.Settings(init_timeout=_INIT_SECONDS),
        )
        for step, row in enumerate(run.history, start=1):
            logged.log(dict(row), step=step)
        logged.summary.update(dict(run.summary))
        logged.finish()
    except Exception as error:
        raise TrackingError(f"{explain(error)[0]}.") from error


@cache
def _check_key() -> None:
    """Ask the server once whether it knows the key: a run that starts does not tell that from other refusals."""
    import wandb

    wandb.Api(timeout=_INIT_SECONDS)
