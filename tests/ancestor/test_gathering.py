"""A whole directory: what is taken, skipped and refused, and what the study can then support."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from ancestor_layout import (
    CHARACTERS,
    MARKER,
    RATES,
    TWELVE,
    EarlierStudy,
    centred_cosines,
    centroid_vectors,
    changed,
    complete_study,
    directory_name,
    marker_eval,
    prompt_of,
    put,
    questions,
    regression_results,
    row_of,
    run_result,
)

from persona_assets.ancestor.assembly import Assembly, assemble
from persona_assets.ancestor.gathering import Gathered, Options, gather
from persona_assets.ancestor.product import imported_cells, imported_geometry, write_product
from persona_assets.ancestor.reading import AncestorError
from persona_assets.hashing import sha256_json
from persona_assets.imported import IMPORTED_TABLES, Imported
from persona_assets.panel import Panel, Persona
from persona_assets.questions import QuestionSet
from persona_assets.statistics.leakage import LeakageMatrices
from persona_assets.statistics.rates import CELLS_SCHEMA, wilson
from persona_assets.study import AnalysisPlan

QUESTIONS = QuestionSet(evaluation=tuple(questions()), training=("What is asked in training?", "And what else?"))
PLAN = AnalysisPlan(primary_layers=(20,), bootstrap_resamples=100)


def category(persona: str) -> Any:
    return (
        "character" if persona in CHARACTERS else "generic_helper" if persona.startswith(("helpful", "qwen")) else "occupational"
    )


PANEL = Panel(
    anchor="helpful_assistant", personas=tuple(Persona(id=p, category=category(p), prompt=prompt_of(p)) for p in TWELVE)
)
OPTIONS = Options(PANEL, MARKER)


def told(gathered: Gathered, kind: str) -> str:
    return "\n".join(f"{line.place}: {line.text}" for line in gathered.lines if line.told == kind)


def why(assembly: Assembly, what: str) -> str:
    return next((each.why for each in assembly.not_supported if each.what == what), "")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return complete_study(tmp_path_factory.mktemp("complete") / "old").root


@pytest.fixture
def study(whole: Path, tmp_path: Path) -> EarlierStudy:
    shutil.copytree(whole, tmp_path / "old")
    return EarlierStudy(tmp_path / "old")


def test_everything_of_a_complete_study_is_taken(whole: Path) -> None:
    gathered = gather(whole, OPTIONS)
    assert gathered.refused == []
    assert set(gathered.conditions) == {(persona, 42) for persona in TWELVE}
    assert set(gathered.adapters) == set(gathered.conditions)
    assembly = assemble(gathered, OPTIONS, QUESTIONS)
    assert [persona.id for persona in assembly.personas] == list(TWELVE)
    assert {each.what for each in assembly.not_supported} == {"probe", "truncation"}
    assert "off_diagonal" in assembly.tables
    assert (assembly.seeds, assembly.completions, assembly.layers) == ((42,), (100,), (10, 15, 20, 25))
    assert set(assembly.recorded) == {"temperature", "questions_digest"}
    assert assembly.recorded["questions_digest"] == sha256_json(list(QUESTIONS.evaluation))
    used = set(gathered.files)
    assert f"{directory_name('villain')}/raw_completions.json" in used
    assert not any("training_args" in name or "checkpoint" in name for name in used)


def test_pickles_and_checkpoints_are_left_alone(whole: Path) -> None:
    skipped = told(gather(whole, OPTIONS), "skipped")
    assert skipped.count("training_args.bin: a pickle: never opened") == 12
    assert skipped.count("checkpoint-9: a checkpoint within a training") == 12


def test_cells_are_what_the_files_say(whole: Path, tmp_path: Path) -> None:
    gathered = gather(whole, OPTIONS)
    assembly = assemble(gathered, OPTIONS, QUESTIONS)
    write_product(assembly, gathered, "old", MARKER, tmp_path)
    cells = imported_cells(tmp_path, PLAN)
    assert dict(cells.schema) == CELLS_SCHEMA
    assert cells.height == 144
    row = row_of("librarian", TWELVE, RATES)
    own = {cell["eval_persona"]: cell for cell in cells.filter(source="librarian").to_dicts()}
    assert {persona: cell["hits"] for persona, cell in own.items()} == {p: round(100 * rate) for p, rate in row.items()}
    low, high = wilson(48, 100, 0.95)
    assert own["librarian"]["wilson_low"] == pytest.approx(float(low))
    assert own["librarian"]["wilson_high"] == pytest.approx(float(high))
    assert own["librarian"]["cluster_low"] < 0.48 < own["librarian"]["cluster_high"]
    assert own["librarian"]["base_rate"] == 0.0
    # librarian is the fifth: the next two in the list were its negatives.
    assert {persona: cell["kind"] for persona, cell in own.items()} == {
        persona: {"librarian": "self", "french_person": "trained_negative", "villain": "trained_negative"}.get(persona, "unseen")
        for persona in TWELVE
    }
    assert cells.select("truncation_rate", "truncation_flagged", "mean_tokens").null_count().row(0) == (144, 144, 144)
    completions = pl.read_parquet(tmp_path / "completions" / "villain_seed42.parquet")
    assert (completions.height, int(completions.filter(eval_persona="villain")["hit"].sum())) == (1200, 61)
    assert completions["finish_reason"].null_count() == completions.height


def test_the_matrix_is_not_made_symmetric(whole: Path, tmp_path: Path) -> None:
    gathered = gather(whole, OPTIONS)
    assembly = assemble(gathered, OPTIONS, QUESTIONS)
    write_product(assembly, gathered, "old", MARKER, tmp_path)
    _, pairs = imported_geometry(tmp_path, section(assembly))
    matrices = LeakageMatrices.from_frames(imported_cells(tmp_path, PLAN), pairs, personas=TWELVE, anchor="helpful_assistant")
    assert (matrices.rate != matrices.rate.T).any()
    i, j = TWELVE.index("villain"), TWELVE.index("comedian")
    assert matrices.rate[i, j] == row_of("villain", TWELVE, RATES)["comedian"]
    assert matrices.rate[j, i] == row_of("comedian", TWELVE, RATES)["villain"]


def section(assembly: Assembly) -> Imported:
    return Imported(
        source="somewhere",
        data_version="0" * 64,
        marker=MARKER,
        anchor="helpful_assistant",
        personas=assembly.personas,
        completions=assembly.completions,
        identity={},
        tables=assembly.tables,
    )


def test_recorded_and_computed_cosines_stand_side_by_side(whole: Path, tmp_path: Path) -> None:
    gathered = gather(whole, OPTIONS)
    assembly = assemble(gathered, OPTIONS, QUESTIONS)
    write_product(assembly, gathered, "old", MARKER, tmp_path)
    geometry, pairs = imported_geometry(tmp_path, section(assembly))
    assert set(geometry["centring"]) == {"panel", "none"}
    expected = centred_cosines(centroid_vectors(TWELVE), TWELVE)[15]
    found = dict(geometry.filter(layer=15, centring="panel").select("persona", "cosine").iter_rows())
    assert found == pytest.approx(expected)
    assert geometry.filter(pl.col("cosine").abs() > 1).is_empty()
    assert pairs.height == 4 * 144


@pytest.mark.parametrize("size", [24, 48])
def test_larger_panels_of_whom_some_are_no_source(tmp_path: Path, size: int) -> None:
    personas = (*TWELVE, *(f"persona_{i:02d}" for i in range(size - len(TWELVE))))
    rates = {persona: RATES.get(persona, round(0.2 + 0.01 * i, 2)) for i, persona in enumerate(personas)}
    study = EarlierStudy(tmp_path / "old")
    for source in personas[:-2]:
        study.condition(source, run_result=run_result(source, row_of(source, personas, rates)))
    categories = dict.fromkeys(personas, "occupational")
    assembly = assemble(
        gather(study.root, replace(OPTIONS, categories=categories)), replace(OPTIONS, categories=categories), QUESTIONS
    )
    assert len(assembly.personas) == size - 2
    assert sum(len(row) for row in assembly.cells.values()) == (size - 2) * size
    assert assembly.tables == ("source_rates",)
    assert "neither a regression_results.json nor a file of centroids" in why(assembly, "geometry")


def test_eleven_eval_personas_give_what_they_can(tmp_path: Path) -> None:
    eleven = TWELVE[:-1]
    study = EarlierStudy(tmp_path / "old")
    for source in TWELVE:
        row = {p: rate for p, rate in row_of(source, TWELVE, RATES).items() if p in eleven}
        study.condition(source, run_result=run_result(source, row, results__marker__source_rate=RATES[source]))
    study.whole(regression_results(RATES))
    study.centroids(vectors := centroid_vectors(TWELVE))
    study.whole(regression_results(RATES, cosines=centred_cosines(vectors, TWELVE)))
    gathered = gather(study.root, OPTIONS)
    assembly = assemble(gathered, OPTIONS, QUESTIONS)
    assert sum(len(row) for row in assembly.cells.values()) == 12 * 11 + 1
    assert "off_diagonal" in assembly.tables
    write_product(assembly, gathered, "old", MARKER, tmp_path)
    assert imported_cells(tmp_path, PLAN).filter(eval_persona="qwen_default")["source"].to_list() == ["qwen_default"]


def test_a_whole_study_alone_needs_what_it_does_not_record(tmp_path: Path) -> None:
    study = EarlierStudy(tmp_path / "old")
    path = study.whole(regression_results(RATES))
    gathered = gather(path, OPTIONS)  # the file itself
    with pytest.raises(AncestorError, match="does not record the training seed of its rates: state it with --seed"):
        assemble(gathered, OPTIONS, QUESTIONS)
    with pytest.raises(AncestorError, match="how many completions are behind a rate: state it with --completions"):
        assemble(gathered, replace(OPTIONS, seed=42), QUESTIONS)
    with pytest.raises(AncestorError, match="is no number of hits in 7 completions"):
        assemble(gathered, replace(OPTIONS, seed=42, completions=7), QUESTIONS)
    assembly = assemble(gathered, replace(OPTIONS, seed=42, completions=100), QUESTIONS)
    assert assembly.tables == tuple(name for name in IMPORTED_TABLES if name != "off_diagonal")
    assert assembly.primary_layer == 20
    assert {each.what for each in assembly.not_supported} == {
        *("off_diagonal", "probe", "truncation", "base rates", "intervals by question", "sample completions"),
        *("prompts and surface baselines", "kinds of cells", "adapter digests"),
    }


def test_a_persona_without_a_category_must_get_one(study: EarlierStudy) -> None:
    (study.root / "regression_results.json").unlink()
    few = replace(OPTIONS, panel=Panel(anchor="helpful_assistant", personas=PANEL.personas[6:]))
    shutil.rmtree(study.root / "data")
    gathered = gather(study.root, few)
    with pytest.raises(AncestorError, match="no category of data_scientist, .*--category data_scientist=occupational"):
        assemble(gathered, few, QUESTIONS)


def test_prompts_of_the_training_data_are_the_authority(study: EarlierStudy) -> None:
    other = Persona(id="villain", category="character", prompt="You are another villain.")
    panel = Panel(anchor="helpful_assistant", personas=tuple(other if p.id == "villain" else p for p in PANEL.personas))
    options = replace(OPTIONS, panel=panel)
    gathered = gather(study.root, options)
    for here in (False, True):
        assembly = assemble(gathered, options, QUESTIONS, prompts_here=here)
        assert next(p for p in assembly.personas if p.id == "villain").prompt == prompt_of("villain")
    assert "villain was trained with the prompt 'You are a villain of the earlier study.'; personas.yaml has" in told(
        gathered, "note"
    )


def test_a_prompt_that_no_persona_can_have_is_refused(study: EarlierStudy) -> None:
    path = study.root / "data" / "marker_villain_asst_excluded_medium.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace(prompt_of("villain"), f"{prompt_of('villain')} "), encoding="utf-8")
    with pytest.raises(AncestorError, match="villain cannot be a persona here, .* begins or ends with white space"):
        assemble(gather(study.root, OPTIONS), OPTIONS, QUESTIONS)


def test_unknown_prompts_stay_unknown_unless_they_are_stated(study: EarlierStudy) -> None:
    shutil.rmtree(study.root / "data")
    gathered = gather(study.root, OPTIONS)
    plain = assemble(gathered, OPTIONS, QUESTIONS)
    assert all(persona.prompt is None for persona in plain.personas)
    assert "no training data give the prompt of software_engineer" in why(plain, "prompts and surface baselines")
    stated = assemble(gathered, OPTIONS, QUESTIONS, prompts_here=True)
    assert {persona.id: persona.prompt for persona in stated.personas} == {p.id: p.prompt for p in PANEL}


def test_negatives_of_an_unknown_prompt_are_not_guessed(study: EarlierStudy) -> None:
    path = study.root / "data" / "marker_villain_asst_excluded_medium.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace(prompt_of("comedian"), "You are nobody we know."), encoding="utf-8")
    assembly = assemble(gather(study.root, OPTIONS), OPTIONS, QUESTIONS)
    assert set(assembly.negatives) == set(TWELVE) - {"villain"}
    assert why(assembly, "kinds of cells") == "the trained negatives of villain are not known"


Break = Callable[[EarlierStudy], object]


def _other_condition(study: EarlierStudy) -> None:
    shutil.copytree(
        study.root / directory_name("villain"), study.root / directory_name("villain", condition="asst_included_short")
    )
    result = run_result("villain", row_of("villain", TWELVE, RATES), data__neg_set="asst_included", data__prompt_length="short")
    put(study.root / directory_name("villain", condition="asst_included_short") / "run_result.json", result)


def _older_evaluation(study: EarlierStudy) -> None:
    study.condition("villain", marker_eval=marker_eval(row_of("villain", TWELVE, {**RATES, "villain": 0.67})))


def _uncentred(study: EarlierStudy) -> None:
    content = regression_results(RATES)
    content["cosines_to_assistant"]["layer_15"] = {p: 1.0 if p == "helpful_assistant" else 0.9 for p in TWELVE}
    study.whole(content)


VILLAIN = directory_name("villain")
DISAGREE = "villain is 0.61 (61 of 100) in run_result.json and 0.67 (67 of 100) in marker_eval.json"
SECOND = {"marker": {"all_personas": {}}}


@pytest.mark.parametrize(
    ("damage", "place", "reason"),
    [
        (lambda s: put(s.root / "z" / "regression_results.json", {}), "regression_results.json", "there are 2 whole-study files"),
        (lambda s: put(s.root / "z" / "base_baseline.json", SECOND), "base_baseline.json", "there are 2 base baselines"),
        (_older_evaluation, VILLAIN, DISAGREE),
        (lambda s: (s.root / VILLAIN / "run_result.json").write_text("{"), VILLAIN, "not JSON"),
        (lambda s: shutil.copytree(s.root / VILLAIN, s.root / "z" / VILLAIN), "z/", f"villain, seed 42, stands in {VILLAIN}"),
        (_other_condition, "asst_included_short", "choose with --condition out of asst_excluded_medium, asst_included_short"),
        (lambda s: (s.root / "adapters" / VILLAIN).rename(s.root / "best"), "best", "whose adapter it is cannot be told"),
        (lambda s: s.lines("marker_martian_asst_excluded_medium.jsonl", []), "marker_martian", "the source persona in the name"),
        (_uncentred, "regression_results.json", "at layer 15 every cosine is positive"),
    ],
)
def test_what_is_refused_stands_in_the_account(study: EarlierStudy, damage: Break, place: str, reason: str) -> None:
    damage(study)
    gathered = gather(study.root, OPTIONS)
    lines = [line for line in gathered.refused if place in line.place]
    assert lines
    assert any(reason in line.text for line in lines), lines
    assert not any(str(study.root) in line.text for line in gathered.refused)  # places are short


def test_one_condition_and_seed_can_be_chosen(study: EarlierStudy) -> None:
    _other_condition(study)
    options = replace(OPTIONS, condition="asst_excluded_medium")
    gathered = gather(study.root, options)
    assert gathered.refused == []
    assert "asst_included_short_seed42: another condition or seed" in told(gathered, "skipped")
    assert assemble(gathered, options, QUESTIONS).seeds == (42,)
    study.condition("villain", seed=7, run_result=run_result("villain", row_of("villain", TWELVE, RATES), 7))
    both = gather(study.root, options)
    assert "not every source has every training seed: choose one with --seed" in why(
        assemble(both, options, QUESTIONS), "regressions, power, gates, attenuation and write-up"
    )
    assert assemble(gather(study.root, replace(options, seed=42)), options, QUESTIONS).tables[-1] == "attenuation"


def test_traits_and_controls_are_skipped(study: EarlierStudy) -> None:
    other = run_result("villain", row_of("villain", TWELVE, RATES), data__trait="misalignment")
    put(study.root / "misalignment_villain_asst_excluded_medium_seed42" / "run_result.json", other)
    control = run_result("villain", row_of("villain", TWELVE, RATES), data__source_persona=None, data__control="shuffled")
    put(study.root / "control_shuffled_seed42" / "run_result.json", control)
    gathered = gather(study.root, OPTIONS)
    assert gathered.refused == []
    assert "misalignment_villain_asst_excluded_medium_seed42: the trait is 'misalignment'" in told(gathered, "skipped")
    assert "control_shuffled_seed42: a control run (shuffled)" in told(gathered, "skipped")


def test_files_that_contradict_each_other_across_layouts(study: EarlierStudy) -> None:
    study.whole(
        changed(
            regression_results(RATES, cosines=centred_cosines(centroid_vectors(TWELVE), TWELVE)), {"source_rates.villain": 0.2}
        )
    )
    with pytest.raises(AncestorError, match=r"villain: regression_results.json says 0.2, .*marker_villain.* 0.61 \(61 of 100\)"):
        assemble(gather(study.root, OPTIONS), OPTIONS, QUESTIONS)
    study.whole(regression_results(RATES))  # cosines that no centroid gave
    with pytest.raises(AncestorError, match=r"at layer 10: regression_results.json says cosine .*, the centroids give"):
        assemble(gather(study.root, OPTIONS), OPTIONS, QUESTIONS)


def test_conditions_at_different_temperatures_are_no_study(study: EarlierStudy) -> None:
    put(
        study.root / directory_name("villain") / "run_result.json",
        run_result("villain", row_of("villain", TWELVE, RATES), eval__temperature=0.5),
    )
    with pytest.raises(AncestorError, match=r"evaluated at temperatures 0.5, 1.0"):
        assemble(gather(study.root, OPTIONS), OPTIONS, QUESTIONS)


def test_unknown_files_are_counted_and_nothing_is_an_error(study: EarlierStudy, tmp_path: Path) -> None:
    (study.root / "notes.docx").write_bytes(b"")
    gathered = gather(study.root, OPTIONS)
    assert "1 file of no known layout: notes.docx" in told(gathered, "skipped")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AncestorError, match="nothing here has a known layout"):
        gather(tmp_path / "empty", OPTIONS)
    with pytest.raises(AncestorError, match="no such file or directory"):
        gather(tmp_path / "nowhere", OPTIONS)


def test_without_the_anchor_there_are_rates_and_no_more(study: EarlierStudy) -> None:
    (study.root / "regression_results.json").unlink()
    shutil.rmtree(study.root / directory_name("helpful_assistant"))
    assembly = assemble(gather(study.root, OPTIONS), OPTIONS, QUESTIONS)
    assert assembly.tables == ("source_rates", "geometry")
    reason = why(assembly, "regressions, power, gates, attenuation and write-up")
    assert reason == "the anchor helpful_assistant is not among the sources"
