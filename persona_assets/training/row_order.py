"""Moving tokens into rows and back, with gradients that take the same way in return.

Where every token belongs to one row alone, the gradient of a gather is another gather. torch does not know that and
adds up with atomics on a GPU, slower and in an order that changes from run to run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from persona_assets.training.packing import PackedRows


class _IntoRows(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, tokens: torch.Tensor, packed: PackedRows) -> torch.Tensor:
        ctx.packed = packed
        return tokens.index_select(0, packed.gather)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        # No real token attends to padding, so nothing is lost with the padding's gradient.
        return gradient.index_select(0, ctx.packed.scatter), None


class _OutOfRows(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, places: torch.Tensor, packed: PackedRows) -> torch.Tensor:
        ctx.packed = packed
        return places.index_select(0, packed.scatter)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        rows = gradient.index_select(0, ctx.packed.gather)
        shape = (-1, *[1] * (rows.ndim - 1))
        return rows.masked_fill_(ctx.packed.padding.view(shape), 0.0), None


def into_rows(tokens: torch.Tensor, packed: PackedRows) -> torch.Tensor:
    """Take for each place [R * L] the token that stands there, from tokens [N, ...]."""
    if packed.shared:
        return tokens.index_select(0, packed.gather)
    rows: torch.Tensor = _IntoRows.apply(tokens, packed)
    return rows


def out_of_rows(places: torch.Tensor, packed: PackedRows) -> torch.Tensor:
    """Take for each token [N] the result at its place, from places [R * L, ...]."""
    if packed.shared:
        return places.index_select(0, packed.scatter)
    tokens: torch.Tensor = _OutOfRows.apply(places, packed)
    return tokens
