"""The commands `estimate` and `doctor`: what they print."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from persona_assets.capacity.needs import gib
from persona_assets.cli.display import console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from persona_assets.capacity.doctor import Finding
    from persona_assets.capacity.estimate import Estimate

_STYLES = {"ok": "green", "warning": "yellow", "problem": "red"}


def estimate_values(name: str, found: Estimate) -> dict[str, object]:
    """Return an estimate as JSON values."""
    return {
        "study": name,
        "answer_tokens": found.answer_tokens,
        "stages": [asdict(row) for row in found.stages],
        "total": {
            "device_hours": found.total("device_seconds") / 3600,
            "wall_hours": found.total("wall_seconds") / 3600,
            "least_device_hours": found.total("least_seconds") / 3600,
            "disk_bytes": round(found.total("disk")),
        },
        "not_measured": list(found.not_measured),
        "assumptions": list(found.assumptions),
    }


def print_estimate(name: str, found: Estimate) -> None:
    """Print the stages, the total, and what the figures rest on."""
    table = Table(title=f"What is left to do of {name} and its ancestors", title_justify="left", box=None, padding=(0, 1))
    for column in ("study", "asset"):
        table.add_column(column, no_wrap=True)
    for column in ("missing", "tokens", "tokens/s", "device", "wall", "at least", "disk"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("speed from")
    for row in found.stages:
        table.add_row(
            row.study or "shared",
            row.asset,
            f"{row.missing} of {row.keys}",
            "" if row.tokens is None else f"{row.tokens:,}",
            "" if row.speed is None else f"{row.speed:,.0f}",
            _time(row.device_seconds),
            _time(row.wall_seconds),
            "" if row.least_seconds is None else _time(row.least_seconds),
            gib(row.disk) if row.disk else "",
            escape(row.source.split(":")[0].split(" on ")[0]),
        )
    console.print(table)
    missing = found.not_measured
    more = f" without {', '.join(missing)}, not measured" if missing else ""
    console.print(
        f"Total: device {_time(found.total('device_seconds'))}, wall {_time(found.total('wall_seconds'))}, "
        f"disk {gib(found.total('disk'))}{more}"
    )
    for sentence in found.assumptions:
        console.print(f"[dim]{escape(sentence)}[/dim]")


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def print_findings(findings: Sequence[Finding]) -> None:
    """Print each finding with what to do about it."""
    for finding in findings:
        level = f"[{_STYLES[finding.level]}]{finding.level:8}[/]"
        console.print(f"{level} {escape(finding.name)}: {escape(finding.found)}", highlight=False, soft_wrap=True)
        if finding.advice:
            console.print(f"         {escape(finding.advice)}", highlight=False, soft_wrap=True)
