"""Is it right on this device? Small models, seconds; each check says what it found and raises when that is wrong."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from synthetic import TINY, build_model, build_tokenizer, make_rows

from persona_assets.study import Recipe
from persona_assets.training import LoraTrainer, TrainingResult, tokenize_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from persona_assets.dataset import TrainingRow

RECIPE = Recipe(r=8, alpha=16, dropout=0.0, learning_rate=1e-3, epochs=1, effective_batch_size=8)


def packed_training(device: torch.device) -> str:
    """Compare loss and gradients of packed rows with those of padded ones through peft and transformers, in float32."""
    tokenizer, rows = _tokenizer(), make_rows(16, (5, 40))
    base = build_model(TINY, "float32", device)
    plain = copy.deepcopy(base)
    trainer = LoraTrainer(base, tokenizer, RECIPE, base_name="random", micro_batch_size=4)
    weights = trainer.train(rows, 1).weights
    loss, gradients = trainer.gradients(rows)
    expected_loss, expected = _padded_gradients(plain, tokenizer, rows, weights)
    difference = max(_relative(gradients[name], expected[name]) for name in expected)
    found = f"loss {loss:.6f} and {expected_loss:.6f}, gradients differ by {difference:.1e} of their length"
    assert set(gradients) == set(expected)
    assert len(expected) == 2 * 7 * TINY.layers
    assert abs(loss - expected_loss) < 1e-5 * expected_loss, found
    assert difference < 1e-3, found
    return found


def half_precision(device: torch.device) -> str:
    """Compare a training in bfloat16 with the same one in float32."""
    full, half = (_train(device, dtype, [0])[0] for dtype in ("float32", "bfloat16"))
    found = f"final loss {full.final_loss:.4f} in float32, {half.final_loss:.4f} in bfloat16"
    assert abs(full.final_loss - half.final_loss) < 0.02 * full.final_loss, found
    return found


def reset_adapters(device: torch.device) -> str:
    """Train three personas on one base, the first once more: to the bit what it was, dropout included."""
    recipe = RECIPE.model_copy(update={"dropout": 0.05})
    first, second, _, again = _train(device, "bfloat16", [0, 1, 2, 0], recipe)
    assert first.loss_curve == again.loss_curve
    assert all(torch.equal(first.weights[name], again.weights[name]) for name in first.weights)
    assert not all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)
    return f"the first of three adapters, trained again after the third, is the same to the bit ({len(first.weights)} tensors)"


CHECKS: dict[str, Callable[[torch.device], str]] = {
    "packed_training": packed_training,
    "half_precision": half_precision,
    "reset_adapters": reset_adapters,
}


def _tokenizer() -> PreTrainedTokenizerBase:
    with tempfile.TemporaryDirectory() as directory:
        return build_tokenizer(Path(directory))


def _train(device: torch.device, dtype: str, personas: list[int], recipe: Recipe = RECIPE) -> list[TrainingResult]:
    trainer = LoraTrainer(build_model(TINY, dtype, device), _tokenizer(), recipe, base_name="random", micro_batch_size=4)
    rows = make_rows(48, (5, 40))
    return [trainer.train(rows[16 * persona : 16 * persona + 16], 42) for persona in personas]


def _padded_gradients(
    base: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, rows: list[TrainingRow], weights: dict[str, torch.Tensor]
) -> tuple[float, dict[str, torch.Tensor]]:
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from torch.nn.utils.rnn import pad_sequence

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=RECIPE.r,
        lora_alpha=RECIPE.alpha,
        use_rslora=RECIPE.use_rslora,
        target_modules=list(RECIPE.target_modules),
    )
    model = get_peft_model(base, config)
    set_peft_model_state_dict(model, weights)
    model.train()
    chosen = tokenize_rows(tokenizer, rows, RECIPE.max_length)
    device = next(base.parameters()).device
    ids, labels, mask = (
        pad_sequence([torch.tensor(values) for values in columns], batch_first=True, padding_value=filler).to(device)
        for columns, filler in (
            ([row.input_ids for row in chosen], 0),
            ([row.labels for row in chosen], -100),
            ([[1] * len(row.input_ids) for row in chosen], 0),
        )
    )
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    return loss.item(), {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())
