"""A direct decoder for small Qwen2 models on a CPU: what prompts share is read once, what samples share is attended to at once.

Prompts of one persona begin with the same system message, whose keys and values are computed once. The prompt part of
the attention is one product per prompt for all its samples, and the part of the own tokens lies in a cache allocated once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np

from persona_assets.generation.fused_layers import FusedLayers

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch


class SharedPrefixDecoder(FusedLayers):
    """Decodes with the weights of a Qwen2 model; partly a copy, so later training is not seen."""

    def start(self, prompts: Sequence[Sequence[int]], samples: Sequence[int], max_new_tokens: int) -> SharedPrefixBatch:
        """Read the prompts, once each; see `persona_assets.generation.decoding.Decoder`."""
        return SharedPrefixBatch(self, prompts, np.asarray(samples), max_new_tokens)


class SharedPrefixBatch:
    """Rows being continued. Shapes: P prompts, R rows, S slots per prompt, K key-value heads, D head size."""

    def __init__(
        self,
        decoder: SharedPrefixDecoder,
        prompts: Sequence[Sequence[int]],
        samples: npt.NDArray[np.int64],
        max_new_tokens: int,
    ) -> None:
        """Read the prompts and make room for the rows' own keys and values."""
        import torch

        self._decoder = decoder
        self._steps = 0
        self._row_prompts = np.repeat(np.arange(len(prompts)), samples)
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        self._cosines, self._sines = decoder.rotary_tables(int(lengths.max()) + max_new_tokens)
        self._read_prompts(prompts, lengths)
        rows = torch.from_numpy(self._row_prompts)
        self._logits = self._prompt_logits[rows]
        self._positions = lengths[rows]
        own_shape = (len(rows) * decoder.kv_heads, max_new_tokens, decoder.head_size)
        self._own = [(torch.empty(own_shape), torch.empty(own_shape)) for _ in decoder.layers]
        self._assign_slots()

    def _read_prompts(self, prompts: Sequence[Sequence[int]], lengths: torch.Tensor) -> None:
        """Fill the shared keys and values, [P * K, W, D] per layer: a common beginning, then what is a prompt's own.

        Prompts of one system message begin alike; what they have in common is read once. Both parts are padded on the
        right, so W is the sum of the two widths.
        """
        import torch

        decoder = self._decoder
        beginnings, owners = _common_beginnings(prompts)
        rests = [prompt[len(beginnings[owner]) :] for prompt, owner in zip(prompts, owners, strict=True)]
        owner = torch.tensor(owners)
        starts = torch.tensor([len(beginning) for beginning in beginnings])
        common, common_padding, _ = self._read(beginnings, torch.zeros_like(starts))
        rows = (owner[:, None] * decoder.kv_heads + torch.arange(decoder.kv_heads)).view(-1)
        earlier = [(keys[rows], values[rows]) for keys, values in common]
        own, own_padding, hidden = self._read(rests, starts[owner], earlier, common_padding[owner])
        self._shared = [
            (torch.cat([keys, own_keys], dim=1), torch.cat([values, own_values], dim=1))
            for (keys, values), (own_keys, own_values) in zip(earlier, own, strict=True)
        ]
        self._padding = torch.cat([common_padding[owner], own_padding], dim=1)
        last = torch.arange(len(prompts)) * own_padding.shape[1] + lengths - starts[owner] - 1
        self._prompt_logits = decoder.read_out(hidden[last])

    def _read(
        self,
        parts: Sequence[Sequence[int]],
        starts: torch.Tensor,
        earlier: Sequence[tuple[torch.Tensor, torch.Tensor]] = (),
        earlier_padding: torch.Tensor | None = None,
    ) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor, torch.Tensor]:
        """Read a part of each prompt.

        Args:
            parts: N lists of token ids.
            starts: [N] position of each list's first token.
            earlier: keys and values of what stands before, [N * K, E, D] per layer.
            earlier_padding: [N, E] minus infinity where nothing stands, else 0.

        Returns:
            Keys and values, [N * K, L, D] per layer; [N, L] minus infinity at the padding, else 0; and the hidden states
            after the last layer, [N * L, hidden size].
        """
        import torch

        decoder = self._decoder
        count, longest = len(parts), max(1, *map(len, parts))
        ids = torch.tensor([[*part, *([0] * (longest - len(part)))] for part in parts])
        places = torch.arange(longest)
        beyond = places >= torch.tensor([len(part) for part in parts])[:, None]
        positions = (starts[:, None] + places).masked_fill(beyond, 0).view(-1)
        cosines, sines = self._cosines[positions], self._sines[positions]
        hidden = decoder.embedding[ids.view(-1)]
        # Causality hides the padding too: it stands to the right of every real token.
        bias = torch.full((longest, longest), -torch.inf).triu(1).expand(count, 1, 1, -1, -1)
        if earlier_padding is not None:
            before = earlier_padding[:, None, None, None].expand(-1, -1, -1, longest, -1)
            bias = torch.cat([before, bias], dim=-1)

        def by_head(rows: torch.Tensor, heads: int) -> torch.Tensor:
            return rows.reshape(count, longest, heads, decoder.head_size).transpose(1, 2).contiguous()

        read = []
        for index, layer in enumerate(decoder.layers):
            queries, keys, values = decoder.project(layer, hidden, cosines, sines)
            queries = by_head(queries, decoder.heads)
            keys, values = (by_head(each, decoder.kv_heads).flatten(0, 1) for each in (keys, values))
            read.append((keys, values))
            if earlier:
                keys, values = (torch.cat(pair, dim=1) for pair in zip(earlier[index], read[-1], strict=True))
            by_key = (count, decoder.kv_heads, -1, longest)
            scores = queries.view(len(keys), -1, decoder.head_size) @ keys.transpose(-1, -2)
            weights = torch.softmax(scores.view(*by_key, keys.shape[1]) + bias, dim=-1)
            attended = weights.view(scores.shape) @ values
            attended = attended.view(count, decoder.heads, longest, -1).transpose(1, 2).reshape(count * longest, -1)
            hidden = decoder.finish_layer(layer, hidden, attended)
        return read, torch.zeros(count, longest).masked_fill_(beyond, -torch.inf), hidden

    def _assign_slots(self) -> None:
        """Lay each prompt's rows side by side, so that their attention to it is one product."""
        import torch

        counts = np.bincount(self._row_prompts)
        slots = int(counts.max())
        rank = np.arange(len(self._row_prompts)) - np.repeat(np.cumsum(counts) - counts, counts)
        self._slots_per_prompt = slots
        full = len(self._row_prompts) == len(counts) * slots
        self._slots = None if full else torch.from_numpy(self._row_prompts * slots + rank)
        self._bias = self._padding.repeat_interleave(self._decoder.kv_heads, dim=0)[:, None]

    def logits(self) -> torch.Tensor:
        """Return the logits of each row's next token, [R, vocabulary]."""
        return self._logits

    def append(self, tokens: torch.Tensor) -> None:
        """Append one token to each row."""
        decoder = self._decoder
        hidden = decoder.embedding[tokens]
        cosines, sines = self._cosines[self._positions], self._sines[self._positions]
        for index, layer in enumerate(decoder.layers):
            queries, keys, values = decoder.project(layer, hidden, cosines, sines)
            own_keys, own_values = self._own[index]
            own_keys[:, self._steps] = keys.reshape(-1, decoder.head_size)
            own_values[:, self._steps] = values.reshape(-1, decoder.head_size)
            hidden = decoder.finish_layer(layer, hidden, self._attend(index, queries))
        self._steps += 1
        self._positions = self._positions + 1
        self._logits = decoder.read_out(hidden)

    def _attend(self, index: int, queries: torch.Tensor) -> torch.Tensor:
        """Attend to the prompt's keys and to the row's own, under one softmax; [R, heads * D] in and out."""
        import torch

        decoder = self._decoder
        kv_heads, head_size, now = decoder.kv_heads, decoder.head_size, self._steps + 1
        (keys, values), (own_keys, own_values) = self._shared[index], self._own[index]
        grouped = queries.reshape(len(queries) * kv_heads, -1, head_size)
        own = torch.bmm(grouped, own_keys[:, :now].transpose(1, 2))
        shared = torch.baddbmm(self._bias, self._to_slots(grouped), keys.transpose(1, 2))
        weights = torch.softmax(torch.cat([self._to_rows(shared), own], dim=-1), dim=-1)
        width = keys.shape[1]
        attended = torch.bmm(weights[:, :, width:], own_values[:, :now])
        attended += self._to_rows(torch.bmm(self._to_slots(weights[:, :, :width]), values))
        return attended.view(len(queries), -1)

    def _to_slots(self, rows: torch.Tensor) -> torch.Tensor:
        """Rearrange [R * K, groups, n] to [P * K, S * groups, n]; slots without a row hold zeros."""
        import torch

        kv_heads, slots = self._decoder.kv_heads, self._slots_per_prompt
        groups, n = rows.shape[1:]
        by_row = rows.reshape(-1, kv_heads * groups * n)
        if self._slots is not None:
            empty = torch.zeros(len(self._padding) * slots, by_row.shape[1])
            by_row = empty.index_copy_(0, self._slots, by_row)
        by_prompt = by_row.view(-1, slots, kv_heads, groups, n).transpose(1, 2)
        return by_prompt.reshape(-1, slots * groups, n)

    def _to_rows(self, prompts: torch.Tensor) -> torch.Tensor:
        """Undo `_to_slots`."""
        kv_heads, slots = self._decoder.kv_heads, self._slots_per_prompt
        n = prompts.shape[-1]
        by_slot = prompts.view(-1, kv_heads, slots, prompts.shape[1] // slots, n).transpose(1, 2)
        by_slot = by_slot.reshape(len(self._padding) * slots, -1)
        by_row = by_slot if self._slots is None else by_slot.index_select(0, self._slots)
        return by_row.view(len(by_row) * kv_heads, -1, n)

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with these rows only, and with the prompts that still have one."""
        import torch

        decoder = self._decoder
        prompts, self._row_prompts = np.unique(self._row_prompts[rows.numpy()], return_inverse=True)
        self._positions, self._logits = self._positions[rows], self._logits[rows]

        def by_kv_head(chosen: torch.Tensor) -> torch.Tensor:
            return (chosen[:, None] * decoder.kv_heads + torch.arange(decoder.kv_heads)).view(-1)

        own_rows = by_kv_head(rows)
        for index, (keys, values) in enumerate(self._own):
            # Moved down within the same buffers: rows rise, so nothing is overwritten before it was read.
            kept = slice(0, len(own_rows)), slice(0, self._steps)
            keys[kept] = keys[own_rows, : self._steps]
            values[kept] = values[own_rows, : self._steps]
            self._own[index] = (keys[: len(own_rows)], values[: len(own_rows)])
        if len(prompts) < len(self._padding):
            left = torch.from_numpy(prompts)
            self._padding = self._padding[left]
            chosen = by_kv_head(left)
            self._shared = [(keys[chosen], values[chosen]) for keys, values in self._shared]
        self._assign_slots()


def _common_beginnings(prompts: Sequence[Sequence[int]]) -> tuple[list[Sequence[int]], list[int]]:
    """Find what neighbouring prompts have in common, where it is at least half of a prompt.

    Returns:
        Beginnings, each shorter than every prompt that it begins; and for each prompt the index of its beginning.
    """
    beginnings: list[Sequence[int]] = []
    owners = []
    for prompt in prompts:
        alike = zip(beginnings[-1], prompt[:-1], strict=False) if beginnings else ()
        common = [token for token, _ in takewhile(lambda pair: pair[0] == pair[1], alike)]
        if beginnings and 2 * len(common) >= len(prompt):
            beginnings[-1] = common
        else:
            beginnings.append(prompt[:-1])
        owners.append(len(beginnings) - 1)
    return beginnings, owners
