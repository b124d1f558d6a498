"""What a write-up says of measurements made again, and of a fall of all rates under one engine and under two."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from writeup_study import MANIFEST_DIGEST, made_once

from persona_assets.reporting import figures
from persona_assets.reporting.figures import Drawing, FigureContext
from persona_assets.reporting.lint import lint
from persona_assets.reporting.writeup import Sources, read_figures, write_clean_result
from persona_assets.reporting.writeup.binding import bindings_start
from persona_assets.statistics.buckets import Outcome, confidence
from persona_assets.statistics.drift import drift_settings, inherited_drift
from persona_assets.statistics.remeasurement import comparisons, measurement_history, remeasurement_drift

pytestmark = [pytest.mark.xdist_group("writeup"), pytest.mark.slow]

FALLS = (11, 14, 16, 17, 19, 22)  # hits in a hundred that each source has lost since: 0.165 on average
Earlier = tuple[str, Sequence[int]]
STEADY = (-1, 0, 1)


def earlier_rates(rates: pl.DataFrame, falls: Sequence[int]) -> pl.DataFrame:
    lost = pl.Series([falls[place % len(falls)] for place in range(rates.height)])
    hits = rates["hits"] + lost
    assert ((hits >= 0) & (hits <= rates["n"])).all()
    return rates.with_columns(hits=hits, rate=hits / rates["n"])


def by_engine(measurements: pl.DataFrame, engine: str) -> pl.DataFrame:
    return measurements.with_columns(engine=pl.lit(engine))


def retold(sources: Sources, directory: Path, parent: Earlier | None = None, earlier: Sequence[Earlier] = ()) -> Sources:
    """The study with other rates in its parent, or with earlier measurements of its own (oldest first)."""
    study, tables = sources.study, dict(sources.tables)
    settings = drift_settings(study.analysis)
    rates, identity = tables["source_rates"], tables["measurements"]
    drift_triggered, drift_confounded = None, False
    if parent is not None:
        before = earlier_rates(rates.filter(cohort="inherited"), parent[1])
        result = inherited_drift(rates, before, identity, by_engine(identity, parent[0]), **settings)
        tables |= {"inherited_drift": result.inherited_drift, "drift_tests": result.drift_tests}
        drift_triggered, drift_confounded = result.triggered, result.confounded
    taken = [(engine, earlier_rates(rates, falls)) for engine, falls in earlier] + [("transformers", rates)]
    numbers = [pl.lit(number, pl.Int64).alias("measurement") for number in range(1, len(taken) + 1)]
    wanted = ("persona", "seed", "hits", "n", "rate")
    every = pl.concat([each.select(*wanted).with_columns(number) for number, (_, each) in zip(numbers, taken, strict=True)])
    identities = pl.concat(
        [by_engine(identity, engine).with_columns(number) for number, (engine, _) in zip(numbers, taken, strict=True)]
    )
    again = remeasurement_drift(every, identities, settings)
    tables |= {
        "remeasurement_drift": again.remeasurement_drift,
        "remeasurement_tests": again.remeasurement_tests,
        "measurement_history": measurement_history(every, identities),
    }
    outcome = tables["outcome"].row(0, named=True)
    trust = confidence(
        Outcome(outcome["bucket"], ()),
        signed_bucket=outcome["bucket_signed"],
        n_seeds=len(study.seeds),
        drift_triggered=drift_triggered,
        drift_confounded=drift_confounded,
        drifted_since=again.drifted,
    )
    tables["outcome"] = tables["outcome"].with_columns(
        confidence=pl.lit(trust.level),
        reasons=pl.lit("; ".join(trust.reasons)),
        drift_triggered=pl.lit(drift_triggered, dtype=pl.Boolean),
    )
    return replace(sources, tables=tables, figures={**sources.figures, **read_figures(drawn(sources, tables, directory))})


def drawn(sources: Sources, tables: dict[str, pl.DataFrame], directory: Path) -> Path:
    """The figures that show drift, drawn from other tables."""
    context = FigureContext.from_study(sources.study, asset=sources.asset, data_version=MANIFEST_DIGEST)
    since_parent = (tables["inherited_drift"], tables["drift_tests"])
    drawings = []
    if since_parent[0].height:
        drawings = [figures.drift(*since_parent, context), figures.drift_counts({sources.study.name: since_parent}, context)]
    if again := comparisons(tables["remeasurement_drift"], tables["remeasurement_tests"]):
        drawings += [figures.drift(*each, context, figures.MEASUREMENTS[name]) for name, each in again.items()]
        drawings.append(figures.drift_counts(again, context, figures.MEASUREMENTS))
    (directory / "figures").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Drawing, "pdf", lambda _: b"%PDF")
        for drawing in drawings:
            drawing.write(directory / "figures")
    return directory / "figures"


def written(sources: Sources, directory: Path) -> dict[str, str]:
    """Sections of the write-up as a reader sees them; the lint must have nothing to say."""
    (directory / "clean_result").mkdir()
    text = write_clean_result(sources, directory / "clean_result").markdown.read_text(encoding="utf-8")
    assert [str(finding) for finding in lint(text, sources)] == []
    body = re.sub(r"^(```+).*?^\1$", "", text[: bindings_start(text)], flags=re.MULTILINE | re.DOTALL)
    parts = re.sub(r"<!--.*?-->", "", body).split("\n## ")
    return {part.split("\n")[0]: part for part in parts}


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """Sixteen personas, twelve of them inherited."""
    return made_once("child", tmp_path_factory)


def test_a_fall_of_all_twelve_across_engines_is_not_called_a_drift(child: Sources, tmp_path: Path) -> None:
    sources = retold(child, tmp_path, parent=("vllm", FALLS))
    drift = sources.tables["inherited_drift"]
    assert (drift.height, (drift["delta"] < 0).sum(), drift["delta"].mean()) == (12, 12, pytest.approx(-0.165))
    assert set(sources.tables["drift_tests"]["verdict"]) == {"confounded"}
    assert sources.tables["outcome"]["drift_triggered"].to_list() == [None]
    assert "drift trigger" not in sources.tables["outcome"]["reasons"].item()
    text = written(sources, tmp_path)
    section = text["Result: drift of inherited sources"]
    assert "The comparison is confounded" in section
    assert "neither drift nor its absence can be read from it" in section
    assert "confounded by different measurement identities" in text["Caveats"]
    assert "confounded" in text["AI TL;DR"]
    whole = "".join(text.values())
    for claim in ("trigger fired", "found drift", "did not fire", "found no drift"):
        assert claim not in whole


def test_the_same_fall_under_one_engine_is_what_the_test_says(child: Sources, tmp_path: Path) -> None:
    sources = retold(child, tmp_path, parent=("transformers", FALLS))
    test = sources.tables["drift_tests"].filter(statistic="sign_drops").row(0, named=True)
    assert (test["p"], test["verdict"]) == (pytest.approx(0.000244, abs=5e-7), "drift")
    assert sources.tables["outcome"]["confidence"].item() == "LOW"
    text = written(sources, tmp_path)
    section = text["Result: drift of inherited sources"]
    assert "twelve drops, no ties and no increases" in section
    assert "a share of drops of at least 0.75, fired" in section
    assert "the drift trigger fired" in text["AI TL;DR"]
    assert "confounded" not in "".join(text.values()).lower()


def test_two_measurements_under_one_engine(child: Sources, tmp_path: Path) -> None:
    sources = retold(child, tmp_path, earlier=[("transformers", FALLS)])
    assert {"remeasurement_drift_first", "remeasurement_counts"} <= set(sources.figures)
    assert "remeasurement_drift_last" not in sources.figures  # two measurements: the first one is the last before
    text = written(sources, tmp_path)
    for section in ("Result: drift of inherited sources", "AI TL;DR"):
        assert (
            "Measured again, against the first measurement, which is also the last one before: sixteen drops, no ties and no "
            "increases among sixteen sources; one-sided sign test p < .001. "
            "The trigger, a share of drops of at least 0.75, fired."
        ) in text[section]
    assert "the measurement itself has moved" in text["Caveats"]
    assert "the drift trigger fired against the first measurement" in text["AI TL;DR"]


def test_two_measurements_by_two_engines(child: Sources, tmp_path: Path) -> None:
    sources = retold(child, tmp_path, earlier=[("vllm", FALLS)])
    assert set(sources.tables["remeasurement_tests"]["verdict"]) == {"confounded"}
    assert "fired against" not in sources.tables["outcome"]["reasons"].item()
    text = written(sources, tmp_path)
    section = text["Result: drift of inherited sources"]
    assert "against the first measurement, which is also the last one before: the comparison is confounded" in section
    assert "CONFOUNDED" not in section  # it is in the picture; the caption says it in words
    assert "Confounded, neither drift nor its absence: 16 sources were measured under another measurement identity" in section
    assert "At least one comparison with an earlier measurement is confounded" in text["Caveats"]
    assert "the drift trigger fired" not in "".join(text.values()).lower()


def test_three_measurements_of_a_study_without_a_parent(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    first = made_once("first", tmp_path_factory)
    sources = retold(first, tmp_path, earlier=[("vllm", FALLS), ("transformers", STEADY)])
    assert {"remeasurement_drift_first", "remeasurement_drift_last"} <= set(sources.figures)
    text = written(sources, tmp_path)
    assert "against the first measurement: the comparison is confounded" in text["AI TL;DR"]
    counted = "four drops, four ties and four increases among twelve sources; one-sided sign test"
    assert f"against the last measurement: {counted}" in text["AI TL;DR"]
    assert "no parent study" in text["Result: drift of inherited sources"]
