"""What the command line shows: progress while it works, tables at the end."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from persona_assets.cli.result import GATE_COLUMNS, Analysis, StudyResult, study_result
from persona_assets.progress import ProgressEvent, listen

if TYPE_CHECKING:
    from persona_assets.cli.deployment import Deployment
    from persona_assets.cli.standing import AssetStatus
    from persona_assets.study import Study

console = Console(width=None if sys.stdout.isatty() else 120)


def run_with_display(deployment: Deployment, study: Study, *, as_json: bool = False) -> None:
    """Run a study and the ancestors it needs, with progress, and print its result.

    Args:
        deployment: whose study.
        study: what to run.
        as_json: print the result as one JSON object; progress goes to the error output then.

    Raises:
        StudyRunError: a stage failed.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")  # bars of libraries, one for each model loaded, would tear ours apart
    shown = Console(stderr=True, width=None if sys.stderr.isatty() else 120) if as_json else console
    started = time.monotonic()
    worked = False
    with deployment.instance() as instance:
        for each in (*reversed(study.ancestors), study):
            worked |= _run_study(deployment, instance, each, shown)
    result = study_result(deployment, study)
    seconds = time.monotonic() - started
    if as_json:
        values = {**asdict(result), "worked": worked, "seconds": round(seconds, 1)}
        sys.stdout.write(json.dumps(values, default=str, indent=1, ensure_ascii=False) + "\n")
        return
    print_result(result)
    did = "finished" if worked else "unchanged: nothing to do"
    console.print(f"\n{study.name} {did}, {seconds:.0f} s")


def _run_study(deployment: Deployment, instance: object, study: Study, shown: Console) -> bool:
    from dagster import DagsterInstance

    from persona_assets.assets.partitions import shared_key
    from persona_assets.cli.running import plan_study, run_stage, stage_is_current, warehouse_is_current

    assert isinstance(instance, DagsterInstance)
    worked = False
    shown.rule(f"{deployment.catalog.profile.name} {study.name}: {len(study.panel)} personas")
    for stage in plan_study(deployment, study):
        publishes = stage.name == "analysis"
        if stage_is_current(deployment, instance, stage) and (not publishes or warehouse_is_current(deployment)):
            shown.print(f"[dim]{stage.name}: unchanged[/dim]")
            continue
        with _progress_bars(shown):
            extra = [shared_key(deployment.catalog.profile.name, "warehouse")] if publishes else []
            run_stage(deployment, instance, stage, extra, say=shown.print)
        worked = True
    return worked


@contextmanager
def _progress_bars(shown: Console) -> Iterator[None]:
    """One line for each asset: what runs, how many personas are done, time left."""
    columns = (
        SpinnerColumn(finished_text="[green]✓[/green]"),
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[now]}[/dim]"),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=shown) as bars:

        def show(event: ProgressEvent) -> None:
            if event.stage not in tasks:
                tasks[event.stage] = bars.add_task(event.stage, total=event.total, now="")
            bars.update(tasks[event.stage], completed=event.done, now=escape(_beside_the_bar(event)))

        stop = listen(show)
        try:
            yield
        finally:
            stop()


def _beside_the_bar(event: ProgressEvent) -> str:
    """Who was the last, what there is to say of it, and the time left; nothing once all went well."""
    if event.done == event.total and not event.note:
        return ""
    note = f" ({event.note})" if event.note else ""
    left = "" if event.seconds_left is None or event.done == event.total else f"  {event.seconds_left:.0f} s left"
    return f"{event.key}{note}{left}"


def print_result(result: StudyResult) -> None:
    """Print source rates, the largest |rho|, gates, bucket and confidence, and where to find the rest."""
    _print_rates(result.source_rates, result.confidence_level)
    if result.imported is not None:
        identity = result.imported["measurement_identity"]
        console.print(escape(f"Imported from {result.imported['source']}. Measurement identity: {identity}."))
        for each in result.imported["not_supported"]:
            console.print(f"[yellow]Not supported:[/yellow] {escape(each['what'])}: {escape(each['why'])}")
    if result.analysis is not None:
        _print_analysis(result.analysis)
    for line in result.outside:
        console.print(escape(line), soft_wrap=True)


