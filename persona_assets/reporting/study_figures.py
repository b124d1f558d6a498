"""All figures of a study, from its tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from persona_assets.reporting import figures
from persona_assets.statistics.remeasurement import comparisons

if TYPE_CHECKING:
    from persona_assets.reporting.figures import Drawing, WrittenFigure
    from persona_assets.study import Study


def draw_study(
    study: Study,
    tables: Mapping[str, pl.DataFrame],
    directory: Path,
    *,
    asset: str,
    data_version: str,
    ancestors: Mapping[str, Mapping[str, pl.DataFrame]],
) -> list[WrittenFigure]:
    """Draw and write every figure that the study's tables support.

    Args:
        study: the pre-registered study.
        tables: every table of the study, by name.
        directory: where the files go.
        asset: key of the asset that publishes them.
        data_version: of the tables.
        ancestors: tables of each ancestor, by study.

    Returns:
        The written figures, in the order of the story.
    """
    context = figures.FigureContext.from_study(study, asset=asset, data_version=data_version)
    rates, geometry, regressions = tables["source_rates"], tables["geometry"], tables["regressions"]
    cells = tables["cells"]
    if study.imported is not None:  # it may have been evaluated under personas that are no source
        cells = cells.filter(pl.col("eval_persona").is_in(list(study.panel.ids)))
    layers = study.analysis.primary_layers
    between = "off_diagonal" in tables
    drawings: list[Drawing] = [
        figures.power(tables["power"], context),
        figures.source_rates(rates, context),
        *([figures.rate_heatmap(cells, context)] if between else []),
        *figures.source_rate_vs_cosine_figures(rates, geometry, regressions, context),
        figures.spearman_by_layer(regressions, context),
        *(figures.within_category(rates, geometry, regressions, context, layer=layer) for layer in layers),
        figures.cv_error_by_layer(regressions, context),
        figures.surface_baselines(regressions, context),
    ]
    if between:
        pairs = (cells, tables["pairwise_cosines"], tables["off_diagonal"])
        drawings += [figures.off_diagonal(*pairs, context, layer=layer) for layer in layers]
    scores = tables["source_scores"]
    if scores["marker_log_prob"].count():
        drawings += [
            *(figures.continuous_vs_cosine(scores, geometry, regressions, context, layer=layer) for layer in layers),
            figures.rate_vs_log_prob(scores, regressions, context),
        ]
    if again := comparisons(tables["remeasurement_drift"], tables["remeasurement_tests"]):
        drawings += [figures.drift(*compared, context, figures.MEASUREMENTS[name]) for name, compared in again.items()]
        drawings.append(figures.drift_counts(again, context, figures.MEASUREMENTS))
    # A study without a parent inherited nothing and has no lineage; an empty picture would say "no drift" or
    # "no attenuation" where nothing was compared.
    if study.parent is not None:
        # An imported ancestor can have rates and nothing else.
        earlier = {each.name: ancestors[each.name] for each in reversed(study.ancestors)}
        lineage = {name: own for name, own in earlier.items() if "regressions" in own} | {study.name: tables}
        drifts = {
            name: (own["inherited_drift"], own["drift_tests"]) for name, own in lineage.items() if own["inherited_drift"].height
        }
        drawings += [
            figures.drift(tables["inherited_drift"], tables["drift_tests"], context),
            figures.drift_counts(drifts, context),
            figures.attenuation(tables["attenuation"], context),
            figures.length_partial({name: own["regressions"] for name, own in lineage.items()}, context),
        ]
    return [drawing.write(directory) for drawing in drawings]
