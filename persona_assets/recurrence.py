"""When a study is evaluated again: cron texts, and the names of the periods they divide time into."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from croniter import croniter
from pydantic import AfterValidator

EVERY_MONDAY = "0 6 * * 1"
_FIELDS = ("minute", "hour", "day of month", "month", "day of week")


def checked_cron(text: str) -> str:
    """Return a cron text as it is.

    Raises:
        ValueError: it is none, or names a day that never comes; the message says what is expected.
    """
    expected = f"expected five fields ({', '.join(_FIELDS)}), such as {EVERY_MONDAY!r} for Mondays at six, UTC"
    if len(text.split()) != len(_FIELDS) or not croniter.is_valid(text):
        raise ValueError(f"{text!r} is no cron text: {expected}")
    try:
        croniter(text, datetime(2024, 1, 1)).get_next(datetime)
    except ValueError as error:  # croniter's own errors are of this kind
        raise ValueError(f"{text!r} names a time that never comes: {expected}") from error
    return text


Cron = Annotated[str, AfterValidator(checked_cron)]


def period(cron: str, tick: datetime) -> str:
    """Name the period that a tick of a cron text begins: the ISO week, as `2026-W48`.

    A cron text that ticks more than once in a week gives later ticks of the week the time as well, so that each has a name
    of its own.
    """
    before = croniter(cron, tick).get_prev(datetime)
    week = _week(tick)
    return week if _week(before) != week else f"{week}-{tick:%a-%H%M}"


def _week(time: datetime) -> str:
    year, week, _ = time.isocalendar()
    return f"{year}-W{week:02d}"