def _print_analysis(found: Analysis) -> None:
    _print_gates(found.gates)
    if found.strongest is None:
        console.print("Largest |rho|: not estimable")
    else:
        strongest = found.strongest
        console.print(
            f"Largest |rho|: {strongest['rho']:+.3f} at layer {strongest['layer']} "
            f"(p {strongest['p']:.4f}, n {strongest['n']}; "
            f"significant at {strongest['n_layers_raw']} of {strongest['n_layers']} "
            f"layers raw, {strongest['n_layers_holm']} after Holm)"
        )
    note = f" ({found.drift['note']})" if found.drift["note"] else ""
    console.print(escape(f"Inherited drift: {found.drift['verdict']}{note}"))
    console.print(f"Bucket: [bold]{found.bucket}[/bold]   Confidence: [bold]{found.confidence}[/bold] ({escape(found.reasons)})")
    if found.plan_changes:
        console.print(f"[yellow]Changed since the first measurement:[/yellow] {escape(found.plan_changes)}")
    console.print(escape(f"Figures:   {found.figures}"), soft_wrap=True)
    console.print(escape(f"Warehouse: {found.warehouse}"), soft_wrap=True)


def _print_rates(rates: Sequence[Mapping[str, Any]], level: float) -> None:
    table = Table(title="Source rates", title_justify="left", box=None, padding=(0, 2))
    for name in ("persona", "category", "cohort"):
        table.add_column(name)
    for name in ("seed", "rate", f"{100 * level:g} % interval", "base rate"):
        table.add_column(name, justify="right")
    for row in rates:
        table.add_row(
            row["persona"],
            row["category"],
            row["cohort"],
            str(row["seed"]),
            f"{row['rate']:.2f}",
            f"{row['wilson_low']:.2f} to {row['wilson_high']:.2f}",
            "-" if row["base_rate"] is None else f"{row['base_rate']:.2f}",
        )
    console.print(table)


def _print_gates(gates: Sequence[Mapping[str, Any]]) -> None:
    table = Table(title="Gates", title_justify="left", box=None, padding=(0, 2))
    for name in GATE_COLUMNS:
        table.add_column(name, justify="left" if name in ("gate", "split", "passed") else "right")
    for row in gates:
        numbers = ["-" if row[name] is None else f"{row[name]:.3f}" for name in ("observed", "threshold", "p")]
        said = "[green]yes[/green]" if row["passed"] else "no"
        table.add_row(row["gate"], row["split"] or "-", str(row["layer"]), *numbers, str(row["n"]), said)
    console.print(table)


def print_status(rows: Sequence[AssetStatus]) -> None:
    """Print how many keys of each asset are done, missing, failed or stale."""
    table = Table(box=None, padding=(0, 2))
    table.add_column("study")
    table.add_column("asset")
    for name in ("done", "missing", "failed", "stale"):
        table.add_column(name, justify="right")
    styles = {"done": "green", "missing": "yellow", "failed": "red", "stale": "magenta"}
    last = None
    for row in rows:
        counts = [
            f"[{style}]{getattr(row, name)}[/{style}]" if getattr(row, name) else "[dim]0[/dim]" for name, style in styles.items()
        ]
        table.add_row(row.study if row.study != last else "", row.asset, *counts)
        last = row.study
    console.print(table)


def print_frame(frame: pl.DataFrame) -> None:
    """Print a query's rows; what is in brackets is text like any other, a marker above all."""
    table = Table(box=None, padding=(0, 2))
    for name, dtype in frame.schema.items():
        table.add_column(escape(name), justify="right" if dtype.is_numeric() else "left")
    for row in frame.rows():
        cells = ("" if value is None else f"{value:.4g}" if isinstance(value, float) else escape(str(value)) for value in row)
        table.add_row(*cells)
    console.print(table)
    console.print(f"[dim]{frame.height} row{'' if frame.height == 1 else 's'}[/dim]")
