"""The figures of the statistics tables: numbers, limits, nulls and refusals, on small and large panels."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from figure_tables import LAYERS, attenuation_table, context, tables

from persona_assets.reporting import figures
from persona_assets.reporting.figures import Drawing, FigureError

pytestmark = pytest.mark.xdist_group("figures_statistics")  # one worker: the tables are made once

LINEAGE = {12: (12,), 48: (12, 24, 48)}


def draw_all(n: int) -> dict[str, Drawing]:
    t, c, lineage = tables(n), context(n), LINEAGE[n]
    drawings = [
        figures.cv_error_by_layer(t.regressions, c),
        figures.surface_baselines(t.regressions, c),
        figures.off_diagonal(t.cells, t.pairwise_cosines, t.off_diagonal, c, layer=15),
        figures.attenuation(attenuation_table(lineage), c),
        figures.length_partial({f"n{k}": tables(k).regressions for k in lineage}, c),
        figures.drift_counts({f"n{k}": (tables(k).inherited_drift, tables(k).drift_tests) for k in lineage}, c),
        figures.power(t.power, c),
    ]
    return {d.name: d for d in drawings}


@pytest.fixture(scope="module", params=[12, 48])
def drawn(request: pytest.FixtureRequest) -> tuple[int, dict[str, Drawing]]:
    return request.param, draw_all(request.param)


def texts(drawing: Drawing) -> str:
    from matplotlib.text import Text

    return " | ".join(t.get_text() for t in drawing.figure.findobj(Text))


def nulled(frame: pl.DataFrame, condition: pl.Expr, note: str) -> pl.DataFrame:
    """Make rows not estimable: no numbers, a note."""
    columns = ("estimate", "p", "low", "high")
    gone = [pl.when(condition).then(None).otherwise(pl.col(c)).alias(c) for c in columns]
    return frame.with_columns(*gone, pl.when(condition).then(pl.lit(note)).otherwise(pl.col("note")).alias("note"))


def test_files_keep_the_limits(drawn: tuple[int, dict[str, Drawing]], tmp_path: Path) -> None:
    from matplotlib.text import Text

    _, drawings = drawn
    assert len(drawings) == 7
    for name, drawing in drawings.items():
        written = drawing.write(tmp_path)
        png = written.png.read_bytes()
        assert 600 <= int.from_bytes(png[16:20], "big") <= 1000, name
        assert len(png) < 300_000, name
        meta = json.loads(written.meta.read_text(encoding="utf-8"))
        assert meta["numbers"] == json.loads(json.dumps(drawing.numbers)), name
        assert min(t.get_fontsize() for t in drawing.figure.findobj(Text) if t.get_text().strip()) >= 7, name
        used, (width, height) = drawing.figure.get_tightbbox(), drawing.figure.get_size_inches()
        assert min(used.x0, used.y0) >= -0.01, name
        assert max(used.x1 - width, used.y1 - height) <= 0.01, name


def test_bytes_do_not_change_between_renderings(drawn: tuple[int, dict[str, Drawing]], tmp_path: Path) -> None:
    n, drawings = drawn
    again = draw_all(n)
    for name, drawing in drawings.items():
        first, second = drawing.write(tmp_path / "a"), again[name].write(tmp_path / "b")
        for one, other in ((first.png, second.png), (first.pdf, second.pdf), (first.meta, second.meta)):
            assert one.read_bytes() == other.read_bytes(), one.name


def test_captions_name_the_layer(drawn: tuple[int, dict[str, Drawing]]) -> None:
    for name in ("cv_error_by_layer", "surface_baselines", "off_diagonal_layer15", "attenuation", "length_partial"):
        assert "layer" in drawn[1][name].caption and "15" in drawn[1][name].caption, name


def test_cross_validation_numbers(drawn: tuple[int, dict[str, Drawing]]) -> None:
    n, drawings = drawn
    numbers = drawings["cv_error_by_layer"].numbers
    own = tables(n).regressions.filter(family="cross_validation")
    for kind in ("kfold", "loo"):
        table = own.filter(statistic=f"{kind}_mse").sort("layer")
        assert numbers["series"][kind] == table.to_dicts() and table.height == LAYERS
        best = table.sort("estimate").row(0, named=True)
        assert numbers["best"][kind]["layer"] == best["layer"]
        assert f"{best['estimate']:.4f} at layer {best['layer']}" in drawings["cv_error_by_layer"].caption
    assert f"at the layers 0 to {LAYERS - 1}, study" in drawings["cv_error_by_layer"].caption
    r2 = own.filter(statistic="nested_r2")["estimate"].item()
    assert f"R2 = {r2:.3f}" in drawings["cv_error_by_layer"].caption


def test_cross_validation_without_estimate() -> None:
    t, c = tables(12), context(12)
    own = pl.col("family") == "cross_validation"
    few = t.regressions.filter(own & pl.col("statistic").is_in(["nested_mse", "nested_r2"]))
    layerless = few.with_columns(statistic=pl.Series(["kfold_mse", "loo_mse"]))
    drawing = figures.cv_error_by_layer(nulled(layerless, pl.lit(True), "not estimable: 5 personas, at least 10 needed"), c)
    assert "5 personas, at least 10 needed" in texts(drawing) and "Not estimable: 5 personas" in drawing.caption
    assert all(len(line.get_xdata()) == 0 for line in drawing.figure.axes[0].lines)
    gap = own & (pl.col("layer") == 7) & pl.col("statistic").is_in(["kfold_mse", "loo_mse"])
    drawing = figures.cv_error_by_layer(nulled(t.regressions, gap, "not estimable: constant cosine"), c)
    assert "at layer 7: constant cosine" in drawing.caption
    for line in drawing.figure.axes[0].lines:
        if len(line.get_xdata()) == LAYERS:
            assert [i for i, y in enumerate(line.get_ydata()) if y != y] == [7]


def test_baseline_numbers(drawn: tuple[int, dict[str, Drawing]]) -> None:
    n, drawings = drawn
    numbers = drawings["surface_baselines"].numbers
    table = tables(n).regressions
    assert numbers["surface"] == table.filter(family="baselines", statistic="spearman").to_dicts()
    assert [r["layer"] for r in numbers["cosine"]] == [15, 12]
    mrr = {(r["layer"], r["predictor"]): r["p"] for r in table.filter(statistic="mrr_z").to_dicts()}
    assert {(t["layer"], f"cosine - {t['predictor']}"): t["mrr_z"]["p"] for t in numbers["tests"]} == mrr
    assert len(mrr) == 6
    below = sum(p < 0.05 for p in mrr.values())
    assert f"below alpha in {below} of 6 comparisons" in drawings["surface_baselines"].caption


def test_baseline_that_is_not_estimable_is_absent() -> None:
    chosen = (pl.col("family") == "baselines") & pl.col("predictor").str.contains("token_jaccard")
    table = nulled(tables(12).regressions, chosen, "not estimable: constant y")
    drawing = figures.surface_baselines(table, context(12))
    assert "Not drawn: token_jaccard (constant y)." in drawing.caption
    assert drawing.caption.count("Not tested: token_jaccard") == 2 and "not estimable" in texts(drawing)
    upper = drawing.figure.axes[0]
    points = [line for line in upper.lines if line.get_marker() in ("o", "D") and len(line.get_xdata()) == 1]
    assert len(points) == 4  # two cosines and the two other baselines


def test_off_diagonal_cells_and_tests(drawn: tuple[int, dict[str, Drawing]]) -> None:
    n, drawings = drawn
    t, numbers = tables(n), drawings["off_diagonal_layer15"].numbers
    own = dict(t.cells.filter(kind="self").select("source", "rate").iter_rows())
    cosine = {(r["persona_a"], r["persona_b"]): r["cosine"] for r in t.pairwise_cosines.filter(layer=15).to_dicts()}
    for name, strong in (("strong", True), ("weak", False)):
        cells = [c for c in t.cells.to_dicts() if c["kind"] != "self" and (own[c["source"]] > 0.3) == strong]
        expected = {(c["source"], c["eval_persona"]): c["rate"] for c in cells}
        got = numbers["cells"][name]
        assert {(c["source"], c["eval_persona"]): c["rate"] for c in got} == expected
        assert all(c["cosine"] == cosine[c["source"], c["eval_persona"]] for c in got)
        row = t.off_diagonal.filter(layer=15, statistic="spearman", outcome=f"bystander_rate:{name}").to_dicts()[0]
        assert numbers["tests"][name]["spearman"] == row and row["n"] == len(expected)
        bins = numbers["bins"][name]
        assert sum(b["n"] for b in bins) == len(expected)
        total = sum(b["rate"] * b["n"] for b in bins)
        assert total == pytest.approx(sum(expected.values()))
    assert f"Bystander rate of {n * (n - 1)} cells" in drawings["off_diagonal_layer15"].caption


def test_off_diagonal_without_weak_emitters_or_kinds() -> None:
    t, c = tables(12), context(12)
    strong = t.cells.with_columns(
        rate=pl.when(kind="self").then(0.9).otherwise("rate"),
        kind=pl.when(kind="self").then(pl.lit("self")).otherwise(None),
    )
    chosen = pl.col("outcome") == "bystander_rate:weak"
    tests = nulled(t.off_diagonal, chosen, "not estimable: 0 cells")
    drawing = figures.off_diagonal(strong, t.pairwise_cosines, tests, c, layer=15)
    assert drawing.numbers["cells"]["weak"] == [] and "no such source" in texts(drawing)
    assert "ρ not estimable" in texts(drawing) and "0 cells" in drawing.caption
    heat = figures.rate_heatmap(strong, c)
    assert "Of 132 cells it is not recorded" in heat.caption and "the 0 cells" in heat.caption
    with pytest.raises(FigureError, match="no cosine of"):
        figures.off_diagonal(t.cells, t.pairwise_cosines.filter(pl.col("persona_a") != "villain"), tests, c, layer=15)


def test_attenuation_numbers(drawn: tuple[int, dict[str, Drawing]]) -> None:
    n, drawings = drawn
    table, drawing = attenuation_table(LINEAGE[n]), drawings["attenuation"]
    for kind in ("abs_rho", "subpanel_abs_rho", "ratio_abs_rho"):
        expected = table.filter(statistic=kind).to_dicts()
        assert [{k: v for k, v in r.items() if k != "study"} for r in drawing.numbers[kind]] == expected
    assert [r["study"] for r in drawing.numbers["abs_rho"] if r["layer"] == 15] == [f"n{k}" for k in LINEAGE[n]]
    labels = [label.get_text() for label in drawing.figure.axes[0].get_xticklabels()]
    assert labels == [f"N = {k}" for k in LINEAGE[n]]
    if n == 12:  # no sub-panel of 24 can be drawn from 12 personas: said, and not drawn
        assert "Not drawn: subpanel_abs_rho" in drawing.caption and not drawing.figure.axes[0].patches


def test_length_partial_numbers(drawn: tuple[int, dict[str, Drawing]]) -> None:
    n, drawings = drawn
    rows = drawings["length_partial"].numbers["rows"]
    assert len(rows) == 2 * 3 * len(LINEAGE[n])
    for r in rows:
        table = tables(int(r["study"][1:])).regressions
        family = "scan" if r["statistic"] == "spearman" else "partial"
        expected = table.filter(family=family, statistic=r["statistic"], layer=r["layer"]).to_dicts()
        assert [{k: v for k, v in r.items() if k != "study"}] == expected


def test_length_partial_of_a_study_without_the_layer_is_absent() -> None:
    shallow = tables(12).regressions.filter(pl.col("layer").is_null() | (pl.col("layer") < 14))
    drawing = figures.length_partial({"old": shallow, "n24": tables(24).regressions}, context(24))
    assert "partial_spearman of old at layer 15 (the study has no such layer)" in drawing.caption
    marks = [line for line in drawing.figure.axes[0].lines if line.get_marker() in ("o", "s", "^")]
    assert len(marks) == 3  # of n24 only


def test_drift_counts_numbers(drawn: tuple[int, dict[str, Drawing]]) -> None:
    n, drawings = drawn
    for study, found in drawings["drift_counts"].numbers["studies"].items():
        delta = tables(int(study[1:])).inherited_drift["delta"]
        assert found["counts"] == {
            "drop": int((delta < 0).sum()),
            "tie": int((delta == 0).sum()),
            "increase": int((delta > 0).sum()),
        }
        assert found["n"] == len(delta)
    assert drawings["drift_counts"].numbers["thresholds"] == {"auto-LOW": 0.75, "match": 0.83}
    assert len(drawings["drift_counts"].numbers["studies"]) == len(LINEAGE[n])


def test_drift_counts_say_confounded_and_empty() -> None:
    t, c = tables(12), context(12)
    confounded = t.inherited_drift.with_columns(same_identity=pl.lit(False))
    retrained = t.inherited_drift.with_columns(same_adapter=pl.lit(False))
    drawing = figures.drift_counts({"a": (confounded, t.drift_tests), "b": (retrained, t.drift_tests)}, c)
    assert "CONFOUNDED" in texts(drawing) and "no inherited source to compare" in texts(drawing)
    assert "neither drift nor its absence" in drawing.caption
    with pytest.raises(FigureError, match="at least one study"):
        figures.drift_counts({}, c)


def test_power_numbers(drawn: tuple[int, dict[str, Drawing]]) -> None:
    n, drawings = drawn
    table = tables(n).power
    for name, taken in drawings["power"].numbers["series"].items():
        own = table.filter(quantity=name).unique("population_rho").sort("population_rho")
        assert [(r["population_rho"], r["probability"]) for r in taken] == list(
            own.select("population_rho", "probability").iter_rows()
        )
    rule = table.filter(quantity="rule", population_rho=-0.52)["probability"].item()
    assert f"-0.52: {rule:.3f}" in drawings["power"].caption
    halved = table.with_columns(probability=pl.col("probability") / 2 + 0.1)
    with pytest.raises(FigureError, match="two probabilities"):
        figures.power(pl.concat([table, halved]), context(n))


def test_empty_tables_are_refused() -> None:
    t, c = tables(12), context(12)
    with pytest.raises(FigureError, match="power has no rows"):
        figures.power(t.power.clear(), c)
    with pytest.raises(FigureError, match=r"no row with family = 'cross_validation'"):
        figures.cv_error_by_layer(t.regressions.filter(family="scan"), c)
    with pytest.raises(FigureError, match=r"no row with family = 'baselines'"):
        figures.surface_baselines(t.regressions.filter(family="scan"), c)
    with pytest.raises(FigureError, match="attenuation has no rows"):
        figures.attenuation(attenuation_table((12,)).clear(), c)
    with pytest.raises(FigureError, match=r"no abs_rho at the primary layers \[15\]"):
        figures.attenuation(attenuation_table((12,)).filter(pl.col("layer") == 12), c)
    with pytest.raises(FigureError, match="pairwise_cosines has no rows"):
        figures.off_diagonal(t.cells, t.pairwise_cosines.clear(), t.off_diagonal, c, layer=15)
    with pytest.raises(FigureError, match="at least one study"):
        figures.length_partial({}, c)
