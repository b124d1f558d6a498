"""Out of memory: micro-batches are halved once, which is said and recorded; then it ends with what to do."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from persona_assets.memory import DeviceMemoryError, HalvingBatch
from persona_assets.study import Recipe
from persona_assets.training import LoraTrainer

if TYPE_CHECKING:
    from persona_assets.dataset import TrainingRow
    from persona_assets.training import TokenizedRow


def full_above(limit: int, trainer: LoraTrainer) -> Callable[..., object]:
    """The trainer's loss on a device that holds so many rows."""
    import torch

    compute = trainer._summed_loss

    def loss(rows: list[TokenizedRow]) -> torch.Tensor:
        if len(rows) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation.")
        return compute(rows)

    return loss


@pytest.fixture(name="short")
def short_recipe(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"epochs": 1})


def test_the_halved_training_is_the_one_with_half_the_size(
    checkpoint: Path, short: Recipe, rows: list[TrainingRow], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    expected = LoraTrainer.load(checkpoint, short, base_name="base", micro_batch_size=4).train(rows, seed=3)
    trainer = LoraTrainer.load(checkpoint, short, base_name="base", micro_batch_size=8)
    # The first step fits, the rest does not: what it did must leave no trace.
    compute, calls = full_above(4, trainer), iter((99,))
    plain = trainer._summed_loss
    monkeypatch.setattr(trainer, "_summed_loss", lambda given: plain(given) if next(calls, None) else compute(given))
    with caplog.at_level(logging.WARNING, "persona_assets.memory"):
        result = trainer.train(rows, seed=3)
    assert result.loss_curve == expected.loss_curve
    assert all(torch.equal(result.weights[name], expected.weights[name]) for name in expected.weights)
    assert (result.micro_batch_size, result.out_of_memory) == (4, True)
    assert (expected.micro_batch_size, expected.out_of_memory) == (4, False)
    assert "ran out of memory with runtime.micro_batch_size 8: going on with 4" in caplog.text
    assert trainer.train(rows, seed=4).out_of_memory  # the next persona begins with what fits, and says so too


def test_the_second_time_it_says_what_to_do(
    checkpoint: Path, short: Recipe, rows: list[TrainingRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = LoraTrainer.load(checkpoint, short, base_name="base", micro_batch_size=8)
    monkeypatch.setattr(trainer, "_summed_loss", full_above(2, trainer))
    expected = (
        r"micro_batch_size 4 again, after it was halved once\. Lower it .*\.recompute_activations .*\(CUDA out of memory\. Tried"
    )
    with pytest.raises(DeviceMemoryError, match=expected):
        trainer.train(rows, seed=3)


def test_one_row_cannot_be_halved() -> None:
    import torch

    def work(size: int) -> None:
        raise torch.OutOfMemoryError("full")

    with pytest.raises(DeviceMemoryError, match=r"with rows 1\. Lower"):
        HalvingBatch(1, "rows", "buy a bigger one").attempt(work)


def test_other_errors_pass() -> None:
    def work(size: int) -> None:
        raise ValueError(size)

    batch = HalvingBatch(8, "rows", "")
    with pytest.raises(ValueError, match="8"):
        batch.attempt(work)
    assert not batch.halved
