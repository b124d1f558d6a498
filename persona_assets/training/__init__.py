"""LoRA fine-tuning of one persona at a time on a base model that is loaded once."""

from persona_assets.training.batches import BatchPlan, plan_batches
from persona_assets.training.lora import LoraTrainer
from persona_assets.training.result import StepRecord, TrainingError, TrainingResult
from persona_assets.training.tokenizing import TokenizedRow, tokenize_rows

__all__ = [
    "BatchPlan",
    "LoraTrainer",
    "StepRecord",
    "TokenizedRow",
    "TrainingError",
    "TrainingResult",
    "plan_batches",
    "tokenize_rows",
]
