"""What a training leaves behind: its loss curve and an adapter that peft loads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_assets.adapter_files import CONFIG_FILE, LOSS_CURVE_FILE, WEIGHTS_FILE
from persona_assets.errors import PersonaAssetsError

if TYPE_CHECKING:
    import torch



class TrainingError(PersonaAssetsError):
    """Rows that cannot be trained on, or a training that failed."""


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step.

    Attributes:
        step: number of the step, from 1.
        epoch: pass over the rows, from 1.
        loss: mean cross-entropy (nats) over the completion tokens of the effective batch, before the update.
        learning_rate: rate of this update.
        tokens: completion tokens of the effective batch.
    """

    step: int
    epoch: int
    loss: float
    learning_rate: float
    tokens: int


@dataclass(frozen=True)
class TrainingResult:
    """A finished training.

    Attributes:
        loss_curve: one record for each optimizer step.
        seconds: wall time; it stands in no file of the adapter, whose bytes depend on the inputs alone.
        weights: float32 tensors on the CPU under peft's file names, a copy of its own.
        config: peft's adapter configuration as plain JSON values.
        micro_batch_size: rows of one forward pass at most; sums, and so the last bits of the weights, depend on it.
        out_of_memory: whether the device ran out of memory, so that micro-batches were halved.
    """

    loss_curve: tuple[StepRecord, ...]
    seconds: float
    weights: dict[str, torch.Tensor]
    config: dict[str, Any]
    micro_batch_size: int
    out_of_memory: bool = False

    @property
    def final_loss(self) -> float:
        """Mean loss over the completion tokens of the last epoch, in nats.

        The mean over an epoch rather than the last step: the last step is a few rows.
        """
        last = [record for record in self.loss_curve if record.epoch == self.loss_curve[-1].epoch]
        return sum(record.loss * record.tokens for record in last) / sum(record.tokens for record in last)

    @property
    def trained_tokens(self) -> int:
        """Completion tokens that were trained on, over all epochs."""
        return sum(record.tokens for record in self.loss_curve)

    def save_adapter(self, out_dir: Path) -> None:
        """Write the adapter as `PeftModel.from_pretrained` reads it, and the loss curve beside it.

        The bytes depend on the result alone, not on the directory or the time.

        Args:
            out_dir: directory for the three files; made if it does not exist.
        """
        import polars as pl

        self.save_weights(out_dir)
        pl.DataFrame([asdict(record) for record in self.loss_curve]).write_parquet(out_dir / LOSS_CURVE_FILE)

    def save_weights(self, out_dir: Path) -> None:
        """Write the adapter alone, as `PeftModel.from_pretrained` reads it.

        Args:
            out_dir: directory for the two files; made if it does not exist.
        """
        from safetensors.torch import save_file

        out_dir.mkdir(parents=True, exist_ok=True)
        save_file(self.weights, out_dir / WEIGHTS_FILE, metadata={"format": "pt"})
        text = json.dumps(self.config, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        (out_dir / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
