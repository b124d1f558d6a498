"""An adapter, its merged model, and the centroids of a persona: what is computed with torch on one checkpoint."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from persona_assets.adapter_files import LOSS_CURVE_FILE, WEIGHTS_FILE
from persona_assets.hashing import sha256_file
from persona_assets.models.merged_weights import GIB, room_for_one, weights_on_disk
from persona_assets.panel import Persona
from persona_assets.study import Recipe, Runtime
from persona_assets.tasks.base_model import CHECKPOINT, base_checkpoint
from persona_assets.tasks.dataset import DATASET_FILE
from persona_assets.tasks.loaded import OUT_OF_MEMORY, Facts, loaded, runtime_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ADAPTER = "adapter"
CENTROIDS_FILE = "centroids.safetensors"
MERGE_FILE = "merge.json"
"""Stands in a merged model's product in place of weights that are not written: what they are merged of."""


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
    trainer = loaded(
        "trainer",
        (checkpoint, task.recipe, task.runtime),
        lambda: LoraTrainer.load(
            checkpoint,
            task.recipe,
            base_name=task.base_name,
            device=runtime_device(task.runtime),
            dtype=task.runtime.dtype,
            micro_batch_size=task.runtime.micro_batch_size,
            micro_batch_tokens=task.runtime.micro_batch_tokens,
            recompute_activations=task.runtime.recompute_activations,
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
        "micro_batch_size": result.micro_batch_size,
        **({OUT_OF_MEMORY: _halved(task.runtime.micro_batch_size, result.micro_batch_size)} if result.out_of_memory else {}),
    }


def _halved(before: int, after: int) -> str:
    return f"the device ran out of memory with micro-batches of {before} rows; trained with {after}"


@dataclass(frozen=True)
class MergeTask:
    """Merge an adapter into the base model; the runtime's policy says whether the weights are written."""

    out_dir: Path
    base_dir: Path
    adapter: Path
    probes: tuple[tuple[str, str], ...]
    runtime: Runtime


def make_merged_model(task: MergeTask) -> Facts:
    """Write the merged checkpoint, or what it would be merged of; the merger verifies it against base plus adapter."""
    from persona_assets.models.merging import AdapterMerger

    checkpoint = base_checkpoint(task.base_dir)
    merger = loaded(
        "merger",
        (checkpoint, task.probes, task.runtime),
        lambda: AdapterMerger(
            checkpoint, probe_prompts=task.probes, dtype=task.runtime.dtype, device=runtime_device(task.runtime)
        ),
    )
    started = time.perf_counter()
    adapter = task.adapter / ADAPTER
    merged_models = task.out_dir.parents[1]  # <asset>/seed=<s>/<staging>
    limit = None if task.runtime.merged_weights_gib is None else round(task.runtime.merged_weights_gib * GIB)
    written = task.runtime.merged_weights != "never" and room_for_one(merged_models, checkpoint, limit, task.runtime.workers)
    if written:
        report = merger.merge(adapter, task.out_dir / CHECKPOINT)
    else:
        report = merger.check(adapter)
        parts = {"base": checkpoint.name, "adapter": sha256_file(adapter / WEIGHTS_FILE), "dtype": task.runtime.dtype}
        (task.out_dir / MERGE_FILE).write_text(json.dumps(parts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return {
        "seconds": time.perf_counter() - started,
        "weights_written": written,
        "merged_bytes_on_disk": weights_on_disk(merged_models),
        **({} if limit is None else {"merged_bytes_limit": limit}),
        "max_abs_difference": report.max_abs_difference,
        "allowed_difference": report.allowed_difference,
        "argmax_agreement": report.argmax_agreement,
        "adapter_effect": report.adapter_effect,
        "positions": report.n_positions,
    }


def loaded_base_model(checkpoint: Path, runtime: Runtime) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the base model and its tokenizer, from their slot while they are the same ones."""
    from persona_assets.models.loading import load_model, load_tokenizer

    return loaded(
        "base_model",
        (checkpoint, runtime),
        lambda: (load_model(checkpoint, device=runtime_device(runtime), dtype=runtime.dtype), load_tokenizer(checkpoint)),
    )


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

    model, tokenizer = loaded_base_model(base_checkpoint(task.base_dir), task.runtime)
    started = time.perf_counter()
    vectors = question_vectors(model, tokenizer, task.persona.prompt, task.questions, task.runtime.generation_batch_size)
    seconds = time.perf_counter() - started
    mean = centroid(vectors)
    save_file({"centroid": mean, "question_vectors": vectors}, task.out_dir / CENTROIDS_FILE)
    return {"layers": mean.shape[0], "hidden_size": mean.shape[1], "questions": vectors.shape[0], "seconds": seconds}
