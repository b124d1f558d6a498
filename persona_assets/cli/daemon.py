"""Dagster's daemon, for a person who waits in front of the UI: a backfill that was launched begins within seconds.

Run as `python -m persona_assets.cli.daemon`, with the arguments of `dagster-daemon`; `persona-assets ui` does.
"""

from __future__ import annotations

from dagster._daemon import controller

BACKFILL_SECONDS = 3


def main() -> None:
    """Run Dagster's own command line with this pause between two looks at the backfills, in place of its 30 s."""
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = BACKFILL_SECONDS  # no setting of the instance reaches it
    from dagster._daemon.cli import main as run

    run()


if __name__ == "__main__":
    main()
