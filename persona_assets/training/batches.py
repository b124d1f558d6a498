"""Which rows make up each optimizer step, decided before training from lengths and a seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from persona_assets.hashing import derive_seed
from persona_assets.training.result import TrainingError


@dataclass(frozen=True)
class BatchPlan:
    """One optimizer step.

    Attributes:
        epoch: pass over the rows, from 1.
        micro_batches: row numbers of each forward and backward pass; together they are the effective batch.
    """

    epoch: int
    micro_batches: tuple[tuple[int, ...], ...]


def plan_batches(
    lengths: Sequence[int],
    *,
    seed: int,
    epochs: int,
    effective_batch_size: int,
    micro_batch_size: int,
    micro_batch_tokens: int | None = None,
) -> list[BatchPlan]:
    """Plan all optimizer steps of a training.

    Each epoch is a permutation of the rows by `numpy.random.Generator(PCG64)`, seeded with
    `derive_seed("shuffle", seed, epoch)`, cut into effective batches (the last may be smaller). Which rows
    share a step is thus chance alone. Inside a step rows are sorted by length before they are cut into
    micro-batches: that saves padding and does not change the step, whose loss is one mean over its tokens.

    Args:
        lengths: tokens of each row.
        seed: the training seed.
        epochs: passes over the rows.
        effective_batch_size: rows of one optimizer step.
        micro_batch_size: rows of one forward pass at most; it need not divide the effective batch size.
        micro_batch_tokens: tokens of one forward pass at most, a longer row going alone; None sets no limit.

    Raises:
        TrainingError: a size or the number of epochs is below 1, or there are no rows.
    """
    if min(epochs, effective_batch_size, micro_batch_size, len(lengths), micro_batch_tokens or 1) < 1:
        raise TrainingError(
            f"Cannot plan batches of {effective_batch_size} (micro {micro_batch_size}) for {len(lengths)} "
            f"rows and {epochs} epochs: each must be at least 1."
        )
    plans: list[BatchPlan] = []
    for epoch in range(1, epochs + 1):
        generator = np.random.Generator(np.random.PCG64(derive_seed("shuffle", seed, epoch)))
        order = generator.permutation(len(lengths)).tolist()
        for start in range(0, len(order), effective_batch_size):
            step = sorted(order[start : start + effective_batch_size], key=lambda row: (lengths[row], row))
            plans.append(BatchPlan(epoch, _micro_batches(step, lengths, micro_batch_size, micro_batch_tokens)))
    return plans


def _micro_batches(rows: list[int], lengths: Sequence[int], size: int, tokens: int | None) -> tuple[tuple[int, ...], ...]:
    batches: list[list[int]] = []
    room = 0
    for row in rows:
        if not batches or len(batches[-1]) == size or (tokens is not None and lengths[row] > room):
            batches.append([])
            room = tokens or 0
        batches[-1].append(row)
        room -= lengths[row]
    return tuple(map(tuple, batches))
