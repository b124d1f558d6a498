"""Where training and evaluation metrics are sent: nowhere, unless it is said where to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dagster import ConfigurableResource
from pydantic import Field

from persona_assets.errors import ConfigurationError
from persona_assets.tracking import FORM, TrackedRun, Tracking, parse_target, unsent_runs
from resources.lake import default_lake_root

TRACKER_VARIABLE = "PERSONA_TRACKER"
Log = Callable[[Callable[[], TrackedRun | None]], None]


def track_to() -> str:
    """Return where metrics go to, `PERSONA_TRACKER`; empty when nowhere."""
    text = os.environ.get(TRACKER_VARIABLE, "").strip()
    return "" if text == "none" else text


def default_directory() -> str:
    """Return where metrics wait that were not sent: beside the Dagster instance, or else in the lake."""
    return str(Path(os.environ.get("DAGSTER_HOME") or default_lake_root()) / "tracking")


def unsent_message() -> str | None:
    """Say what waits in the default directory; None when nothing does."""
    return unsent_runs(Path(default_directory()))


class Tracker(ConfigurableResource):  # type: ignore[type-arg]  # no resource value other than itself
    """Sends metrics to Weights & Biases when it is configured; a tracker that fails is said in the log and stops nothing."""

    target: str = Field(
        default_factory=track_to, description=f"{FORM}; empty tracks nothing. {TRACKER_VARIABLE} sets the default"
    )
    directory: str = Field(
        default_factory=default_directory, description="where metrics are kept that were not sent; `tracking` in DAGSTER_HOME"
    )

    @contextmanager
    def open(self, say: Callable[[str], object]) -> Iterator[Log]:
        """Track what is done inside.

        Args:
            say: told what was kept on disk and what went wrong.

        Yields:
            A function that takes what makes a run; nothing is made or imported when nothing is tracked.
        """
        if not self.target:
            yield lambda _: None
            return
        try:
            target = parse_target(self.target)
        except ConfigurationError as error:
            say(f"Nothing is tracked: {error} Set {TRACKER_VARIABLE}.")
            yield lambda _: None
            return
        offline = os.environ.get("WANDB_MODE", "").strip() in ("offline", "dryrun")
        tracking = Tracking(target, Path(self.directory), offline=offline, say=say)

        def log(make: Callable[[], TrackedRun | None]) -> None:
            try:
                run = make()
            except Exception as error:  # noqa: BLE001  # whatever it is, the work it describes is done and goes on
                say(f"Tracking: something was not tracked ({type(error).__name__}: {error}).")
                return
            if run is not None:
                tracking.log(run)

        try:
            yield log
        finally:
            tracking.close()
