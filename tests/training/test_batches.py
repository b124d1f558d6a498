"""The plan of optimizer steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona_assets.training import TrainingError, plan_batches


@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=60),
    seed=st.integers(0, 2**31),
    effective=st.integers(1, 20),
    micro=st.integers(1, 20),
)
def test_each_epoch_is_every_row_once_in_full_batches(lengths: list[int], seed: int, effective: int, micro: int) -> None:
    plans = plan_batches(lengths, seed=seed, epochs=2, effective_batch_size=effective, micro_batch_size=micro)
    for epoch in (1, 2):
        steps = [plan for plan in plans if plan.epoch == epoch]
        sizes = [sum(map(len, plan.micro_batches)) for plan in steps]
        assert sorted(row for plan in steps for batch in plan.micro_batches for row in batch) == list(range(len(lengths)))
        assert all(size == effective for size in sizes[:-1])
        assert all(len(batch) <= micro for plan in steps for batch in plan.micro_batches)
        # Sorted by length inside a step, and full micro-batches but for the last.
        for plan in steps:
            in_order = [lengths[row] for batch in plan.micro_batches for row in batch]
            assert in_order == sorted(in_order)
            assert all(len(batch) == micro for batch in plan.micro_batches[:-1])
    assert [plan.epoch for plan in plans] == sorted(plan.epoch for plan in plans)


def test_the_embedded_study_takes_114_steps() -> None:
    plans = plan_batches([60] * 600, seed=42, epochs=3, effective_batch_size=16, micro_batch_size=16)
    assert len(plans) == 114


def test_which_rows_share_a_step_does_not_depend_on_lengths_or_micro_batches() -> None:
    def steps(lengths: list[int], micro: int) -> list[set[int]]:
        plans = plan_batches(lengths, seed=3, epochs=2, effective_batch_size=8, micro_batch_size=micro)
        return [{row for batch in plan.micro_batches for row in batch} for plan in plans]

    assert steps([10] * 30, 8) == steps(list(range(1, 31)), 3)


def test_seeds_and_epochs_shuffle_differently() -> None:
    def order(seed: int, epoch: int) -> list[tuple[tuple[int, ...], ...]]:
        plans = plan_batches([5] * 40, seed=seed, epochs=2, effective_batch_size=8, micro_batch_size=8)
        return [plan.micro_batches for plan in plans if plan.epoch == epoch]

    assert order(1, 1) == order(1, 1)
    assert order(1, 1) != order(2, 1)
    assert order(1, 1) != order(1, 2)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"effective_batch_size": 0}, {"micro_batch_size": 0}])
def test_impossible_plans_are_refused(wrong: dict[str, int]) -> None:
    sizes = {"epochs": 1, "effective_batch_size": 4, "micro_batch_size": 4} | wrong
    with pytest.raises(TrainingError, match="each must be at least 1"):
        plan_batches([5, 5], seed=1, **sizes)
    with pytest.raises(TrainingError, match="0 rows"):
        plan_batches([], seed=1, epochs=1, effective_batch_size=4, micro_batch_size=4)


def test_a_micro_batch_holds_no_more_tokens_than_it_may() -> None:
    lengths = [10, 20, 30, 40, 50, 200]
    (plan,) = plan_batches(lengths, seed=1, epochs=1, effective_batch_size=6, micro_batch_size=3, micro_batch_tokens=100)
    assert plan.micro_batches == ((0, 1, 2), (3, 4), (5,))  # three rows at most; 40 + 50 and no more; one that is too long alone
