"""What is missing in a table is missing in the picture, with its reason; the rest is a clear error."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from figure_tables import LAYERS, context, panel, tables

from persona_assets.reporting import figures
from persona_assets.reporting.figures import Drawing, FigureContext, FigureError, Provenance

pytestmark = pytest.mark.xdist_group("figures_absent")  # one worker: the tables are made once


def texts(drawing: Drawing) -> str:
    from matplotlib.text import Text

    return " | ".join(t.get_text() for t in drawing.figure.findobj(Text))


def without(frame: pl.DataFrame, condition: pl.Expr, *columns: str) -> pl.DataFrame:
    """Null the columns of the rows that meet the condition."""
    return frame.with_columns(pl.when(condition).then(None).otherwise(pl.col(c)).alias(c) for c in columns)


def marks(drawing: Drawing) -> list[tuple[float, float]]:
    return [
        (line.get_xdata()[0], line.get_ydata()[0])
        for line in drawing.figure.axes[0].lines
        if len(line.get_xdata()) == 1
    ]


@pytest.mark.parametrize("n", [12, 48])
def test_unmeasured_persona_is_left_out_and_named(n: int, tmp_path: Path) -> None:
    t, c = tables(n), context(n)
    gone = without(
        t.source_rates, pl.col("persona") == "villain", "hits", "n", "rate", "wilson_low", "wilson_high"
    )
    scatter = figures.source_rate_vs_cosine(gone, t.geometry, t.regressions, c, layer=15)
    assert len(scatter.numbers["points"]) == n - 1 == len(marks(scatter))
    assert scatter.numbers["absent"] == [{"persona": "villain", "note": "no source rate"}]
    assert "Not drawn: villain (no source rate)." in scatter.caption
    dots = figures.source_rates(gone, c)
    assert f"{n - 1} of {n} personas measured" in dots.caption and "villain (no source rate)" in dots.caption
    assert "not measured" in texts(dots) and "villain" in texts(dots)
    villain = [label.get_text() for label in dots.figure.axes[0].get_yticklabels()].index("villain")
    assert all(y != villain for _, y in marks(dots))
    json.loads(scatter.write(tmp_path).meta.read_text(encoding="utf-8"))
    # A NaN that slipped into a table is no measurement either.
    nan = t.source_rates.with_columns(
        pl.when(pl.col("persona") == "villain").then(float("nan")).otherwise(pl.col("rate")).alias("rate")
    )
    assert figures.source_rates(nan, c).numbers["not_measured"] == [
        {"persona": "villain", "note": "no source rate"}
    ]


@pytest.mark.parametrize("n", [12, 48])
def test_layer_without_estimate_is_a_gap(n: int) -> None:
    t = tables(n)
    bad = (pl.col("layer").is_in([3, 4])) & pl.col("statistic").is_in(["spearman", "spearman_holm"])
    gapped = without(t.regressions, bad, "estimate", "p", "low", "high").with_columns(
        pl.when(bad).then(pl.lit("not estimable: constant x")).otherwise(pl.col("note")).alias("note")
    )
    drawing = figures.spearman_by_layer(gapped, context(n))
    assert {x for x, _ in marks(drawing)} == set(range(LAYERS)) - {3, 4}
    assert "Not estimable (hatched) at layer 3, 4: constant x." in drawing.caption
    (line,) = [line for line in drawing.figure.axes[0].lines if len(line.get_xdata()) == LAYERS]
    assert [x for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True) if y != y] == [3, 4]
    nothing = without(
        gapped, pl.col("statistic").is_in(["spearman", "spearman_holm"]), "estimate", "p", "low", "high"
    )
    nothing = without(nothing, pl.col("statistic").is_in(["critical_rho", "holm_critical_rho"]), "estimate")
    empty = figures.spearman_by_layer(nothing, context(n))
    assert marks(empty) == [] and "not estimable at any layer" in texts(empty)
    assert "Not estimable (hatched) at every layer" not in drawing.caption
    assert empty.numbers["critical"] == {"critical_rho": None, "holm_critical_rho": None}
    assert empty.png()


def test_null_rho_is_said_not_drawn_as_zero() -> None:
    t = tables(12)
    chosen = (pl.col("layer") == 15) & (pl.col("family") == "scan") & (pl.col("statistic") == "spearman")
    null = without(t.regressions, chosen, "estimate", "p", "low", "high")
    drawing = figures.source_rate_vs_cosine(t.source_rates, t.geometry, null, context(12), layer=15)
    assert "ρ not estimable" in texts(drawing) and "ρ = " not in texts(drawing)
    assert "Spearman rho is not estimable: the table gives no reason." in drawing.caption


def test_category_with_too_few_personas_shows_its_points_and_the_reason() -> None:
    t = tables(12)
    drawing = figures.within_category(t.source_rates, t.geometry, t.regressions, context(12), layer=15)
    helper = drawing.numbers["categories"]["generic_helper"]
    assert len(helper["points"]) == 2 and helper["line"] is None and helper["spearman"]["estimate"] is None
    assert (
        "generic helper: Spearman rho is not estimable: 2 observations, at least 4 needed." in drawing.caption
    )
    large = tables(48)
    drawing = figures.within_category(
        large.source_rates, large.geometry, large.regressions, context(48), layer=15
    )
    assert all(
        p["persona"] != "i_am_helpful" for p in drawing.numbers["categories"]["generic_helper"]["points"]
    )
    assert "Left out by the plan: i_am_helpful." in drawing.caption


@pytest.mark.parametrize("n", [12, 48])
def test_cell_without_rate_is_hatched(n: int) -> None:
    t = tables(n)
    hole = (pl.col("source") == "villain") & (pl.col("eval_persona") == "comedian")
    nulled = figures.rate_heatmap(without(t.cells, hole, "rate", "hits", "n"), context(n))
    dropped = figures.rate_heatmap(t.cells.filter(~hole), context(n))
    order = nulled.numbers["order"]
    for drawing in (nulled, dropped):
        assert drawing.numbers["not_measured"] == [{"source": "villain", "eval_persona": "comedian"}]
        assert "Hatched: 1 cells without a rate." in drawing.caption and "not measured" in texts(drawing)
        image = drawing.figure.axes[0].images[0].get_array()
        assert image.mask.sum() == 1 and image.mask[order.index("villain"), order.index("comedian")]
    with pytest.raises(FigureError, match="no rate in any"):
        figures.rate_heatmap(without(t.cells, pl.lit(True), "rate", "hits", "n"), context(n))


def test_rates_of_several_seeds_are_averaged_and_said() -> None:
    t = tables(12, seeds=(1, 2, 3))
    drawing = figures.source_rates(t.source_rates, context(12))
    mean = t.source_rates.group_by("persona").agg(
        rate=pl.col("rate").mean(), low=pl.col("rate").min(), high=pl.col("rate").max()
    )
    expected = {r["persona"]: (pytest.approx(r["rate"]), r["low"], r["high"]) for r in mean.to_dicts()}
    assert {r["persona"]: (r["rate"], r["low"], r["high"]) for r in drawing.numbers["rows"]} == expected
    assert "mean over the training seeds 1, 2, 3; bars: their range" in drawing.caption
    missing = t.source_rates.filter(~((pl.col("persona") == "villain") & (pl.col("seed") == 2)))
    assert figures.source_rates(missing, context(12)).numbers["not_measured"] == [
        {"persona": "villain", "note": "no rate for training seed 2"}
    ]
    twice = pl.concat(
        [t.source_rates, t.source_rates.head(1).with_columns(measurement=pl.lit(2, dtype=pl.Int64))]
    )
    with pytest.raises(FigureError, match="twice"):
        figures.source_rates(twice, context(12))


def test_confounded_drift_is_stamped() -> None:
    t = tables(12)
    said = t.drift_tests.with_columns(verdict=pl.lit("confounded"))
    measured = t.inherited_drift.with_columns(same_identity=pl.lit(False))
    unknown = t.inherited_drift.with_columns(same_adapter=pl.lit(None, dtype=pl.Boolean))
    for rows, tests, why in (
        (t.inherited_drift, said, "measured differently"),
        (measured, t.drift_tests, "measured differently"),
        (unknown, said, "adapters may differ"),
    ):
        drawing = figures.drift(rows, tests, context(12))
        assert drawing.numbers["confounded"] is True
        assert "CONFOUNDED" in texts(drawing) and why in texts(drawing)
        assert "neither drift nor its absence" in drawing.caption
    assert "CONFOUNDED" not in texts(figures.drift(t.inherited_drift, t.drift_tests, context(12)))


def test_drift_counts_sources_ties_and_leaves_retrained_out() -> None:
    def row(persona: str, seed: int, before: float, now: float, same: bool = True) -> dict[str, object]:
        return {
            "persona": persona,
            "seed": seed,
            "rate_parent": before,
            "n_parent": 100,
            "rate_now": now,
            "n_now": 100,
            "delta": now - before,
            "p_two_proportion": 0.5,
            "same_adapter": same,
            "same_identity": True,
        }

    rows = pl.DataFrame(
        [
            row("librarian", 1, 0.30, 0.20),
            row("librarian", 2, 0.30, 0.36),  # mean delta -0.02: a drop
            row("villain", 1, 0.10, 0.30),
            row("villain", 2, 0.30, 0.10),  # mean delta 0 but for rounding: a tie
            row("comedian", 1, 0.2, 0.5),
            row("comedian", 2, 0.2, 0.5, same=False),  # only seed 1 is inherited
            row("french_person", 1, 0.9, 0.1, same=False),
        ]
    )
    drawing = figures.drift(rows, tables(12).drift_tests, context(12))
    assert drawing.numbers["counts"] == {"drop": 1, "increase": 1, "tie": 1}
    assert "1 drop, 1 tie, 1 increase among 3." in drawing.caption
    assert "not counted: comedian, french_person" in drawing.caption
    assert [s["persona"] for s in drawing.numbers["sources"]] == ["librarian", "villain", "comedian"]
    assert "retrained, not inherited" in texts(drawing)
    unmeasured = without(rows, pl.col("persona") == "villain", "rate_now", "delta")
    drawing = figures.drift(unmeasured, tables(12).drift_tests, context(12))
    assert drawing.numbers["counts"] == {
        "drop": 1,
        "increase": 1,
        "tie": 0,
    } and "not measured in both studies" in texts(drawing)
    with pytest.raises(FigureError, match="not rate_now - rate_parent"):
        figures.drift(rows.with_columns(delta=-pl.col("delta")), tables(12).drift_tests, context(12))


def test_empty_or_foreign_tables_are_refused() -> None:
    t, c = tables(12), context(12)
    with pytest.raises(FigureError, match="source_rates has no rows"):
        figures.source_rates(t.source_rates.clear(), c)
    with pytest.raises(FigureError, match="cells has no rows"):
        figures.rate_heatmap(t.cells.clear(), c)
    with pytest.raises(FigureError, match="geometry has no rows"):
        figures.source_rate_vs_cosine(t.source_rates, t.geometry.clear(), t.regressions, c, layer=15)
    with pytest.raises(FigureError, match="regressions has no rows"):
        figures.spearman_by_layer(t.regressions.clear(), c)
    with pytest.raises(FigureError, match="inherited_drift has no rows"):
        figures.drift(t.inherited_drift.clear(), t.drift_tests, c)
    with pytest.raises(FigureError, match=r"layer = 99.*there are \[0, 1"):
        figures.source_rate_vs_cosine(t.source_rates, t.geometry, t.regressions, c, layer=99)
    with pytest.raises(FigureError, match=r"lacks the columns \['wilson_low'\]"):
        figures.source_rates(t.source_rates.drop("wilson_low"), c)
    with pytest.raises(FigureError, match="not in the panel of n12"):
        figures.source_rates(tables(48).source_rates, c)
    with pytest.raises(FigureError, match="2 rows for"):
        figures.source_rate_vs_cosine(
            t.source_rates, t.geometry, pl.concat([t.regressions, t.regressions]), c, layer=15
        )
    with pytest.raises(FigureError, match="cell of kind 'self'"):
        figures.rate_heatmap(t.cells.with_columns(kind=pl.lit("self")), c)
    with pytest.raises(FigureError, match="infin|inf"):
        figures.source_rates(t.source_rates.with_columns(rate=pl.lit(float("inf"))), c)


def test_loss_curve_keeps_gaps_and_refuses_nonsense() -> None:
    origin = Provenance("embedded", "embedded/adapter", "abc")
    drawing = figures.loss_curve(
        pl.DataFrame({"step": [1, 2, 3], "loss": [2.0, None, 1.0]}), origin, persona="villain", seed=7
    )
    drawn = drawing.figure.axes[0].lines[0].get_ydata()
    assert drawn[0] == 2.0 and drawn[1] != drawn[1] and drawn[2] == 1.0
    assert drawing.numbers["steps"][1] == {"step": 2, "loss": None}
    with pytest.raises(FigureError, match="no loss at any"):
        figures.loss_curve(
            pl.DataFrame({"step": [1], "loss": [None]}, schema={"step": pl.Int64, "loss": pl.Float64}),
            origin,
            persona="villain",
            seed=7,
        )
    with pytest.raises(FigureError, match="a step twice"):
        figures.loss_curve(
            pl.DataFrame({"step": [1, 1], "loss": [2.0, 1.0]}), origin, persona="villain", seed=7
        )


def test_context_refuses_a_panel_it_cannot_draw() -> None:
    good = context(12)
    facts = {f: getattr(good, f) for f in good.__dataclass_fields__}
    for field, value, message in (
        ("data_version", "", "data_version"),
        ("anchor", "nobody", "not in the panel"),
        ("alpha", 5.0, "alpha"),
        ("panel", (*good.panel, "villain"), "twice"),
        ("categories", {**panel(12), "villain": "monster"}, "monster"),
    ):
        with pytest.raises(FigureError, match=message):
            FigureContext(**{**facts, field: value})


def test_a_rate_without_interval_is_an_error_not_a_bare_point() -> None:
    t = tables(12)
    with pytest.raises(FigureError, match="no Wilson interval"):
        figures.source_rates(
            without(t.source_rates, pl.col("persona") == "villain", "wilson_low"), context(12)
        )
