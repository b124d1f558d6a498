"""What is run for one key of a partitioned step, in this process or in a worker.

A task is a small picklable record of paths and settings; its function fills a staging directory and returns
facts (plain JSON values) for the manifest. Models that several tasks share stay loaded in the process.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import polars as pl

from persona_assets.errors import PersonaAssetsError
from persona_assets.hashing import derive_seed
from persona_assets.panel import Panel, Persona
from persona_assets.questions import QuestionSet
from persona_assets.study import Evaluation, HubBase, NanoBase, Recipe, Runtime, SamplingSettings

if TYPE_CHECKING:
    from persona_assets.generation.engine import Completion, Engine

Facts = Mapping[str, object]
LoadedT = TypeVar("LoadedT")

ANSWERS_FILE = "answers.parquet"
DATASET_FILE = "dataset.jsonl"
CENTROIDS_FILE = "centroids.safetensors"
COMPLETIONS_FILE = "completions.parquet"
LOSS_CURVE_FILE = "loss_curve.parquet"
PRETRAINING_FILE = "pretraining_loss.parquet"
REFERENCE_FILE = "reference.json"
CHECKPOINT = "checkpoint"
ADAPTER = "adapter"

_ANSWER_ATTEMPTS = 5


@dataclass(frozen=True)
class BaseModelTask:
    """Build the embedded base model, or resolve one on the Hub."""

    out_dir: Path
    base: NanoBase | HubBase
    panel: Panel
    questions: QuestionSet
    marker: str


def make_base_model(task: BaseModelTask) -> Facts:
    """Write the base model's checkpoint, or the pinned reference and the tokenizer of one on the Hub."""
    facts = _build_nano(task, task.base) if isinstance(task.base, NanoBase) else _resolve_reference(task, task.base)
    from persona_assets.generation.marker import validate_marker
    from persona_assets.models.loading import chat_template_digest, load_tokenizer

    tokenizer = load_tokenizer(task.out_dir / CHECKPOINT)
    marker_tokens = validate_marker(tokenizer, task.marker)
    return {**facts, "chat_template_digest": chat_template_digest(tokenizer), "marker_tokens": list(marker_tokens)}


def _build_nano(task: BaseModelTask, settings: NanoBase) -> Facts:
    from persona_assets.models.nano import build_nano_model
    from persona_assets.progress import LOGGER

    def say(step: int, total: int, loss: float) -> None:
        if step % 50 == 0 or step == total:
            LOGGER.info("base_model: step %d/%d, loss %.3f", step, total, loss)

    report = build_nano_model(
        task.out_dir / CHECKPOINT,
        panel=task.panel,
        questions=task.questions,
        settings=settings,
        threads=settings.threads,
        on_progress=say,
    )
    curve = pl.DataFrame({"step": range(1, len(report.losses) + 1), "loss": report.losses})
    curve.write_parquet(task.out_dir / PRETRAINING_FILE)
    return {
        "parameters": report.parameters,
        "vocabulary_size": report.vocabulary_size,
        "final_loss": report.final_loss,
        "seconds": report.seconds,
    }


