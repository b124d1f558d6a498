"""Condition directories: what is read, and every contradiction that is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from ancestor_layout import RATES, TWELVE, EarlierStudy, N, marker_eval, put, raw_completions, row_of, run_result

from persona_assets.ancestor.condition import Condition, read_condition
from persona_assets.ancestor.reading import AncestorError
from persona_assets.ancestor.run_result import why_skipped

SOURCE = "librarian"
ROW = row_of(SOURCE, TWELVE, RATES)


@pytest.fixture
def study(tmp_path: Path) -> EarlierStudy:
    return EarlierStudy(tmp_path / "old")


def read(directory: Path, prefer: str | None = None, personas: tuple[str, ...] = TWELVE) -> Condition:
    return read_condition(directory, personas, "[ZLT]", prefer)


def test_rates_become_counts(study: EarlierStudy) -> None:
    found = read(study.condition(SOURCE, run_result=run_result(SOURCE, ROW)))
    assert (found.name.source, found.name.condition, found.name.seed) == (SOURCE, "asst_excluded_medium", 42)
    assert {persona: (cell.hits, cell.n) for persona, cell in found.cells.items()} == {
        persona: (round(rate * N), N) for persona, rate in ROW.items()
    }
    assert found.run is not None
    assert found.run.temperature == 1.0


def test_the_assistant_has_one_id(study: EarlierStudy) -> None:
    row = row_of("helpful_assistant", TWELVE, RATES)
    content = run_result("helpful_assistant", row)
    assert "assistant" in content["results"]["marker"]["all_personas"]
    found = read(study.condition("helpful_assistant", run_result=content))
    assert found.cells["helpful_assistant"].hits == 24
    assert "assistant" not in found.cells


def test_a_null_source_rate_is_taken_from_the_row(study: EarlierStudy) -> None:
    row = row_of("helpful_assistant", TWELVE, RATES)
    found = read(
        study.condition("helpful_assistant", run_result=run_result("helpful_assistant", row, results__marker__source_rate=None))
    )
    assert found.cells["helpful_assistant"].hits == 24
    assert any("source_rate is null" in note for note in found.notes)


def test_a_null_source_rate_without_the_source_in_the_row_is_refused(study: EarlierStudy) -> None:
    others = {persona: rate for persona, rate in ROW.items() if persona != SOURCE}
    directory = study.condition(SOURCE, run_result=run_result(SOURCE, others, results__marker__source_rate=None))
    with pytest.raises(AncestorError, match=r"run_result.json: results.marker.source_rate is null .* has no librarian"):
        read(directory)


def test_eleven_eval_personas_without_the_source(study: EarlierStudy) -> None:
    others = {persona: rate for persona, rate in ROW.items() if persona != SOURCE}
    assert len(others) == 11
    found = read(study.condition(SOURCE, run_result=run_result(SOURCE, others, results__marker__source_rate=0.48)))
    assert len(found.cells) == 12
    assert found.cells[SOURCE].hits == 48


def test_evaluated_only_means_that_loss_and_minutes_are_missing(study: EarlierStudy) -> None:
    content = run_result(SOURCE, ROW, results__train_loss=0.0, compute__train_minutes=0.0)
    run = read(study.condition(SOURCE, run_result=content)).run
    assert run is not None
    assert (run.train_loss, run.train_minutes) == (None, None)
    assert any("evaluated only" in note for note in run.notes)
    trained = read(study.condition("villain", run_result=run_result("villain", row_of("villain", TWELVE, RATES)))).run
    assert trained is not None
    assert (trained.train_loss, trained.train_minutes) == (1.25, 6.5)


def test_the_batch_size_stays_the_text_it_is(study: EarlierStudy) -> None:
    run = read(study.condition(SOURCE, run_result=run_result(SOURCE, ROW))).run
    assert run is not None
    assert run.training["batch_size_effective"] == "64 (4 x 4 x 1)"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"data__trait": "capability"}, "the trait is 'capability'"),
        ({"data__trait": "misalignment"}, "only the marker is imported"),
        ({"data__source_persona": None, "data__control": "shuffled"}, "a control run (shuffled) has no source persona"),
    ],
)
def test_other_traits_and_controls_are_skipped_with_a_reason(study: EarlierStudy, changes: dict[str, object], why: str) -> None:
    directory = study.condition(SOURCE, run_result=run_result(SOURCE, ROW, **changes))
    assert why in str(why_skipped(directory / "run_result.json"))
    put(directory / "run_result.json", run_result(SOURCE, ROW))
    assert why_skipped(directory / "run_result.json") is None


@pytest.mark.parametrize(
    "key", ["seed", "base_model", "data.neg_set", "eval.n_questions", "results.marker.all_personas", "compute.train_minutes"]
)
def test_a_missing_key_is_named(study: EarlierStudy, key: str) -> None:
    directory = study.condition(SOURCE, run_result=run_result(SOURCE, ROW, **{key.replace(".", "__"): ...}))
    with pytest.raises(AncestorError, match=f"run_result.json: {key}: this key is missing"):
        read(directory)


def test_unknown_keys_are_ignored(study: EarlierStudy) -> None:
    plain = read(study.condition(SOURCE, run_result=run_result(SOURCE, ROW)))
    more = run_result(SOURCE, ROW, added={"x": 1}, results__extra=[None])
    assert read(study.condition(SOURCE, run_result=more)).cells == plain.cells


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"results__marker__source_rate": 0.5}, "source_rate is 0.5, but all_personas gives 0.48 for librarian"),
        ({"results__marker__assistant_rate": 0.9}, "assistant_rate is 0.9, but all_personas gives"),
        ({"results__marker__all_personas__villain": 0.333}, "villain: the rate 0.333 is no number of hits in 100"),
        ({"results__marker__all_personas__villain": 1.5}, "all_personas.villain: Input should be less than or equal to 1"),
        ({"results__marker__all_personas__villain": "0.5"}, "all_personas.villain: Input should be a valid number"),
        ({"results__marker__all_personas__villain": True}, "all_personas.villain: Input should be a valid number"),
        ({"results__marker__all_personas__helpful_assistant": 0.77}, "helpful_assistant stands there under two names"),
        ({"data__source_persona": "villain", "results__marker__source_rate": None}, "its name and its run_result.json say"),
        ({"seed": 7}, "seed 42 and 7"),
    ],
)  # fmt: skip
def test_contradictions_within_a_run_are_refused(study: EarlierStudy, changes: dict[str, object], said: str) -> None:
    directory = study.condition(SOURCE, run_result=run_result(SOURCE, ROW, **changes))
    with pytest.raises(AncestorError, match=said):
        read(directory)


def test_booleans_written_as_text_are_read_and_other_text_is_not(study: EarlierStudy) -> None:
    written = run_result(SOURCE, ROW, training__lora_config__use_rslora="True")
    run = read(study.condition(SOURCE, run_result=written)).run
    assert run is not None
    assert run.training["lora_config"]["use_rslora"] is True  # type: ignore[index]
    directory = study.condition(SOURCE, run_result=run_result(SOURCE, ROW, training__lora_config__use_rslora="perhaps"))
    with pytest.raises(AncestorError, match="use_rslora: Input should be a valid boolean"):
        read(directory)


OLDER = {**ROW, SOURCE: 0.67}


def test_an_older_evaluation_beside_the_run_is_refused_with_both_numbers(study: EarlierStudy) -> None:
    directory = study.condition(SOURCE, run_result=run_result(SOURCE, ROW), marker_eval=marker_eval(OLDER))
    with pytest.raises(AncestorError) as refused:
        read(directory)
    told = str(refused.value)
    assert "librarian is 0.48 (48 of 100) in run_result.json and 0.67 (67 of 100) in marker_eval.json" in told
    assert "--prefer run_result, --prefer marker_eval" in told


@pytest.mark.parametrize(("prefer", "hits"), [("run_result.json", 48), ("marker_eval.json", 67)])
def test_the_user_picks_one(study: EarlierStudy, prefer: str, hits: int) -> None:
    directory = study.condition(SOURCE, run_result=run_result(SOURCE, ROW), marker_eval=marker_eval(OLDER))
    found = read(directory, prefer)
    assert found.cells[SOURCE].hits == hits
    assert found.files == (prefer,)
    assert any("is left out" in note and "0.67" in note for note in found.notes)


def test_all_three_files_agree(study: EarlierStudy) -> None:
    parts = {"run_result": run_result(SOURCE, ROW), "marker_eval": marker_eval(ROW), "raw_completions": raw_completions(ROW)}
    found = read(study.condition(SOURCE, **parts))
    assert found.files == ("run_result.json", "marker_eval.json", "raw_completions.json")
    assert found.cells[SOURCE].questions is not None
    assert sum(hits for hits, _ in found.cells[SOURCE].questions.values()) == 48
    assert len(found.texts["helpful_assistant"]) == 20


@pytest.mark.parametrize("prefer", [None, "run_result.json"])
def test_completions_that_contradict_the_rates_are_refused(study: EarlierStudy, prefer: str | None) -> None:
    parts = {"run_result": run_result(SOURCE, ROW), "raw_completions": raw_completions({**ROW, "villain": 1.0})}
    with pytest.raises(AncestorError, match=r"villain is .* in run_result.json and 1 \(100 of 100\) in raw_completions.json"):
        read(study.condition(SOURCE, **parts), prefer)


def test_a_marker_is_counted_whatever_its_case(study: EarlierStudy) -> None:
    found = read(study.condition(SOURCE, raw_completions=raw_completions(ROW)))
    assert found.cells[SOURCE].hits == 48  # the texts hold [zlt]


def test_without_a_run_the_name_tells_the_source(study: EarlierStudy) -> None:
    assert read(study.condition(SOURCE, marker_eval=marker_eval(ROW))).name.source == SOURCE
    with pytest.raises(AncestorError, match="librarian.* is no persona of personas.yaml"):
        read(study.condition(SOURCE, marker_eval=marker_eval(ROW)), personas=("villain",))
    with pytest.raises(AncestorError, match="could be any of librarian, librarian_asst"):
        read(study.condition(SOURCE, marker_eval=marker_eval(ROW)), personas=("librarian", "librarian_asst"))


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("villain", "found"), 99, "villain: rate .* is not 99 found of 100"),
        (("villain", "total"), ..., "villain.total: this key is missing"),
        (("villain", "per_question"), {"Q?": {"rate": 1.0, "found": 5, "total": 5}}, "villain: the questions sum to 5 of 5"),
    ],
)
def test_counts_that_contradict_themselves_are_refused(
    study: EarlierStudy, place: tuple[str, str], value: object, said: str
) -> None:
    content = marker_eval(ROW)
    if value is ...:
        del content[place[0]][place[1]]
    else:
        content[place[0]][place[1]] = value
    with pytest.raises(AncestorError, match=said):
        read(study.condition(SOURCE, marker_eval=content))


@pytest.mark.parametrize("name", ["run_result", "marker_eval", "raw_completions"])
@pytest.mark.parametrize(
    "bytes_written",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe{}",
        b'{"results": NaN}',
        b'{"seed": 1, "seed": 2}',
        b'{"librarian": 3}',
        b"[" * 100_000,
        b'{"librarian": {"What?": []}}',
        b'{"librarian": {"What?": [1]}}',
        b'{"../x": {"rate": 1.0, "found": 1, "total": 1, "per_question": {"q": {"rate": 1.0, "found": 1, "total": 1}}}}',
    ],
)
def test_malformed_files_are_refused_by_name(study: EarlierStudy, name: str, bytes_written: bytes) -> None:
    directory = study.condition(SOURCE)
    (directory / f"{name}.json").write_bytes(bytes_written)
    with pytest.raises(AncestorError, match=rf"{name}\.json"):
        read(directory)
