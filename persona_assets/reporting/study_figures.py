"""All figures of a study, from its tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from persona_assets.reporting import figures

if TYPE_CHECKING:
    import polars as pl

    from persona_assets.reporting.figures import Drawing, WrittenFigure
    from persona_assets.study import Study


def draw_study(
    study: Study, tables: Mapping[str, pl.DataFrame], directory: Path, *, asset: str, data_version: str
) -> list[WrittenFigure]:
    """Draw and write every figure that the study's tables support.

    Args:
        study: the pre-registered study.
        tables: `cells`, `source_rates`, `geometry`, `regressions`, `inherited_drift`, `drift_tests`, by name.
        directory: where the files go.
        asset: key of the asset that publishes them.
        data_version: of the tables.

    Returns:
        The written figures, in the order of the story.
    """
    context = figures.FigureContext.from_study(study, asset=asset, data_version=data_version)
    rates, geometry, regressions = tables["source_rates"], tables["geometry"], tables["regressions"]
    drawings: list[Drawing] = [
        figures.source_rates(rates, context),
        figures.rate_heatmap(tables["cells"], context),
        *figures.source_rate_vs_cosine_figures(rates, geometry, regressions, context),
        figures.spearman_by_layer(regressions, context),
    ]
    # A study without a parent inherited nothing; an empty picture would say "no drift" where nothing was compared.
    if tables["inherited_drift"].height:
        drawings.append(figures.drift(tables["inherited_drift"], tables["drift_tests"], context))
    return [drawing.write(directory) for drawing in drawings]
