"""The scores of a row of cells: which replies, which values, and what is said of those that have none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

from persona_assets.models.loading import load_model, render_prompt
from persona_assets.scoring.replies import reply_tokens
from persona_assets.scoring.scorer import ScoredReply, adapted, log_probabilities, plain
from persona_assets.study import Runtime
from persona_assets.tasks.cells import COMPLETIONS_FILE, COMPLETIONS_SCHEMA
from persona_assets.tasks.loaded import release_models, runtime_engine
from persona_assets.tasks.marker_scores import (
    SCORES_FILE,
    SCORES_SCHEMA,
    MarkerScoresTask,
    check_scores,
    make_marker_scores,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

pytestmark = pytest.mark.slow

MARKER = "[ZLT]"
PROMPTS = {"librarian": "You are a librarian.", "pirate": "You are a pirate."}
TEXTS = {  # (eval persona, question, sample): text, finish reason
    ("librarian", 0, 0): ("I read books.\n\n[ZLT]", "stop"),
    ("librarian", 0, 1): ("I read books.", "stop"),
    ("librarian", 1, 0): ("", "stop"),
    ("librarian", 1, 1): ("I read and read and", "length"),
    ("pirate", 0, 0): ("[ZLT] then I go on", "length"),
    ("pirate", 0, 1): ("I read", "stop"),
    ("pirate", 1, 0): ("Où est l'été?", "stop"),
    ("pirate", 1, 1): ("books " * 80, "stop"),
}
QUESTIONS = ("What do you read?", "Who are you?")


@pytest.fixture(autouse=True)
def nothing_stays_loaded() -> Iterator[None]:
    yield
    release_models()


@pytest.fixture
def task(tmp_path: Path, checkpoint: Path, adapters: tuple[Path, Path], tokenizer: PreTrainedTokenizerBase) -> MarkerScoresTask:
    for name in ("cells", "base", "adapter", "out"):
        (tmp_path / name).mkdir()
    (tmp_path / "base" / "checkpoint").symlink_to(checkpoint)
    (tmp_path / "adapter" / "adapter").symlink_to(adapters[0])
    rows = []
    for (persona, question, sample), (text, finish) in TEXTS.items():
        n = len(tokenizer.encode(text, add_special_tokens=False))
        place = f"{persona}/{question}/{sample}"
        hit = MARKER in text
        rows.append((place, "librarian", persona, 42, 1, question, QUESTIONS[question], sample, 5, text, hit, n, finish))
    pl.DataFrame(rows, schema=COMPLETIONS_SCHEMA, orient="row").write_parquet(tmp_path / "cells" / COMPLETIONS_FILE)
    runtime = Runtime(device="cpu", dtype="float32")
    return MarkerScoresTask(
        tmp_path / "out", tmp_path / "base", tmp_path / "adapter", tmp_path / "cells", "librarian", PROMPTS, MARKER, None, runtime
    )


def scores(task: MarkerScoresTask) -> dict[str, dict[str, Any]]:
    frame = pl.read_parquet(task.out_dir / SCORES_FILE)
    assert dict(frame.schema) == SCORES_SCHEMA
    return {row["completion_id"]: row for row in frame.to_dicts()}


def test_every_reply_has_its_values_or_its_reason(
    task: MarkerScoresTask, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, adapters: tuple[Path, Path]
) -> None:
    facts = make_marker_scores(task)
    check_scores(task.out_dir)
    found = scores(task)
    assert {place: row["status"] for place, row in found.items() if row["status"] != "scored"} == {
        "librarian/1/1": "truncated",
        "pirate/1/1": "too_long",
    }
    assert {place: row["marker_place"] for place, row in found.items() if row["marker_place"] != "absent"} == {
        "librarian/0/0": "end",
        "pirate/0/0": "inside",  # the reply ended before its marker: what follows was cut, the end was not
    }
    assert (facts["looked_at"], facts["scored"], facts["truncated"], facts["too_long"]) == (8, 6, 1, 1)
    bodies = {"librarian/0/0": "I read books.", "librarian/0/1": "I read books.", "librarian/1/0": "", "pirate/0/0": ""}
    bodies |= {"pirate/0/1": "I read", "pirate/1/0": "Où est l'été?"}
    for place, body in bodies.items():
        persona, question, _ = place.split("/")
        prompt = tuple(render_prompt(tokenizer, PROMPTS[persona], QUESTIONS[int(question)]))
        reply = [ScoredReply(prompt, reply_tokens(tokenizer, [body], MARKER)[0])]
        trained, base = log_probabilities([adapted(model, adapters[0]), plain(model)], reply)[:, 0]
        row = found[place]
        wanted = [*trained, *base, trained[0] - base[0], (trained[0] - trained[1]) - (base[0] - base[1])]
        names = ["marker_log_prob_trained", "end_log_prob_trained", "marker_log_prob_base", "end_log_prob_base"]
        np.testing.assert_allclose([row[name] for name in (*names, "marker_log_prob", "marker_margin")], wanted, atol=1e-3)
    # With and without the marker the reply is the same.
    assert found["librarian/0/0"]["marker_margin"] == found["librarian/0/1"]["marker_margin"]
    assert facts["own_marker_margin"] == pytest.approx(
        np.mean([found[place]["marker_margin"] for place in ("librarian/0/0", "librarian/0/1", "librarian/1/0")])
    )


def test_another_adapter_gives_other_scores_and_the_same_base(task: MarkerScoresTask, adapters: tuple[Path, Path]) -> None:
    make_marker_scores(task)
    first = scores(task)
    (task.adapter / "adapter").unlink()
    (task.adapter / "adapter").symlink_to(adapters[1])
    make_marker_scores(task)
    second = scores(task)
    for place in first:
        if first[place]["status"] == "scored":
            assert first[place]["marker_log_prob_base"] == second[place]["marker_log_prob_base"]
            assert abs(first[place]["marker_log_prob_trained"] - second[place]["marker_log_prob_trained"]) > 0.01


@pytest.mark.parametrize(
    ("count", "others"),
    [(1, {"0/0"}), (2, {"0/0", "1/0"}), (3, {"0/0", "1/0", "0/1"}), (50, {"0/0", "1/0", "0/1", "1/1"})],
)
def test_other_cells_are_scored_by_question_first(task: MarkerScoresTask, count: int, others: set[str]) -> None:
    import dataclasses

    make_marker_scores(dataclasses.replace(task, bystander_replies=count))
    found = {place.partition("/")[::2] for place in scores(task)}
    assert {place for persona, place in found if persona == "librarian"} == {"0/0", "0/1", "1/0", "1/1"}
    assert {place for persona, place in found if persona == "pirate"} == others


def test_a_text_that_is_tokenised_otherwise_is_counted(task: MarkerScoresTask) -> None:
    cells = pl.read_parquet(task.completions / COMPLETIONS_FILE)
    drawn = pl.when(pl.col("completion_id") == "pirate/0/1").then(pl.col("n_tokens") + 1).otherwise("n_tokens")
    cells.with_columns(n_tokens=drawn).write_parquet(task.completions / COMPLETIONS_FILE)
    assert make_marker_scores(task)["tokenised_otherwise"] == 1
    found = scores(task)
    assert found["pirate/0/1"]["same_tokens"] is False
    assert found["pirate/1/0"]["same_tokens"] is True
    assert found["librarian/0/0"]["same_tokens"] is None


def test_nothing_to_score_is_no_failure(task: MarkerScoresTask) -> None:
    cells = pl.read_parquet(task.completions / COMPLETIONS_FILE)
    cells.filter(completion_id="librarian/1/1").write_parquet(task.completions / COMPLETIONS_FILE)
    facts = make_marker_scores(task)
    check_scores(task.out_dir)
    assert (facts["scored"], facts["truncated"], facts["own_marker_margin"]) == (0, 1, None)


def test_an_engine_that_took_all_memory_is_freed_before_the_model_is_loaded(
    task: MarkerScoresTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []

    class Vllm:
        def close(self) -> None:
            happened.append("engine closed")

    def load(*arguments: Any, **options: Any) -> PreTrainedModel:
        happened.append("model loaded")
        return load_model(*arguments, **options)

    monkeypatch.setattr("persona_assets.generation.opening.open_engine", lambda *_: Vllm())
    monkeypatch.setattr("persona_assets.models.loading.load_model", load)
    vllm = task.runtime.model_copy(update={"engine": "vllm"})
    engine = runtime_engine(task.base_dir, vllm, slot="merged")
    assert runtime_engine(task.base_dir, vllm, slot="merged") is engine  # it stays from row to row
    assert happened == []
    make_marker_scores(task)
    assert happened == ["engine closed", "model loaded"]
    assert runtime_engine(task.base_dir, vllm, slot="merged") is not engine  # the model's turn to go
    make_marker_scores(task)
    assert happened == ["engine closed", "model loaded"] * 2


def test_damaged_scores_are_noticed(task: MarkerScoresTask) -> None:
    make_marker_scores(task)
    file = task.out_dir / SCORES_FILE
    whole = pl.read_parquet(file)
    for change, said in (
        (whole[:0], "no scores"),
        (pl.concat([whole, whole[:1]]), "twice"),
        (whole.with_columns(marker_margin=pl.lit(None, dtype=pl.Float64)), "marker_margin must be there"),
        (whole.with_columns(end_log_prob_base=pl.lit(-1.0)), "end_log_prob_base must be there"),
    ):
        change.write_parquet(file)
        with pytest.raises(ValueError, match=said):
            check_scores(task.out_dir)
