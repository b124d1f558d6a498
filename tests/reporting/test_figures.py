"""Every family of figure on small and large panels: numbers, files, sizes, bytes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from figure_tables import Tables, context, panel, tables

from persona_assets.reporting import figures
from persona_assets.reporting.figures import Drawing, FigureError, Provenance, png_bytes_to_markdown

pytestmark = pytest.mark.xdist_group("figures")  # one worker: the tables are made once

HISTORY = pl.DataFrame({"step": [1, 2, 3, 4], "loss": [3.1, 1.5, None, 0.9]})


def draw_all(n: int, t: Tables) -> dict[str, Drawing]:
    c = context(n)
    drawings = [
        *(figures.source_rate_vs_cosine(t.source_rates, t.geometry, t.regressions, c, layer=layer) for layer in c.primary_layers),
        figures.within_category(t.source_rates, t.geometry, t.regressions, c, layer=15),
        figures.spearman_by_layer(t.regressions, c),
        figures.rate_heatmap(t.cells, c),
        figures.source_rates(t.source_rates, c),
        figures.drift(t.inherited_drift, t.drift_tests, c),
        figures.loss_curve(
            HISTORY, Provenance("embedded", "embedded/adapter", "abc"), persona="librarian", seed=42
        ),
    ]
    return {d.name: d for d in drawings}


@pytest.fixture(scope="module", params=[12, 48])
def drawn(request: pytest.FixtureRequest) -> tuple[int, Tables, dict[str, Drawing]]:
    t = tables(request.param)
    return request.param, t, draw_all(request.param, t)


@pytest.fixture(scope="module")
def files(drawn: tuple[int, Tables, dict[str, Drawing]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the figures that were drawn are written."""
    directory = tmp_path_factory.mktemp("figures")
    for drawing in drawn[2].values():
        drawing.write(directory)
    return directory


def test_files_keep_the_limits(drawn: tuple[int, Tables, dict[str, Drawing]], files: Path) -> None:
    n, _, drawings = drawn
    assert len(drawings) == 8
    for name, drawing in drawings.items():
        png, pdf = ((files / f"{name}{suffix}").read_bytes() for suffix in (".png", ".pdf"))
        meta = json.loads((files / f"{name}.meta.json").read_text(encoding="utf-8"))
        width = int.from_bytes(png[16:20], "big")
        assert 600 <= width <= 1000, name
        assert len(png) < 300_000, name
        assert pdf.startswith(b"%PDF") and b"CreationDate" not in pdf, name
        assert meta["figure"] == name and meta["data_version"] and meta["asset"].startswith("embedded"), name
        assert meta["caption"] == drawing.caption
        assert meta["files"][f"{name}.png"] == {
            "sha256": hashlib.sha256(png).hexdigest(),
            "bytes": len(png),
            "width_px": width,
            "height_px": int.from_bytes(png[20:24], "big"),
        }
        assert meta["numbers"] == json.loads(json.dumps(drawing.numbers)), name
        if name != "loss_curve":
            assert f"n{n}" in drawing.caption, name


def test_no_text_is_smaller_than_seven_points(drawn: tuple[int, Tables, dict[str, Drawing]]) -> None:
    from matplotlib.text import Text

    for name, drawing in drawn[2].items():
        sizes = {t.get_fontsize() for t in drawing.figure.findobj(Text) if t.get_text().strip()}
        assert min(sizes) >= 7, name


def test_nothing_drawn_leaves_the_picture(drawn: tuple[int, Tables, dict[str, Drawing]]) -> None:
    for name, drawing in drawn[2].items():
        drawing.figure.draw_without_rendering()
        used = drawing.figure.get_tightbbox()
        width, height = drawing.figure.get_size_inches()
        assert (
            used.x0 >= -0.01 and used.y0 >= -0.01 and used.x1 <= width + 0.01 and used.y1 <= height + 0.01
        ), (name, used)


