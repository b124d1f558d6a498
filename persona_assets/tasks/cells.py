"""Sample rows of cells, and read them back."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from persona_assets.hashing import derive_seed
from persona_assets.panel import Persona
from persona_assets.study import Evaluation, Runtime
from persona_assets.tasks.base_model import CHECKPOINT, base_checkpoint
from persona_assets.tasks.loaded import Facts, generation_facts, runtime_device, runtime_engine

if TYPE_CHECKING:
    from persona_assets.generation.engine import Engine

COMPLETIONS_FILE = "completions.parquet"


@dataclass(frozen=True)
class CellsTask:
    """Sample every cell of one row: one model under all eval personas.

    `source`, `training_seed` and `measurement` are None for the base model's cells. A source's cells are drawn from its
    merged checkpoint, or from the base model with its adapter in force; the base model's from neither. Where the runtime's
    weights are merged and only the adapter is given, it is merged for these cells and not kept.
    """

    out_dir: Path
    base_dir: Path
    study: str | None
    source: str | None
    training_seed: int | None
    measurement: int | None
    eval_personas: tuple[Persona, ...]
    questions: tuple[str, ...]
    evaluation: Evaluation
    marker: str
    runtime: Runtime
    identity: Mapping[str, object] = field(hash=False)
    merged: Path | None = None
    adapter: Path | None = None


@contextmanager
def cells_engine(task: CellsTask) -> Iterator[tuple[Engine, Path | None]]:
    """Give the engine of a row of cells, and the adapter to have in force while it generates."""
    base = base_checkpoint(task.base_dir)
    if task.merged is not None or task.adapter is None or task.runtime.weights == "swapped":
        slot = "base" if task.merged is None else "merged"
        yield runtime_engine(task.merged or base, task.runtime, slot=slot), task.adapter
    elif task.runtime.engine == "transformers":
        # Swapping adds base and adapter up in memory as merging does, to the bit.
        swapping = task.runtime.model_copy(update={"weights": "swapped"})
        yield runtime_engine(base, swapping, slot="base"), task.adapter
    else:
        from persona_assets.models.merging import merge_adapter

        # In the product's staging directory, so that a crash leaves nothing behind.
        with tempfile.TemporaryDirectory(dir=task.out_dir, prefix="merged-") as directory:
            probes = [(task.eval_personas[0].prompt, task.questions[0])]
            checkpoint = Path(directory) / CHECKPOINT
            device = runtime_device(task.runtime)
            merge_adapter(base, task.adapter, checkpoint, probe_prompts=probes, dtype=task.runtime.dtype, device=device)
            yield runtime_engine(checkpoint, task.runtime, slot="merged"), None


def make_cells(task: CellsTask) -> Facts:
    """Write every completion of the row; the measurement identity goes into the facts."""
    from persona_assets.generation.engine import Prompt
    from persona_assets.generation.marker import marker_hit

    scope = (task.study or "base", task.source or "base", task.training_seed or 0, task.measurement or 0)
    cells = [(persona, index, question) for persona in task.eval_personas for index, question in enumerate(task.questions)]
    prompts = [
        Prompt(
            persona.prompt,
            question,
            tuple(
                derive_seed("eval_cells", task.evaluation.seed, *scope, persona.id, index, sample)
                for sample in range(task.evaluation.completions_per_question)
            ),
        )
        for persona, index, question in cells
    ]
    with cells_engine(task) as (engine, adapter):
        started = time.perf_counter()
        completions = list(engine.generate(prompts, task.evaluation.sampling, adapter))
        seconds = time.perf_counter() - started
    rows = [(cells[completion.prompt_index], completion) for completion in completions]
    frame = pl.DataFrame(
        {
            "completion_id": [
                _completion_id(*scope, persona.id, index, completion.sample_index) for (persona, index, _), completion in rows
            ],
            "source": [task.source] * len(rows),
            "eval_persona": [persona.id for (persona, _, _), _ in rows],
            "seed": [task.training_seed] * len(rows),
            "measurement": [task.measurement] * len(rows),
            "question_index": [index for (_, index, _), _ in rows],
            "question": [question for (_, _, question), _ in rows],
            "sample_index": [completion.sample_index for _, completion in rows],
            "sampling_seed": [completion.seed for _, completion in rows],
            "text": [completion.text for _, completion in rows],
            "hit": [marker_hit(completion.text, task.marker) for _, completion in rows],
            "n_tokens": [completion.n_tokens for _, completion in rows],
            "finish_reason": [completion.finish_reason for _, completion in rows],
        },
        schema=COMPLETIONS_SCHEMA,
    )
    frame.write_parquet(task.out_dir / COMPLETIONS_FILE)
    weights = {"weights": task.runtime.weights}  # merged in memory or from files: the same sums
    identity = {**task.identity, **engine.identity(), **weights, "sampling": task.evaluation.sampling.model_dump(mode="json")}
    facts = {**generation_facts(engine, completions, seconds), "hits": int(frame["hit"].sum()), "identity": identity}
    own, others = (frame.filter(pl.col("eval_persona").eq(task.source or "").eq(same)) for same in (True, False))
    return facts if task.source is None else {**facts, "source_rate": _share(own["hit"]), "bystander_rate": _share(others["hit"])}


def _share(hits: pl.Series) -> float:
    return int(hits.sum()) / len(hits)


COMPLETIONS_SCHEMA: dict[str, Any] = {
    "completion_id": pl.String,
    "source": pl.String,
    "eval_persona": pl.String,
    "seed": pl.Int64,
    "measurement": pl.Int64,
    "question_index": pl.Int64,
    "question": pl.String,
    "sample_index": pl.Int64,
    "sampling_seed": pl.Int64,
    "text": pl.String,
    "hit": pl.Boolean,
    "n_tokens": pl.Int64,
    "finish_reason": pl.String,
}


def check_completions(directory: Path, *, eval_personas: Sequence[str], n_questions: int, n_samples: int) -> None:
    """Read a row of cells back and check that every completion is there once.

    Raises:
        ValueError: a completion is missing, doubled or without a text; the message says how many.
    """
    frame = pl.read_parquet(directory / COMPLETIONS_FILE)
    expected = len(eval_personas) * n_questions * n_samples
    distinct = frame.select("eval_persona", "question_index", "sample_index").n_unique()
    if not len(frame) == distinct == expected:
        raise ValueError(f"{directory}: {len(frame)} completions ({distinct} distinct), expected {expected}.")
    if frame.select("text", "hit", "n_tokens", "finish_reason").null_count().sum_horizontal().item():
        raise ValueError(f"{directory}: completions without text, hit, token count or finish reason.")


def _completion_id(study: str, source: str, seed: int, measurement: int, persona: str, index: int, sample: int) -> str:
    return f"{study}/{source}/s{seed}/m{measurement}/{persona}/q{index:02d}/{sample}"
