"""The seed of the story: all twelve rates fall. Whether that may be called drift depends on how both were measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from ancestor_layout import EarlierStudy, regression_results
from writeup_study import PLAN, made_once

from persona_assets.ancestor.assembly import assemble
from persona_assets.ancestor.gathering import Options, gather
from persona_assets.ancestor.identity import CONDITIONS, build_identity, read_statements
from persona_assets.ancestor.product import imported_cells, imported_measurements, imported_personas, write_product
from persona_assets.assets.imports import with_prompts
from persona_assets.imported import Imported
from persona_assets.reporting import figures
from persona_assets.reporting.figures import Drawing
from persona_assets.reporting.lint import lint
from persona_assets.reporting.writeup import Sources, read_figures
from persona_assets.reporting.writeup.binding import MARKER, Book
from persona_assets.reporting.writeup.report import markdown
from persona_assets.statistics.drift import DriftResult, inherited_drift
from persona_assets.statistics.rates import source_rates
from persona_assets.study import Study

FALL = 0.16
pytestmark = pytest.mark.xdist_group("writeup")


@dataclass(frozen=True)
class Story:
    """A child that inherits twelve adapters of an imported parent, whose rates were all higher."""

    child: Sources
    drift: DriftResult
    text: str

    @property
    def section(self) -> str:
        """The drift section of the write-up."""
        after = self.text.split("## Result: drift of inherited sources", 1)[1]
        return MARKER.sub("", after.split("\n## ", 1)[0])

    @property
    def sign_test(self) -> dict[str, Any]:
        """The preregistered sign test."""
        return self.drift.drift_tests.filter(statistic="sign_drops", registered=True).row(0, named=True)


def tell(root: Path, base: Sources, statements: list[str], **changed: str) -> Story:
    """Import the parent with some statements, compare, and write up.

    Args:
        root: where files go.
        base: the child without this parent.
        statements: what the user states at import.
        changed: conditions under which the child was measured, where they differ from the parent's.
    """
    study = base.study
    assert study.parent is not None
    inherited = study.parent.panel.ids
    rates = {row["persona"]: row["rate"] for row in base.tables["source_rates"].to_dicts() if row["persona"] in inherited}
    assert len(rates) == 12
    earlier = EarlierStudy(root / "earlier")
    # Rates of the child are below 0.84: the parent's are higher by the fall that was once read as drift.
    earlier.whole(regression_results({persona: round(min(rate + FALL, 1.0), 2) for persona, rate in rates.items()}))
    for number, persona in enumerate(inherited):
        earlier.adapter(persona, value=float(number))
    options = Options(study.panel, marker="[ZLT]", seed=42, completions=100)
    gathered = gather(earlier.root, options)
    assert not gathered.refused
    assembly = assemble(gathered, options, study.questions, prompts_here=True)
    identity, stated = build_identity(assembly.recorded, read_statements(statements), dict)
    imported = Imported(
        source=str(earlier.root),
        data_version="0" * 64,
        marker="[ZLT]",
        anchor=study.panel.anchor,
        personas=assembly.personas,
        layers=assembly.layers,
        completions=assembly.completions,
        identity=identity,
        stated=stated,
        tables=assembly.tables,
        not_supported=assembly.not_supported,
    )
    directory = root / "imported"
    directory.mkdir()
    write_product(assembly, gathered, study.parent.name, "[ZLT]", directory)
    parent = Study(study.parent.name, study.profile, imported.panel, study.questions, None, (42,), PLAN, imported=imported)
    child = replace(study, parent=parent)
    digests = {source: digest for (source, _), digest in gathered.adapters.items()}
    # The child's adapters are the parent's files.
    measured = base.tables["measurements"].with_columns(
        adapter_digest=pl.col("source").replace_strict(digests, default=pl.col("adapter_digest")),
        **{name: pl.lit(value) for name, value in changed.items()},
    )
    drift = inherited_drift(
        base.tables["source_rates"],
        source_rates(imported_cells(directory, PLAN), imported_personas(directory)),
        *with_prompts(child, parent, measured, imported_measurements(directory, imported)),
        seed=PLAN.seed,
        resamples=PLAN.bootstrap_resamples,
    )
    tables = {**base.tables, "measurements": measured, "inherited_drift": drift.inherited_drift, "drift_tests": drift.drift_tests}
    context = figures.FigureContext.from_study(child, asset="embedded/n16/figures", data_version="1" * 64)
    drawn = root / "figures"
    drawn.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Drawing, "pdf", lambda _: b"%PDF")  # no write-up shows it, and it takes most of the time
        figures.drift(drift.inherited_drift, drift.drift_tests, context).write(drawn)
        figures.drift_counts({"n16": (drift.inherited_drift, drift.drift_tests)}, context).write(drawn)
    sources = replace(base, study=child, tables=tables, figures={**base.figures, **read_figures(drawn)})
    text = markdown(sources, Book(sources))
    assert [str(finding) for finding in lint(text, sources)] == []
    return Story(sources, drift, text)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return made_once("child", tmp_path_factory)


@pytest.fixture(scope="module")
def everything(base: Sources) -> list[str]:
    """The child's own conditions, as a user would state them of the parent."""
    row = base.tables["measurements"].row(0, named=True)
    return [f"{name}={row[name]}" for name in CONDITIONS]


def test_rates_of_another_engine_are_confounded_and_not_called_drift(
    base: Sources, everything: list[str], tmp_path: Path
) -> None:
    story = tell(tmp_path, base, everything, engine="vllm")
    assert (story.drift.verdict, story.sign_test["verdict"]) == ("confounded", "confounded")
    assert "twelve drops" in story.section  # the numbers are shown ...
    assert "The comparison is confounded" in story.section  # ... and not read
    assert "these differ or are not known of one study: engine." in story.section
    assert "neither drift nor its absence can be read" in story.section
    assert "a fall of the rates is not called drift here" in story.section
    assert "fired" not in story.section
    assert "The drift comparison is confounded" in story.text
    assert "found drift" not in story.text


def test_rates_of_the_same_engine_speak(base: Sources, everything: list[str], tmp_path: Path) -> None:
    story = tell(tmp_path, base, everything)
    assert (story.drift.verdict, story.drift.triggered) == ("drift", True)
    assert story.sign_test["n"] == 12
    assert story.sign_test["estimate"] == 1.0
    assert story.sign_test["p"] == pytest.approx(0.000244, abs=5e-7)
    assert story.drift.inherited_drift["same_adapter"].all()
    assert "twelve drops" in story.section
    assert "confounded" not in story.section
    assert "fired" in story.section
    assert "The drift trigger fired" in story.text


def test_stating_the_engine_alone_leaves_the_rest_unknown(base: Sources, tmp_path: Path) -> None:
    story = tell(tmp_path, base, ["engine=transformers"])
    assert story.drift.verdict == "confounded"
    [conditions] = set(story.drift.inherited_drift["differing"])
    assert "engine_version" in conditions.split(", ")
    assert "engine" not in conditions.split(", ")
    assert "stated at import: engine; unknown: engine" in story.section
    assert "was imported from" in story.section