def test_scatter_numbers_are_those_of_the_tables(drawn: tuple[int, Tables, dict[str, Drawing]]) -> None:
    n, t, drawings = drawn
    joined = t.source_rates.join(t.geometry.filter(layer=15, centring="panel"), on="persona")
    expected = {
        r["persona"]: (r["cosine"], r["rate"], r["wilson_low"], r["wilson_high"]) for r in joined.to_dicts()
    }
    drawing = drawings["source_rate_vs_cosine_layer15"]
    points = {p["persona"]: (p["cosine"], p["rate"], p["low"], p["high"]) for p in drawing.numbers["points"]}
    assert points == expected and len(points) == n
    # What matplotlib holds are the same numbers: one mark per persona.
    marks = [
        (line.get_xdata()[0], line.get_ydata()[0])
        for line in drawing.figure.axes[0].lines
        if len(line.get_xdata()) == 1
    ]
    assert sorted(marks) == sorted((x, y) for x, y, _, _ in expected.values())
    (row,) = t.regressions.filter(family="scan", statistic="spearman", layer=15).to_dicts()
    assert drawing.numbers["spearman"] == row
    assert f"{row['estimate']:.3f}" in drawing.caption and "layer 15" in drawing.caption
    assert f"n = {n}" in " ".join(text.get_text() for text in drawing.figure.axes[0].texts)


