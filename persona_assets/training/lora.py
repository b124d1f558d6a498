"""The LoRA trainer: peft adapters on a base model that stays loaded, and unchanged, between personas."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_assets.hashing import derive_seed
from persona_assets.memory import HalvingBatch
from persona_assets.training.batches import BatchPlan, plan_batches
from persona_assets.training.effective_weights import EffectiveWeightsDecoder, effective_weights_pay, lora_layers
from persona_assets.training.packing import ATTENTION, pack_rows, register_attention
from persona_assets.training.result import StepRecord, TrainingError, TrainingResult
from persona_assets.training.tokenizing import TokenizedRow, tokenize_rows

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from persona_assets.dataset import TrainingRow
    from persona_assets.study import Recipe
    from persona_assets.training.lean_layers import LeanLayers

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
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        recipe: Recipe,
        *,
        base_name: str,
        micro_batch_size: int = 16,
        micro_batch_tokens: int | None = None,
        recompute_activations: bool = False,
    ) -> None:
        """Put an adapter on a base model.

        Args:
            base: the loaded base model; it stays as it is, but for the adapter layers put into it.
            tokenizer: its tokenizer.
            recipe: LoRA hyper-parameters.
            base_name: lasting name of the base model, for adapters' configurations, in place of a path.
            micro_batch_size: rows of one forward pass, at most.
            micro_batch_tokens: tokens of one forward pass, at most; a longer row goes alone. None sets no limit.
            recompute_activations: compute each layer again in the backward pass instead of keeping what it needs:
                a third more work, for a device whose memory does not hold a single row otherwise.

        Raises:
            TrainingError: a target module of the recipe is not in the base model.
        """
        from peft import LoraConfig, get_peft_model

        self.recipe = recipe
        self.micro_batch_tokens = micro_batch_tokens
        self._batch = HalvingBatch(
            micro_batch_size,
            "runtime.micro_batch_size",
            "set runtime.micro_batch_tokens, or runtime.recompute_activations if a single row is too much",
        )
        self.tokenizer = tokenizer
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
        self._layers: LeanLayers | None = None
        if effective_weights_pay(self._model, self._decoder, _ADAPTER, recipe.r, recipe.dropout):
            self._decoder = EffectiveWeightsDecoder(self._model, self._decoder, _ADAPTER)
        else:
            from persona_assets.training.lean_layers import LeanLayers

            self._layers = LeanLayers(self._model, _ADAPTER)
        if recompute_activations:
            base.gradient_checkpointing_enable({"use_reentrant": False})
        self._head = base.get_output_embeddings()
        self._parameters = [parameter for parameter in self._model.parameters() if parameter.requires_grad]

    @classmethod
    def load(
        cls, base_checkpoint: Path, recipe: Recipe, *, device: str = "cpu", dtype: str = "float32", **options: Any
    ) -> LoraTrainer:
        """Load the base model from a directory and put an adapter on it.

        Args:
            base_checkpoint: checkpoint directory of the base model.
            recipe: LoRA hyper-parameters.
            device: torch device.
            dtype: precision of the base weights; LoRA weights, gradients and optimizer are always float32.
            options: as `LoraTrainer` takes them.
        """
        from persona_assets.models.loading import load_model, load_tokenizer

        tokenizer = load_tokenizer(base_checkpoint)
        return cls(load_model(base_checkpoint, device=device, dtype=dtype), tokenizer, recipe, **options)

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
            DeviceMemoryError: the device has too little memory, also with micro-batches of half the size.
        """
        started = time.perf_counter()
        tokenized = tokenize_rows(self.tokenizer, rows, self.recipe.max_length)

        def attempt(micro_batch_size: int) -> list[StepRecord]:
            return self._train(tokenized, seed, micro_batch_size, on_step)

        # From the start: an adapter is trained with one size of micro-batches, which is recorded with it.
        curve = self._batch.attempt(attempt)
        return TrainingResult(
            tuple(curve),
            time.perf_counter() - started,
            self._weights(),
            self._config(),
            micro_batch_size=self._batch.size,
            out_of_memory=self._batch.halved,
        )

    @property
    def micro_batch_size(self) -> int:
        """Rows of one forward pass at most: half of what was asked for once the device ran out of memory."""
        return self._batch.size

    def _train(
        self, rows: list[TokenizedRow], seed: int, micro_batch_size: int, on_step: Callable[[StepRecord], None] | None
    ) -> list[StepRecord]:
        import torch

        plans = self._plan(rows, seed, self.recipe.epochs, self.recipe.effective_batch_size, micro_batch_size)
        curve: list[StepRecord] = []
        with _private_generators(self._device), deterministic_sums(self._device):
            torch.manual_seed(derive_seed("lora", seed))
            self._reset_adapter()
            optimizer, schedule = self._optimizer(len(plans))
            self._model.train()
            for number, plan in enumerate(plans, start=1):
                record = self._gradient(number, plan, rows, optimizer.param_groups[0]["lr"])
                optimizer.step()
                schedule.step()
                optimizer.zero_grad(set_to_none=True)
                curve.append(record)
                if on_step is not None:
                    on_step(record)
        return curve

    def _plan(
        self, rows: list[TokenizedRow], seed: int, epochs: int, effective_batch_size: int, micro_batch_size: int
    ) -> list[BatchPlan]:
        return plan_batches(
            [len(row.input_ids) for row in rows],
            seed=seed,
            epochs=epochs,
            effective_batch_size=effective_batch_size,
            micro_batch_size=micro_batch_size,
            micro_batch_tokens=self.micro_batch_tokens,
        )

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

    def gradients(self, rows: Sequence[TrainingRow]) -> tuple[float, dict[str, torch.Tensor]]:
        """Return loss and gradients of the adapter as the last training left it, over these rows as one effective batch.

        Nothing is updated, and dropout is off: for comparing with another way to compute them.
        """
        tokenized = tokenize_rows(self.tokenizer, rows, self.recipe.max_length)
        (plan,) = self._plan(tokenized, 0, 1, len(rows), self.micro_batch_size)
        self._model.eval()
        with deterministic_sums(self._device):
            loss, _ = self._accumulate(plan, tokenized)
        trained = ((name, value.grad) for name, value in self._model.named_parameters())
        gradients = {name: gradient.detach().clone() for name, gradient in trained if gradient is not None}
        for parameter in self._parameters:
            parameter.grad = None
        return loss, gradients

    def _gradient(self, number: int, plan: BatchPlan, rows: list[TokenizedRow], learning_rate: float) -> StepRecord:
        """Accumulate the gradient of one effective batch, and clip it."""
        import torch

        loss, n_tokens = self._accumulate(plan, rows)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.recipe.max_grad_norm).item()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingError(
                f"Step {number} (epoch {plan.epoch}): loss {loss}, gradient norm {norm} at learning rate "
                f"{learning_rate:.3g}: the training diverged. Lower recipe.learning_rate, or use float32."
            )
        return StepRecord(number, plan.epoch, loss, learning_rate, n_tokens)

    def _accumulate(self, plan: BatchPlan, rows: list[TokenizedRow]) -> tuple[float, int]:
        """Add up the gradient of one effective batch; return its mean loss and its completion tokens."""
        if self._layers is not None:
            self._layers.refresh()
        n_tokens = sum(rows[row].n_completion_tokens for batch in plan.micro_batches for row in batch)
        shares = []
        for batch in plan.micro_batches:
            share = self._summed_loss([rows[row] for row in batch]) / n_tokens
            share.backward()
            shares.append(share.detach())
        # Read at the end: a GPU is never left waiting for the next micro-batch.
        return math.fsum(share.item() for share in shares), n_tokens

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


@contextmanager
def deterministic_sums(device: torch.device) -> Iterator[None]:
    """Let a GPU add up in one fixed order, so that the same training gives the same bits; a CPU does so anyway."""
    import torch
    import torch.utils.deterministic

    if device.type != "cuda" or torch.are_deterministic_algorithms_enabled():
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch insists on it; these are its own sizes
    fills = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = False  # every value is written before it is read
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = fills


def _check_targets(base: torch.nn.Module, recipe: Recipe) -> None:
    last_names = {name.rsplit(".", 1)[-1] for name, _ in base.named_modules()}
    missing = [target for target in recipe.target_modules if target not in last_names]
    if missing:
        raise TrainingError(
            f"recipe.target_modules: the base model ({type(base).__name__}) has no module named {', '.join(missing)}."
        )
