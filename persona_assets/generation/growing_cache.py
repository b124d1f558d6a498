"""A key-value cache with room for a whole completion, and attention of one new token that reads it as it lies.

transformers' own cache is copied whole for each token, and where several query heads share a key its attention under a mask
copies keys and values once for each of them. On a GPU these copies take longer than the products of a 7B model. Same function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "grouped_sdpa"
"""Name under which `use_grouped_attention` makes the attention known to transformers."""


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer, [rows, heads, tokens, head size]: views of tensors with room for `capacity` tokens."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity = capacity
        self._room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self._room is None:
            self.lazy_initialization(key_states, value_states)
            self._room = (self._empty(key_states), self._empty(value_states))
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, start:end] = states
        self._show(end)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        assert self._room is not None
        length = self.get_seq_length()
        chosen = []
        for room in self._room:
            taken = room[:, :, :length].index_select(0, indices)
            roomy = self._empty(taken)
            roomy[:, :, :length] = taken
            chosen.append(roomy)
        self._room = (chosen[0], chosen[1])
        self._show(length)

    def _empty(self, like: torch.Tensor) -> torch.Tensor:
        rows, heads, _, size = like.shape
        return like.new_empty(rows, heads, self._capacity, size)

    def _show(self, length: int) -> None:
        assert self._room is not None
        self.keys, self.values = (room[:, :, :length] for room in self._room)


def roomy_cache(model: PreTrainedModel, capacity: int) -> DynamicCache:
    """Make a cache for a model; layers with a window of their own keep transformers' kind."""
    cache = DynamicCache(config=model.config)
    cache.layers = [_RoomyLayer(capacity) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def use_grouped_attention(model: PreTrainedModel) -> bool:
    """Let a model that attends by sdpa attend by this attention; say whether it does now.

    Its masks may be given for one new token as [rows, 1, 1, tokens], true where a token is attended to.
    """
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(ATTENTION, _grouped_attention)
        AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        model.set_attn_implementation(ATTENTION)
    return bool(model.config._attn_implementation == ATTENTION)


def _grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attend: [rows, heads, tokens, head size] in, [rows, tokens, heads, head size] out."""
    rows, heads, length, size = query.shape
    if length != 1:
        output: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return output
    # One new token: the query heads that share a key stand side by side as if they were tokens, and need no order.
    kv_heads = key.shape[1]
    grouped = query.reshape(rows, kv_heads, heads // kv_heads, size)
    attended = torch.nn.functional.scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return attended.reshape(rows, 1, heads, size), None