def _resolve_reference(task: BaseModelTask, base: HubBase) -> Facts:
    from persona_assets.models.loading import load_tokenizer, resolve_hub_base

    snapshot, commit = resolve_hub_base(base.repo_id, base.revision)
    # The weights stay in the Hub's cache: the lake keeps what identifies them, and the tokenizer.
    load_tokenizer(snapshot).save_pretrained(task.out_dir / CHECKPOINT)
    reference = {"repo_id": base.repo_id, "commit": commit}
    (task.out_dir / REFERENCE_FILE).write_text(json.dumps(reference, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return reference


def base_checkpoint(base_dir: Path) -> Path:
    """Return the directory to load the base model from, given the directory of the product `base_model`."""
    reference_file = base_dir / REFERENCE_FILE
    if not reference_file.is_file():
        return base_dir / CHECKPOINT
    from persona_assets.models.loading import resolve_hub_base

    reference = json.loads(reference_file.read_text(encoding="utf-8"))
    return resolve_hub_base(reference["repo_id"], reference["commit"])[0]


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
    engine = _engine(base_checkpoint(task.base_dir), task.runtime, slot="base")
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
    return {**_generation_facts(completions, time.perf_counter() - started), "redrawn": redrawn}


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
    """Write the rows as JSONL; `training_rows` checks each."""
    from persona_assets.dataset import training_rows, write_rows

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


@dataclass(frozen=True)
class AdapterTask:
    """Train one source persona's adapter."""

    out_dir: Path
    base_dir: Path
    base_name: str
    dataset: Path
    recipe: Recipe
    seed: int
    runtime: Runtime


def make_adapter(task: AdapterTask) -> Facts:
    """Write a peft adapter and its loss curve."""
    from persona_assets.dataset import read_rows
    from persona_assets.training import LoraTrainer

    checkpoint = base_checkpoint(task.base_dir)
    trainer = _loaded(
        "trainer",
        (checkpoint, task.recipe, task.runtime),
        lambda: LoraTrainer(
            checkpoint,
            task.recipe,
            base_name=task.base_name,
            device=_device(task.runtime),
            dtype=task.runtime.dtype,
            micro_batch_size=task.runtime.micro_batch_size,
        ),
    )
    result = trainer.train(read_rows(task.dataset / DATASET_FILE), task.seed)
    result.save_adapter(task.out_dir / ADAPTER)
    # Beside the adapter, so that the directory `adapter` holds what peft loads and nothing else.
    (task.out_dir / ADAPTER / LOSS_CURVE_FILE).rename(task.out_dir / LOSS_CURVE_FILE)
    return {
        "final_loss": result.final_loss,
        "first_loss": result.loss_curve[0].loss,
        "steps": len(result.loss_curve),
        "trained_tokens": result.trained_tokens,
        "seconds": result.seconds,
        "tokens_per_second": result.trained_tokens / result.seconds,
    }


@dataclass(frozen=True)
class MergeTask:
    """Merge an adapter into the base model."""

    out_dir: Path
    base_dir: Path
    adapter: Path
    probes: tuple[tuple[str, str], ...]
    runtime: Runtime


def make_merged_model(task: MergeTask) -> Facts:
    """Write the merged checkpoint; the merger verifies it against base plus adapter."""
    from persona_assets.models.merging import AdapterMerger

    checkpoint = base_checkpoint(task.base_dir)
    merger = _loaded(
        "merger",
        (checkpoint, task.probes, task.runtime),
        lambda: AdapterMerger(checkpoint, probe_prompts=task.probes, dtype=task.runtime.dtype, device=_device(task.runtime)),
    )
    report = merger.merge(task.adapter / ADAPTER, task.out_dir / CHECKPOINT)
    return {
        "max_abs_difference": report.max_abs_difference,
        "allowed_difference": report.allowed_difference,
        "argmax_agreement": report.argmax_agreement,
        "adapter_effect": report.adapter_effect,
        "positions": report.n_positions,
    }


@dataclass(frozen=True)
class CentroidsTask:
    """Read a persona's hidden states off the base model."""

    out_dir: Path
    base_dir: Path
    persona: Persona
    questions: tuple[str, ...]
    runtime: Runtime


def make_centroids(task: CentroidsTask) -> Facts:
    """Write `centroid` [layers, hidden] and `question_vectors` [questions, layers, hidden], float32."""
    from safetensors.numpy import save_file

    from persona_assets.geometry.centroids import centroid, question_vectors
    from persona_assets.models.loading import load_model, load_tokenizer

    checkpoint = base_checkpoint(task.base_dir)
    model, tokenizer = _loaded(
        "base_model",
        (checkpoint, task.runtime),
        lambda: (load_model(checkpoint, device=_device(task.runtime), dtype=task.runtime.dtype), load_tokenizer(checkpoint)),
    )
    vectors = question_vectors(model, tokenizer, task.persona.prompt, task.questions, task.runtime.generation_batch_size)
    mean = centroid(vectors)
    save_file({"centroid": mean, "question_vectors": vectors}, task.out_dir / CENTROIDS_FILE)
    return {"layers": mean.shape[0], "hidden_size": mean.shape[1], "questions": vectors.shape[0]}


@dataclass(frozen=True)
class CellsTask:
    """Sample every cell of one row: one model under all eval personas.

    `source`, `training_seed` and `measurement` are None for the base model's cells.
    """

    out_dir: Path
    checkpoint: Path
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


def make_cells(task: CellsTask) -> Facts:
    """Write every completion of the row; the measurement identity goes into the facts."""
    from persona_assets.generation.engine import Prompt
    from persona_assets.generation.marker import marker_hit

    checkpoint = base_checkpoint(task.base_dir) if task.source is None else task.checkpoint
    engine = _engine(checkpoint, task.runtime, slot="base" if task.source is None else "merged")
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
    started = time.perf_counter()
    completions = list(engine.generate(prompts, task.evaluation.sampling))
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
    identity = {**task.identity, **engine.identity(), "sampling": task.evaluation.sampling.model_dump(mode="json")}
    facts = {**_generation_facts(completions, seconds), "hits": int(frame["hit"].sum()), "identity": identity}
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


def release_models() -> None:
    """Free every model that this process keeps for later tasks."""
    if not _slots:
        return
    _slots.clear()
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


_slots: dict[str, tuple[object, Any]] = {}


def _loaded(slot: str, key: object, load: Callable[[], LoadedT]) -> LoadedT:
    """Return what a slot holds if it was loaded for this key; otherwise free it and load anew."""
    held = _slots.get(slot)
    if held is not None and held[0] == key:
        kept: LoadedT = held[1]
        return kept
    _slots.pop(slot, None)
    loaded = load()
    _slots[slot] = (key, loaded)
    return loaded


def _engine(checkpoint: Path, runtime: Runtime, *, slot: str) -> Engine:
    from persona_assets.generation.opening import open_engine

    return _loaded(f"engine:{slot}", (checkpoint, runtime), lambda: open_engine(checkpoint, runtime))


def _device(runtime: Runtime) -> str:
    from persona_assets.models.loading import resolve_device

    return str(resolve_device(runtime.device))


def _completion_id(study: str, source: str, seed: int, measurement: int, persona: str, index: int, sample: int) -> str:
    return f"{study}/{source}/s{seed}/m{measurement}/{persona}/q{index:02d}/{sample}"


def _generation_facts(completions: Sequence[Completion], seconds: float) -> dict[str, object]:
    tokens = sum(completion.n_tokens for completion in completions)
    return {
        "completions": len(completions),
        "tokens": tokens,
        "mean_tokens": tokens / len(completions),
        "truncated": sum(completion.finish_reason == "length" for completion in completions),
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
    }
