"""Lean layers give what peft's and transformers' own give, forward and backward, and packed rows what padded ones give."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from persona_assets.models.loading import load_model, load_tokenizer
from persona_assets.study import Recipe
from persona_assets.training import LoraTrainer, tokenize_rows
from persona_assets.training.effective_weights import lora_layers
from persona_assets.training.packing import pack_rows

if TYPE_CHECKING:
    import torch

    from persona_assets.dataset import TrainingRow


@pytest.fixture(scope="module")
def trainer(checkpoint: Path, recipe: Recipe, rows: list[TrainingRow]) -> LoraTrainer:
    """Trained a little, so that B is not zero and every gradient is there."""
    trainer = LoraTrainer.load(checkpoint, recipe, base_name="base", micro_batch_size=7)
    trainer.train(rows, seed=1)
    return trainer


def test_one_packed_step_is_one_padded_step_of_plain_transformers_and_peft(
    trainer: LoraTrainer, checkpoint: Path, rows: list[TrainingRow], tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from torch.nn.utils.rnn import pad_sequence

    trainer.train(rows, seed=1).save_adapter(tmp_path)
    loss, gradients = trainer.gradients(rows)

    plain = load_model(checkpoint, device="cpu", dtype="float32", attention="eager")
    model = PeftModel.from_pretrained(plain, str(tmp_path), is_trainable=True)
    chosen = tokenize_rows(load_tokenizer(checkpoint), rows, 128)
    ids, labels, mask = (
        pad_sequence([torch.tensor(values) for values in columns], batch_first=True, padding_value=filler)
        for columns, filler in (
            ([row.input_ids for row in chosen], 0),
            ([row.labels for row in chosen], -100),
            ([[1] * len(row.input_ids) for row in chosen], 0),
        )
    )
    expected = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    expected.backward()

    assert loss == pytest.approx(expected.item(), rel=1e-6)
    theirs = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert set(gradients) == set(theirs)
    assert len(theirs) == 2 * 2 * 7
    for name, gradient in theirs.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_nothing_leaks_from_one_packed_row_into_another(trainer: LoraTrainer, checkpoint: Path, rows: list[TrainingRow]) -> None:
    import torch

    tokenized = tokenize_rows(load_tokenizer(checkpoint), rows[:4], 128)
    changed = copy.deepcopy(tokenized)
    other = tuple((token + 1) % 300 for token in tokenized[1].input_ids)
    changed[1] = type(tokenized[1])(other, tokenized[1].labels)

    def hidden(chosen: list[object]) -> torch.Tensor:
        packed = pack_rows(chosen, share_prefixes=False, device=torch.device("cpu"))  # type: ignore[arg-type]
        with torch.no_grad():
            found = trainer._decoder(input_ids=packed.input_ids, position_ids=packed.position_ids, packed=packed, use_cache=False)
        return found.last_hidden_state[0]

    before, after = hidden(list(tokenized)), hidden(list(changed))
    ends = [0]
    for row in tokenized:
        ends.append(ends[-1] + len(row.input_ids) - 1)
    differs = [not torch.equal(before[start:end], after[start:end]) for start, end in pairwise(ends)]
    assert differs == [False, True, False, False]


def test_every_layer_norm_and_mlp_gives_what_its_own_forward_gives(trainer: LoraTrainer) -> None:
    import torch

    torch.manual_seed(0)
    lean = {name: module for name, module in trainer._model.named_modules() if "forward" in vars(module)}
    assert set(lora_layers(trainer._model)) < set(lean)
    assert len(lean) == 2 * (7 + 2 + 1) + 1  # layers, norms and MLP of each of two, and the last norm
    for name, module in lean.items():
        inputs = torch.randn(3, 5, getattr(module, "in_features", 32))
        with torch.no_grad():
            torch.testing.assert_close(module(inputs), type(module).forward(module, inputs), rtol=1e-4, atol=1e-5, msg=name)


def test_the_gated_product_has_the_gradients_of_the_product() -> None:
    import torch

    from persona_assets.training.lean_layers import GatedProduct

    torch.manual_seed(0)
    gate, up = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(GatedProduct.apply, (gate, up))
    torch.testing.assert_close(GatedProduct.apply(gate, up), torch.nn.functional.silu(gate) * up)


def test_gradients_under_dropout_are_those_of_the_same_mask() -> None:
    import torch

    from persona_assets.training.lean_layers import LoraProduct

    torch.manual_seed(0)
    options = {"dtype": torch.float64, "requires_grad": True}
    inputs, a, b = torch.randn(2, 3, 5, **options), torch.randn(2, 5, **options), torch.randn(4, 2, **options)
    weight, bias = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, dtype=torch.float64)

    def product(inputs: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(7)
        result: torch.Tensor = LoraProduct.apply(inputs, weight, bias, a, b, a.detach(), b.detach(), 0.7, 0.4)
        return result

    assert torch.autograd.gradcheck(product, (inputs, a, b))
    torch.manual_seed(7)
    kept, _ = torch.native_dropout(inputs.reshape(6, 5), 0.4, True)
    expected = inputs.reshape(6, 5) @ weight.t() + bias + 0.7 * kept @ a.t() @ b.t()
    torch.testing.assert_close(product(inputs, a, b).reshape(6, 4), expected)
    assert int((kept == 0).sum()) > 3


def test_it_computes_in_the_precision_of_the_base(checkpoint: Path, recipe: Recipe, rows: list[TrainingRow]) -> None:
    import torch

    trainer = LoraTrainer.load(checkpoint, recipe, base_name="base", dtype="bfloat16")
    layer = next(iter(lora_layers(trainer._model).values()))
    inputs = torch.randn(4, layer.in_features, dtype=torch.bfloat16)
    assert layer(inputs).dtype == torch.bfloat16
    _, gradients = trainer.gradients(rows[:4])
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}


def test_recomputed_activations_give_the_same_training(checkpoint: Path, recipe: Recipe, rows: list[TrainingRow]) -> None:
    import torch

    short = recipe.model_copy(update={"epochs": 1, "dropout": 0.1})
    kept, again = (
        LoraTrainer.load(checkpoint, short, base_name="base", recompute_activations=again).train(rows[:8], seed=2)
        for again in (False, True)
    )
    assert kept.loss_curve == again.loss_curve
    assert all(torch.equal(kept.weights[name], again.weights[name]) for name in kept.weights)
