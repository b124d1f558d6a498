"""What the command line shows: progress while it works, tables at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import polars as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from persona_assets.cli.outside import outside_lines
from persona_assets.progress import ProgressEvent, listen

if TYPE_CHECKING:
    from persona_assets.cli.deployment import Deployment
    from persona_assets.cli.standing import AssetStatus
    from persona_assets.study import Study

console = Console(width=None if sys.stdout.isatty() else 120)


def run_with_display(deployment: Deployment, study: Study) -> None:
    """Run a study and the ancestors it needs, with progress, and print its result.

    Raises:
        StudyRunError: a stage failed.
    """
    started = time.monotonic()
    worked = False
    with deployment.instance() as instance:
        for each in (*reversed(study.ancestors), study):
            worked |= _run_study(deployment, instance, each)
    print_result(deployment, study)
    for line in outside_lines(deployment, study):
        console.print(line, soft_wrap=True)
    did = "finished" if worked else "unchanged: nothing to do"
    console.print(f"\n{study.name} {did}, {time.monotonic() - started:.0f} s")


def _run_study(deployment: Deployment, instance: object, study: Study) -> bool:
    from dagster import DagsterInstance

    from persona_assets.assets.partitions import shared_key
    from persona_assets.cli.running import plan_study, run_stage, stage_is_current, warehouse_is_current

    assert isinstance(instance, DagsterInstance)
    worked = False
    console.rule(f"{deployment.catalog.profile.name} {study.name}: {len(study.panel)} personas")
    for stage in plan_study(deployment, study):
        publishes = stage.name == "analysis"
        if stage_is_current(deployment, instance, stage) and (not publishes or warehouse_is_current(deployment)):
            console.print(f"[dim]{stage.name}: unchanged[/dim]")
            continue
        with _progress_bars():
            extra = [shared_key(deployment.catalog.profile.name, "warehouse")] if publishes else []
            run_stage(deployment, instance, stage, extra, say=console.print)
        worked = True
    return worked


@contextmanager
def _progress_bars() -> Iterator[None]:
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
    with Progress(*columns, console=console) as bars:

        def show(event: ProgressEvent) -> None:
            if event.stage not in tasks:
                tasks[event.stage] = bars.add_task(event.stage, total=event.total, now="")
            left = "" if event.seconds_left is None or event.done == event.total else f"  {event.seconds_left:.0f} s left"
            note = f" ({event.note})" if event.note else ""
            now = "" if event.done == event.total and not event.note else f"{event.key}{note}{left}"
            bars.update(tasks[event.stage], completed=event.done, now=now)

        stop = listen(show)
        try:
            yield
        finally:
            stop()


def print_result(deployment: Deployment, study: Study) -> None:
    """Print source rates, the largest |rho|, gates, bucket and confidence, and where to find the rest."""
    from persona_assets.assets.products import analysed
    from resources.lake import Lake
    from resources.warehouse import Warehouse

    products, warehouse = deployment.products, Warehouse(lake=Lake())
    rates = warehouse.table(products.source_rates(study).path, "source_rates")
    _print_rates(rates)
    if study.imported is not None:
        console.print(f"Imported from {study.imported.source}. Measurement identity: {study.imported.identity_sentence}.")
        for each in study.imported.not_supported:
            console.print(f"[yellow]Not supported:[/yellow] {each.what}: {each.why}")
    if not analysed(study):
        return
    gates = warehouse.table(products.gates(study).path, "gates").filter("registered")
    outcome = warehouse.table(products.gates(study).path, "outcome").row(0, named=True)
    drift = warehouse.table(products.inherited_drift(study).path, "drift_tests").filter("registered").row(0, named=True)
    _print_gates(gates)
    if outcome["strongest_rho"] is None:
        console.print("Largest |rho|: not estimable")
    else:
        console.print(
            f"Largest |rho|: {outcome['strongest_rho']:+.3f} at layer {outcome['strongest_layer']} "
            f"(p {outcome['strongest_p']:.4f}, n {outcome['n']}; "
            f"significant at {outcome['n_layers_raw']} of {outcome['n_layers']} "
            f"layers raw, {outcome['n_layers_holm']} after Holm)"
        )
    console.print(f"Inherited drift: {drift['verdict']}" + (f" ({drift['note']})" if drift["note"] else ""))
    console.print(
        f"Bucket: [bold]{outcome['bucket']}[/bold]   Confidence: [bold]{outcome['confidence']}[/bold] ({outcome['reasons']})"
    )
    if outcome["plan_changes"]:
        console.print(f"[yellow]Changed since the first measurement:[/yellow] {outcome['plan_changes']}")
    store = products.store
    console.print(f"Figures:   {store.directory(products.figures(study).path)}", soft_wrap=True)
    console.print(f"Warehouse: {warehouse.file(deployment.catalog.profile.name)}", soft_wrap=True)


def _print_rates(rates: pl.DataFrame) -> None:
    table = Table(title="Source rates", title_justify="left", box=None, padding=(0, 2))
    for name in ("persona", "category", "cohort"):
        table.add_column(name)
    for name in ("seed", "rate", "95 % interval", "base rate"):
        table.add_column(name, justify="right")
    for row in rates.to_dicts():
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


def _print_gates(gates: pl.DataFrame) -> None:
    table = Table(title="Gates", title_justify="left", box=None, padding=(0, 2))
    for name in ("gate", "split", "layer", "observed", "threshold", "p", "n", "passed"):
        table.add_column(name, justify="left" if name in ("gate", "split", "passed") else "right")
    for row in gates.to_dicts():
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
    """Print a query's rows."""
    table = Table(box=None, padding=(0, 2))
    for name, dtype in frame.schema.items():
        table.add_column(name, justify="right" if dtype.is_numeric() else "left")
    for row in frame.rows():
        table.add_row(*("" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value) for value in row))
    console.print(table)
    console.print(f"[dim]{frame.height} rows[/dim]")
