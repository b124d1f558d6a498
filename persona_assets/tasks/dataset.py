"""The training data of a source persona: answers sampled from the base model, and chat rows made of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from persona_assets.errors import PersonaAssetsError
from persona_assets.hashing import derive_seed
from persona_assets.panel import Persona
from persona_assets.study import Runtime, SamplingSettings
from persona_assets.tasks.base_model import CHECKPOINT, base_checkpoint
from persona_assets.tasks.loaded import Facts, generation_facts, loaded, runtime_engine

if TYPE_CHECKING:
    from persona_assets.generation.engine import Completion, Engine

ANSWERS_FILE = "answers.parquet"
DATASET_FILE = "dataset.jsonl"
_ANSWER_ATTEMPTS = 5


@dataclass(frozen=True)
class AnswersTask:
    """Sample a persona's own answers to the training questions from the base model."""

    out_dir: Path
    base_dir: Path
    persona: Persona
    questions: tuple[str, ...]
    sampling: SamplingSettings
    seed: int
    runtime: Runtime


def make_answers(task: AnswersTask) -> Facts:
    """Write one answer to each question; an empty one is drawn again under the next seed, a few times at most."""
    engine = runtime_engine(base_checkpoint(task.base_dir), task.runtime, slot="base")
    started = time.perf_counter()
    drawn: dict[str, Completion] = {}
    redrawn = 0
    for attempt in range(_ANSWER_ATTEMPTS):
        waiting = [question for question in task.questions if question not in drawn]
        redrawn += len(waiting) if attempt else 0
        drawn.update(_draw_answers(task, engine, waiting, attempt))
    if len(drawn) < len(task.questions):
        empty = next(question for question in task.questions if question not in drawn)
        raise PersonaAssetsError(
            f"{task.persona.id}: the base model gave an empty answer to {empty!r} {_ANSWER_ATTEMPTS} times. "
            "Look at its completions: the base model or the prompt is at fault."
        )
    completions = [drawn[question] for question in task.questions]
    pl.DataFrame(
        {
            "question": list(task.questions),
            "answer": [completion.text for completion in completions],
            "n_tokens": [completion.n_tokens for completion in completions],
            "finish_reason": [completion.finish_reason for completion in completions],
        }
    ).write_parquet(task.out_dir / ANSWERS_FILE)
    return {**generation_facts(engine, completions, time.perf_counter() - started), "redrawn": redrawn}


def _draw_answers(task: AnswersTask, engine: Engine, questions: Sequence[str], attempt: int) -> dict[str, Completion]:
    from persona_assets.generation.engine import Prompt

    prompts = [
        Prompt(
            task.persona.prompt,
            question,
            (derive_seed("training_answers", task.seed, task.persona.id, question, attempt),),
        )
        for question in questions
    ]
    completions = engine.generate(prompts, task.sampling) if prompts else ()
    return {questions[found.prompt_index]: found for found in completions if found.text.strip()}


@dataclass(frozen=True)
class DatasetTask:
    """Put together a source persona's chat rows."""

    out_dir: Path
    base_dir: Path
    source: Persona
    negatives: tuple[Persona, ...]
    answers: Mapping[str, Path] = field(hash=False)
    questions: tuple[str, ...]
    marker: str
    rows_per_persona: int


def make_dataset(task: DatasetTask) -> Facts:
    """Write the rows as JSONL; `training_rows` checks each, and the base model's tokenizer has to carry the marker."""
    from persona_assets.dataset import training_rows, write_rows
    from persona_assets.generation.marker import validate_marker
    from persona_assets.models.loading import load_tokenizer

    # Again: the marker can have been changed since the base model was made.
    checkpoint = task.base_dir / CHECKPOINT
    validate_marker(loaded("tokenizer", (checkpoint,), lambda: load_tokenizer(checkpoint)), task.marker)

    tables = {persona: pl.read_parquet(path / ANSWERS_FILE) for persona, path in task.answers.items()}
    answers = {
        persona: dict(zip(table["question"].to_list(), table["answer"].to_list(), strict=True))
        for persona, table in tables.items()
    }
    rows = training_rows(
        task.source,
        task.negatives,
        task.questions,
        answers,
        marker=task.marker,
        rows_per_persona=task.rows_per_persona,
    )
    write_rows(task.out_dir / DATASET_FILE, rows)
    return {
        "rows": len(rows),
        "marked_rows": task.rows_per_persona,
        "negatives": [persona.id for persona in task.negatives],
        "sample": rows[0]["completion"][0]["content"],
    }
