"""All figures of a study, from its tables; several processes can share the drawing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from persona_assets.reporting import figures
from persona_assets.statistics.remeasurement import comparisons

if TYPE_CHECKING:
    from persona_assets.reporting.figures import Drawing
    from persona_assets.study import Study


Drawer = Callable[[], "Drawing"]


@dataclass(frozen=True)
class FiguresTask:
    """Draw every `parts`-th figure of a study, beginning with number `part`.

    Attributes:
        out_dir: where the files go.
        study: the pre-registered study.
        tables: every table by name, of the study and of each of its ancestors.
        asset: key of the asset that publishes the figures.
        data_version: of the tables.
        part: number of the first figure, from 0.
        parts: how many tasks share the figures.
    """

    out_dir: Path
    study: Study
    tables: Mapping[str, Mapping[str, pl.DataFrame]]
    asset: str
    data_version: str
    part: int = 0
    parts: int = 1


def draw_figures(task: FiguresTask) -> dict[int, str]:
    """Draw and write a task's figures.

    Returns:
        Name of each written figure, by its number in the order of the story.
    """
    context = figures.FigureContext.from_study(task.study, asset=task.asset, data_version=task.data_version)
    every = enumerate(drawers(task.study, task.tables, context))
    own = {number: draw for number, draw in every if number % task.parts == task.part}
    return {number: draw().write(task.out_dir).name for number, draw in own.items()}


def drawers(
    study: Study, lineage_tables: Mapping[str, Mapping[str, pl.DataFrame]], context: figures.FigureContext
) -> list[Drawer]:
    """List how to draw every figure that a study's tables support, in the order of the story.

    Args:
        study: the pre-registered study.
        lineage_tables: every table by name, of the study and of each of its ancestors.
        context: what every figure says of its study.
    """
    tables = lineage_tables[study.name]
    rates, geometry, regressions = tables["source_rates"], tables["geometry"], tables["regressions"]
    cells = tables["cells"]
    if study.imported is not None:  # it may have been evaluated under personas that are no source
        cells = cells.filter(pl.col("eval_persona").is_in(list(study.panel.ids)))
    layers = study.analysis.primary_layers
    between = "off_diagonal" in tables
    drawn: list[Drawer] = [
        partial(figures.power, tables["power"], context),
        partial(figures.source_rates, rates, context),
        *([partial(figures.rate_heatmap, cells, context)] if between else []),
        *(partial(figures.source_rate_vs_cosine, rates, geometry, regressions, context, layer=layer) for layer in layers),
        partial(figures.spearman_by_layer, regressions, context),
        *(partial(figures.within_category, rates, geometry, regressions, context, layer=layer) for layer in layers),
        partial(figures.cv_error_by_layer, regressions, context),
        partial(figures.surface_baselines, regressions, context),
    ]
    if between:
        pairs = (cells, tables["pairwise_cosines"], tables["off_diagonal"])
        drawn += [partial(figures.off_diagonal, *pairs, context, layer=layer) for layer in layers]
    scores = tables["source_scores"]
    if scores["marker_log_prob"].count():
        drawn += [
            *(partial(figures.continuous_vs_cosine, scores, geometry, regressions, context, layer=layer) for layer in layers),
            partial(figures.rate_vs_log_prob, scores, regressions, context),
        ]
    if again := comparisons(tables["remeasurement_drift"], tables["remeasurement_tests"]):
        drawn += [partial(figures.drift, *compared, context, figures.MEASUREMENTS[name]) for name, compared in again.items()]
        drawn.append(partial(figures.drift_counts, again, context, figures.MEASUREMENTS))
    # A study without a parent inherited nothing and has no lineage; an empty picture would say "no drift" or
    # "no attenuation" where nothing was compared.
    if study.parent is not None:
        # An imported ancestor can have rates and nothing else.
        earlier = {each.name: lineage_tables[each.name] for each in reversed(study.ancestors)}
        lineage = {name: own for name, own in earlier.items() if "regressions" in own} | {study.name: tables}
        drifts = {
            name: (own["inherited_drift"], own["drift_tests"]) for name, own in lineage.items() if own["inherited_drift"].height
        }
        drawn += [
            partial(figures.drift, tables["inherited_drift"], tables["drift_tests"], context),
            partial(figures.drift_counts, drifts, context),
            partial(figures.attenuation, tables["attenuation"], context),
            partial(figures.length_partial, {name: own["regressions"] for name, own in lineage.items()}, context),
        ]
    return drawn
