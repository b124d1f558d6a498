"""Build the embedded base model, or resolve one on the Hub; and find it again."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from persona_assets.errors import ConfigurationError
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
HUB_CACHE_VARIABLE = "PERSONA_HUB_CACHE"


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

    snapshot, commit = resolve_hub_base(base.repo_id, base.revision, hub_cache(task.out_dir))
    _check_sizes(snapshot, base)
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
    return resolve_hub_base(reference["repo_id"], reference["commit"], hub_cache(base_dir))[0]


def hub_cache(base_dir: Path) -> Path | None:
    """Return where downloaded weights are kept: in the lake, unless the user set a place of his own.

    Args:
        base_dir: directory of the product `base_model`, or its staging directory beside it.

    Returns:
        `PERSONA_HUB_CACHE` if that is set; None, the Hub client's own place, if HF_HOME or HF_HUB_CACHE is; else
        `hub_cache` in the lake's root.
    """
    given = os.environ.get(HUB_CACHE_VARIABLE)
    if given:
        return Path(given)
    if os.environ.get("HF_HUB_CACHE") or os.environ.get("HF_HOME"):
        return None
    return base_dir.absolute().parents[1] / "hub_cache"


def base_is_here(base: NanoBase | HubBase, base_dir: Path) -> bool:
    """Say whether making the product `base_model` fetches nothing and builds nothing."""
    if isinstance(base, NanoBase):
        return False
    from persona_assets.models.checkpoints import hub_base_is_here

    return hub_base_is_here(base.repo_id, base.revision, hub_cache(base_dir))


def _check_sizes(snapshot: Path, base: HubBase) -> None:
    """Compare the sizes that the profile names with those of the checkpoint: memory and time were estimated from them."""
    config = json.loads((snapshot / "config.json").read_text(encoding="utf-8"))
    names = {
        "layers": "num_hidden_layers",
        "hidden_size": "hidden_size",
        "mlp_size": "intermediate_size",
        "heads": "num_attention_heads",
        "kv_heads": "num_key_value_heads",
        "vocabulary_size": "vocab_size",
    }
    for field, name in names.items():
        declared, found = getattr(base, field), config.get(name)
        if declared is not None and found is not None and declared != found:
            raise ConfigurationError(
                f"base_model.{field}: the profile says {declared}, {base.repo_id} has {found}. Correct the profile."
            )
