"""What the sampling loop asks of a decoder, and the decoder that drives any transformers causal LM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class DecodingBatch(Protocol):
    """A batch of rows being continued; a row is one sample of one prompt."""

    def logits(self) -> torch.Tensor:
        """Return the logits of each row's next token, [rows, vocabulary]."""
        ...

    def append(self, tokens: torch.Tensor) -> None:
        """Append one token to each row; `tokens` is [rows], int64."""
        ...

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with these rows only; `rows` is [rows left], int64, rising."""
        ...


class Decoder(Protocol):
    """A model that can start batches."""

    def start(
        self, prompts: Sequence[Sequence[int]], samples: Sequence[int], max_new_tokens: int
    ) -> DecodingBatch:
        """Read the prompts, once each.

        Args:
            prompts: token ids of each prompt, of any lengths.
            samples: how many rows continue each prompt; the rows are in order of prompts.
            max_new_tokens: an upper bound on the calls of `append`.
        """
        ...


class ModuleDecoder:
    """Calls the model's own forward with a key-value cache: for every architecture, on every device."""

    def __init__(self, model: PreTrainedModel, pad_token_id: int) -> None:
        """Take a model in evaluation mode, and the id that fills short rows (masked, so any will do)."""
        from persona_assets.generation.growing_cache import use_grouped_attention

        self._model = model
        self._pad = pad_token_id
        self._grouped = use_grouped_attention(model)

    def start(
        self, prompts: Sequence[Sequence[int]], samples: Sequence[int], max_new_tokens: int
    ) -> DecodingBatch:
        """Read the prompts padded on the left, then give each sample its own copy of the prompt's cache."""
        import torch

        drawn = torch.tensor(samples, device=self._model.device)
        return _ModuleBatch(self._model, self._pad, prompts, drawn, max_new_tokens, self._grouped)


class _ModuleBatch:
    def __init__(
        self,
        model: PreTrainedModel,
        pad: int,
        prompts: Sequence[Sequence[int]],
        samples: torch.Tensor,
        max_new_tokens: int,
        grouped: bool,
    ) -> None:
        import torch

        from persona_assets.generation.growing_cache import roomy_cache

        self._model = model
        self._grouped = grouped
        self._length = max(map(len, prompts))
        ids = torch.tensor([[pad] * (self._length - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[False] * (self._length - len(prompt)) + [True] * len(prompt) for prompt in prompts])
        row_prompts = torch.repeat_interleave(torch.arange(len(prompts), device=model.device), samples)
        self._cache: Any = roomy_cache(model, self._length + max_new_tokens)
        mask = mask.to(model.device)
        positions = (mask.long().cumsum(-1) - 1).clamp_(min=0)
        logits = self._forward(ids.to(model.device), positions, mask)
        self._logits = logits[row_prompts]
        # Of the whole length to come: tokens that are drawn are attended to.
        self._mask = torch.nn.functional.pad(mask, (0, max_new_tokens), value=True)[row_prompts]
        self._positions = positions[row_prompts, -1:]
        if bool((samples != 1).any()):
            self._cache.batch_select_indices(row_prompts)

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def logits(self) -> torch.Tensor:
        return self._logits

    def append(self, tokens: torch.Tensor) -> None:
        self._length += 1
        self._positions = self._positions + 1
        mask = self._mask[:, : self._length]
        self._logits = self._forward(tokens[:, None], self._positions, mask[:, None, None] if self._grouped else mask)

    def keep(self, rows: torch.Tensor) -> None:
        self._cache.batch_select_indices(rows)
        self._mask = self._mask[rows]
        self._positions = self._positions[rows]
        self._logits = self._logits[rows]