def test_line_and_band_agree_with_an_independent_fit(drawn: tuple[int, Tables, dict[str, Drawing]]) -> None:
    import numpy as np
    from scipy.stats import linregress
    from scipy.stats import t as student

    drawing = drawn[2]["source_rate_vs_cosine_layer15"]
    x = np.array([p["cosine"] for p in drawing.numbers["points"]])
    y = np.array([p["rate"] for p in drawing.numbers["points"]])
    fit = linregress(x, y)
    line = drawing.numbers["line"]
    assert line["slope"] == pytest.approx(fit.slope) and line["intercept"] == pytest.approx(fit.intercept)
    residual = np.sqrt(((y - fit.intercept - fit.slope * x) ** 2).sum() / (len(x) - 2))
    end = line["band"][-1]
    half = (
        student.ppf(0.975, len(x) - 2)
        * residual
        * np.sqrt(1 / len(x) + (end["x"] - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum())
    )
    assert end["high"] - end["fit"] == pytest.approx(half) and end["fit"] - end["low"] == pytest.approx(half)


def test_layer_numbers_are_those_of_the_table(drawn: tuple[int, Tables, dict[str, Drawing]]) -> None:
    _, t, drawings = drawn
    numbers = drawings["spearman_by_layer"].numbers
    scan = t.regressions.filter(family="scan", statistic="spearman").sort("layer")
    assert numbers["layers"] == scan.to_dicts()
    assert numbers["critical"] == {
        s: t.regressions.filter(family="scan", statistic=s)["estimate"].item()
        for s in ("critical_rho", "holm_critical_rho")
    }
    holm = t.regressions.filter(statistic="spearman_holm").sort("layer")
    assert [h["p"] for h in numbers["holm_p"]] == holm["p"].to_list()
    significant = holm.filter(pl.col("p") < 0.05).height
    assert f"({significant} of {holm.height} layers)" in drawings["spearman_by_layer"].caption


def test_heatmap_holds_every_cell_in_category_order(drawn: tuple[int, Tables, dict[str, Drawing]]) -> None:
    n, t, drawings = drawn
    numbers = drawings["rate_heatmap"].numbers
    categories = [panel(n)[p] for p in numbers["order"]]
    assert categories == sorted(categories, key=["occupational", "character", "generic_helper"].index)
    assert sorted(numbers["order"]) == sorted(panel(n))
    table = {(c["source"], c["eval_persona"]): (c["rate"], c["kind"]) for c in t.cells.to_dicts()}
    assert {(c["source"], c["eval_persona"]): (c["rate"], c["kind"]) for c in numbers["cells"]} == table
    image = drawings["rate_heatmap"].figure.axes[0].images[0].get_array()
    for i, source in enumerate(numbers["order"]):
        for j, other in enumerate(numbers["order"]):
            assert image[i, j] == table[source, other][0]
    assert f"the {2 * n} cells" in drawings["rate_heatmap"].caption


def test_source_rates_are_sorted_and_complete(drawn: tuple[int, Tables, dict[str, Drawing]]) -> None:
    n, t, drawings = drawn
    shown = drawings["source_rates"].numbers["rows"]
    expected = {
        r["persona"]: (r["rate"], r["wilson_low"], r["wilson_high"], r["base_rate"])
        for r in t.source_rates.to_dicts()
    }
    assert {r["persona"]: (r["rate"], r["low"], r["high"], r["base_rate"]) for r in shown} == expected
    assert [r["rate"] for r in shown] == sorted((r["rate"] for r in shown), reverse=True)
    in_panel_order = figures.source_rates(t.source_rates, context(n), order="panel")
    labels = [label.get_text() for label in in_panel_order.figure.axes[0].get_yticklabels()]
    assert [label.removesuffix(" †").replace(" ", "_") for label in labels] == list(panel(n))
    assert "medical doctor †" in labels


def test_drift_counts_come_from_the_table(drawn: tuple[int, Tables, dict[str, Drawing]]) -> None:
    _, t, drawings = drawn
    delta = t.inherited_drift["delta"]
    counts = {
        "drop": int((delta < 0).sum()),
        "tie": int((delta == 0).sum()),
        "increase": int((delta > 0).sum()),
    }
    drawing = drawings["inherited_drift"]
    assert drawing.numbers["counts"] == counts and sum(counts.values()) == t.inherited_drift.height
    words = [f"{k} {name}{'' if k == 1 else 's'}" for name, k in counts.items()]
    assert ", ".join(words) in drawing.caption
    assert not any("CONFOUNDED" in text.get_text() for text in drawing.figure.axes[0].texts)


def assert_same_bytes(one: Path, other: Path) -> None:
    names = sorted(path.name for path in one.iterdir())
    assert len(names) == 24 and names == sorted(path.name for path in other.iterdir())
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_bytes_do_not_change_between_renderings(
    drawn: tuple[int, Tables, dict[str, Drawing]], files: Path, tmp_path: Path
) -> None:
    n, t, _ = drawn
    for drawing in draw_all(n, t).values():
        drawing.write(tmp_path)
    assert_same_bytes(files, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("drawn", [12], indirect=True)
def test_bytes_do_not_depend_on_hash_seed_or_user_settings(files: Path, tmp_path: Path) -> None:
    """Another process with another PYTHONHASHSEED and a matplotlibrc that changes fonts and colours."""
    script = (
        "import sys; from pathlib import Path; from test_figures import draw_all; from figure_tables import tables\n"
        "for d in draw_all(12, tables(12)).values(): d.write(Path(sys.argv[1]))"
    )
    settings, other = tmp_path / "matplotlibrc", tmp_path / "files"
    settings.write_text("font.size: 20\naxes.facecolor: red\nfigure.dpi: 30\n")
    here, root = Path(__file__).parent, Path(__file__).parents[2]
    seed = "1" if os.environ.get("PYTHONHASHSEED") == "2" else "2"
    changed = {"PYTHONPATH": f"{here}{os.pathsep}{root}", "PYTHONHASHSEED": seed, "MATPLOTLIBRC": str(settings)}
    subprocess.run([sys.executable, "-c", script, str(other)], env={**os.environ, **changed}, check=True)
    assert_same_bytes(files, other)


def test_drawing_leaves_no_global_state() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    figures.source_rates(tables(12).source_rates, context(12)).png()
    assert dict(matplotlib.rcParams) == before
    # pyplot keeps every figure in a registry of the process, so nothing may import it.
    code = (
        "import sys; from figure_tables import context, tables; from persona_assets.reporting import figures\n"
        "cells = tables(12).cells; sys.modules.pop('matplotlib.pyplot', None)\n"  # a statistics library had it
        "figures.rate_heatmap(cells, context(12)).pdf()\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    here, root = Path(__file__).parent, Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{root}"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_png_becomes_markdown_with_its_own_data() -> None:
    import base64

    png = figures.loss_curve(
        HISTORY, Provenance("embedded", "embedded/adapter", "abc"), persona="librarian", seed=42
    ).png()
    text = png_bytes_to_markdown(png)
    assert text.startswith("![](data:image/png;base64,") and text.endswith(")")
    assert base64.b64decode(text.removeprefix("![](data:image/png;base64,").removesuffix(")")) == png
    with pytest.raises(FigureError, match="not a png"):
        png_bytes_to_markdown(b"GIF89a" + b"\0" * 40)
    with pytest.raises(FigureError, match="too large"):
        png_bytes_to_markdown(png + b"\0" * 300_000)
    assert png_bytes_to_markdown(png + b"\0" * (300_000 - len(png)))
