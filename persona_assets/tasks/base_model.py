"""Build the embedded base model, or resolve one on the Hub; and find it again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from persona_assets.panel import Panel
from persona_assets.questions import QuestionSet
from persona_assets.study import HubBase, NanoBase
from persona_assets.tasks.loaded import Facts
from persona_assets.workers import available_cores

CHECKPOINT = "checkpoint"
PRETRAINING_FILE = "pretraining_loss.parquet"
REFERENCE_FILE = "reference.json"
_ROWS_WORTH_A_PROCESS = 4096
"""Rows of pre-training from which a second process saves more than its start costs."""


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
        processes=available_cores() if settings.steps * settings.batch_rows >= _ROWS_WORTH_A_PROCESS else 1,
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
