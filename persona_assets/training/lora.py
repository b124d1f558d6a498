"""The LoRA trainer: peft adapters on a base model that stays loaded, and unchanged, between personas."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_assets.hashing import derive_seed
from persona_assets.training.batches import BatchPlan, plan_batches
from persona_assets.training.effective_weights import EffectiveWeightsDecoder, effective_weights_pay, lora_layers
from persona_assets.training.packing import ATTENTION, pack_rows, register_attention
from persona_assets.training.result import StepRecord, TrainingError, TrainingResult
from persona_assets.training.tokenizing import TokenizedRow, tokenize_rows

if TYPE_CHECKING:
    import torch

    from persona_assets.dataset import TrainingRow
    from persona_assets.study import Recipe

_ADAPTER = "default"  # peft's own name for a model's only adapter


class LoraTrainer:
    """Trains one adapter after another on one base model.

    A result depends on rows, seed, recipe and base alone, not on what this object trained before: adapter
    weights, optimizer and schedule are new for each training, every random draw comes from the seed, and the
    base weights are frozen. Micro-batches save memory and do not change what is computed: the loss is
    normalised over the completion tokens of the whole effective batch.
    """

    def __init__(
        self,
        base_checkpoint: Path,
        recipe: Recipe,
        *,
        base_name: str,
        device: str = "cpu",
        dtype: str = "float32",
        micro_batch_size: int = 16,
    ) -> None:
        """Load the base model and put an adapter on it.

        Args:
            base_checkpoint: checkpoint directory of the base model.
            recipe: LoRA hyper-parameters.
            base_name: lasting name of the base model, for adapters' configurations, in place of a path.
            device: torch device.
            dtype: precision of the base weights; LoRA weights, gradients and optimizer are always float32.
            micro_batch_size: rows of one forward pass.

        Raises:
            TrainingError: a target module of the recipe is not in the base model.
        """
        from peft import LoraConfig, get_peft_model

        from persona_assets.models.loading import load_model, load_tokenizer

        self.recipe = recipe
        self.micro_batch_size = micro_batch_size
        self.tokenizer = load_tokenizer(base_checkpoint)
        base = load_model(base_checkpoint, device=device, dtype=dtype)
        _check_targets(base, recipe)
        register_attention()
        base.set_attn_implementation(ATTENTION)
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=recipe.r,
            lora_alpha=recipe.alpha,
            lora_dropout=recipe.dropout,
            use_rslora=recipe.use_rslora,
            target_modules=list(recipe.target_modules),
            bias="none",
        )
        self._device = next(base.parameters()).device
        with _private_generators(self._device):
            self._model = get_peft_model(base, config, autocast_adapter_dtype=True)
        # peft notes the directory the base was loaded from, which says nothing on another machine.
        self._model.peft_config[_ADAPTER].base_model_name_or_path = base_name
        self._decoder = base.get_decoder()
        if effective_weights_pay(self._model, self._decoder, recipe.r, recipe.dropout):
            self._decoder = EffectiveWeightsDecoder(self._model, self._decoder, _ADAPTER)
        self._head = base.get_output_embeddings()
        self._parameters = [parameter for parameter in self._model.parameters() if parameter.requires_grad]

    def train(
        self, rows: Sequence[TrainingRow], seed: int, on_step: Callable[[StepRecord], None] | None = None
    ) -> TrainingResult:
        """Train a new adapter.

        Args:
            rows: prompt/completion rows.
            seed: seed of the initial weights, the order of the rows and dropout.
            on_step: called after each optimizer step.

        Raises:
            TrainingError: rows that cannot be tokenised, or a loss or gradient that is not finite.
        """
        import torch

        started = time.perf_counter()
        tokenized = tokenize_rows(self.tokenizer, rows, self.recipe.max_length)
        plans = plan_batches(
            [len(row.input_ids) for row in tokenized],
            seed=seed,
            epochs=self.recipe.epochs,
            effective_batch_size=self.recipe.effective_batch_size,
            micro_batch_size=self.micro_batch_size,
        )
        curve: list[StepRecord] = []
        with _private_generators(self._device):
            torch.manual_seed(derive_seed("lora", seed))
            self._reset_adapter()
            optimizer, schedule = self._optimizer(len(plans))
            self._model.train()
            for number, plan in enumerate(plans, start=1):
                record = self._gradient(number, plan, tokenized, optimizer.param_groups[0]["lr"])
                optimizer.step()
                schedule.step()
                optimizer.zero_grad(set_to_none=True)
                curve.append(record)
                if on_step is not None:
                    on_step(record)
        return TrainingResult(tuple(curve), time.perf_counter() - started, self._weights(), self._config())

    def _reset_adapter(self) -> None:
        for layer in lora_layers(self._model).values():
            layer.reset_lora_parameters(_ADAPTER, init_lora_weights=True)
        for parameter in self._parameters:
            parameter.grad = None

    def _optimizer(self, n_steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        import torch
        from transformers import get_cosine_schedule_with_warmup

        optimizer = torch.optim.AdamW(
            self._parameters, lr=self.recipe.learning_rate, weight_decay=self.recipe.weight_decay, fused=True
        )
        warmup = math.ceil(self.recipe.warmup_ratio * n_steps)
        return optimizer, get_cosine_schedule_with_warmup(optimizer, warmup, n_steps)

    def _gradient(self, number: int, plan: BatchPlan, rows: list[TokenizedRow], learning_rate: float) -> StepRecord:
        """Accumulate the gradient of one effective batch, and clip it."""
        import torch

        n_tokens = sum(rows[row].n_completion_tokens for batch in plan.micro_batches for row in batch)
        loss = 0.0
        for batch in plan.micro_batches:
            share = self._summed_loss([rows[row] for row in batch]) / n_tokens
            share.backward()
            loss += share.item()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.recipe.max_grad_norm).item()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingError(
                f"Step {number} (epoch {plan.epoch}): loss {loss}, gradient norm {norm} at learning rate "
                f"{learning_rate:.3g}: the training diverged. Lower recipe.learning_rate, or use float32."
            )
        return StepRecord(number, plan.epoch, loss, learning_rate, n_tokens)

    def _summed_loss(self, rows: list[TokenizedRow]) -> torch.Tensor:
        """Sum the cross-entropy over the completion tokens of some rows; only those get logits."""
        import torch

        # Not with dropout, which draws for each row apart, nor on a GPU, where the gradients of a shared token
        # are summed in no fixed order and the last bits would change from run to run.
        share = self.recipe.dropout == 0.0 and self._device.type == "cpu"
        packed = pack_rows(rows, share_prefixes=share, device=self._device)
        hidden = self._decoder(
            input_ids=packed.input_ids, position_ids=packed.position_ids, packed=packed, use_cache=False
        ).last_hidden_state
        logits = self._head(hidden[0].index_select(0, packed.predicting)).float()
        return torch.nn.functional.cross_entropy(logits, packed.targets, reduction="sum")

    def _weights(self) -> dict[str, torch.Tensor]:
        from peft import get_peft_model_state_dict

        state = get_peft_model_state_dict(self._model, adapter_name=_ADAPTER, save_embedding_layers=False)
        return {name: state[name].detach().to("cpu", copy=True).contiguous() for name in sorted(state)}

    def _config(self) -> dict[str, Any]:
        values = self._model.peft_config[_ADAPTER].to_dict() | {"inference_mode": True}
        # peft keeps some lists as sets, whose order changes from one process to the next.
        return {key: sorted(value) if isinstance(value, set) else value for key, value in values.items()}


def _private_generators(device: torch.device) -> AbstractContextManager[None]:
    """Leave torch's global generators as they were, whatever the block draws or seeds."""
    import torch

    generators: AbstractContextManager[None] = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    return generators


def _check_targets(base: torch.nn.Module, recipe: Recipe) -> None:
    last_names = {name.rsplit(".", 1)[-1] for name, _ in base.named_modules()}
    missing = [target for target in recipe.target_modules if target not in last_names]
    if missing:
        raise TrainingError(
            f"recipe.target_modules: the base model ({type(base).__name__}) has no module named {', '.join(missing)}."
        )
