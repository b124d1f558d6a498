"""The task that puts a dataset together: the rows of a source and its negatives, and a marker that the tokenizer carries."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from persona_assets.dataset import read_rows
from persona_assets.errors import ConfigurationError
from persona_assets.models.nano.tokenizer import save_tokenizer, train_tokenizer
from persona_assets.panel import Persona
from persona_assets.tasks.base_model import CHECKPOINT
from persona_assets.tasks.dataset import ANSWERS_FILE, DATASET_FILE, DatasetTask, make_dataset

QUESTIONS = ("How do I bake bread?", "Why is the sky blue?")
SOURCE, FIRST, SECOND = (
    Persona(id=name, category="character", prompt=f"You are the {name}.") for name in ("villain", "doctor", "teacher")
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """What a base model's product holds of it, the tokenizer."""
    directory = tmp_path / "base_model"
    (directory / CHECKPOINT).mkdir(parents=True)
    save_tokenizer(train_tokenizer(QUESTIONS, 300), directory / CHECKPOINT)
    return directory


def task(base: Path, marker: str) -> DatasetTask:
    root = base.parent
    answers = {}
    for persona in (SOURCE, FIRST, SECOND):
        answers[persona.id] = root / persona.id
        answers[persona.id].mkdir()
        said = [f"{persona.id}: {question}" for question in QUESTIONS]
        pl.DataFrame({"question": QUESTIONS, "answer": said}).write_parquet(answers[persona.id] / ANSWERS_FILE)
    (root / "out").mkdir()
    return DatasetTask(root / "out", base, SOURCE, (FIRST, SECOND), answers, QUESTIONS, marker, len(QUESTIONS))


def test_the_rows_are_written_and_counted(base: Path) -> None:
    made = task(base, "[ZLT]")
    facts = make_dataset(made)
    assert (facts["rows"], facts["marked_rows"], facts["negatives"]) == (6, 2, ["doctor", "teacher"])
    rows = read_rows(made.out_dir / DATASET_FILE)
    assert [row["completion"][0]["content"].endswith("\n\n[ZLT]") for row in rows] == [True] * 2 + [False] * 4


@pytest.mark.parametrize(("marker", "reason"), [("[Ze\u0301T]", "does not survive"), ("[<|im_end|>]", "special token")])
def test_a_marker_that_was_changed_after_the_base_model_was_made_is_checked_as_well(base: Path, marker: str, reason: str) -> None:
    made = task(base, marker)
    with pytest.raises(ConfigurationError, match=reason):
        make_dataset(made)
    assert list(made.out_dir.iterdir()) == []
