"""The engine of the embedded profile: sampling from a transformers causal LM, one seed per completion.

`generate` of transformers draws a whole batch from one generator, so a completion would change with the batch
it is in. Here each completion has its own uniforms, and the prompt is read once for all its samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from persona_assets.generation.decoding import Decoder, ModuleDecoder
from persona_assets.generation.engine import Completion, EngineError, Prompt
from persona_assets.generation.sampling import SeenTokens, completion_uniforms, draw_tokens
from persona_assets.generation.swapping import AdapterSwapper
from persona_assets.memory import HalvingBatch
from persona_assets.models.loading import render_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from persona_assets.study import SamplingSettings

DecoderName = Literal["module", "shared_prefix"]
WeightsName = Literal["merged", "swapped"]

_STOP_TOKENS = ("<|im_end|>", "<|endoftext|>")
_KEEP_SHARE = 0.85
"""Finished rows leave once those still growing are at most this share: leaving copies the caches."""


@dataclass(frozen=True, slots=True)
class _Row:
    prompt_index: int
    sample_index: int
    seed: int


class TransformersEngine:
    """Draws completions from a loaded model, in batches that only prompts and batch size determine."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        decoder: DecoderName = "module",
        weights: WeightsName = "merged",
    ) -> None:
        """Wrap a model.

        Args:
            model: a causal LM on its device; it is put in evaluation mode.
            tokenizer: its tokenizer, with a chat template.
            batch_size: completions drawn at a time, at most.
            decoder: "module" calls the model's forward and fits every architecture; "shared_prefix" is the
                direct decoder for small Qwen2 models on a CPU, with the same results up to floating-point
                noise. It copies the weights when it is made.
            weights: "merged" draws from the model as it is; "swapped" takes an adapter with each call.

        Raises:
            EngineError: batch_size or decoder is not acceptable for this model.
        """
        if batch_size < 1:
            raise EngineError(f"batch_size: {batch_size} is not positive.")
        model.train(False)
        self._model = model
        self._tokenizer = tokenizer
        self._batch = HalvingBatch(batch_size, "runtime.generation_batch_size", "or lower evaluation.sampling.max_new_tokens")
        self._asked = batch_size
        self._decoder_name: DecoderName = decoder
        self._stop_ids = stop_token_ids(tokenizer)
        self._weights: WeightsName = weights
        self._swapper = AdapterSwapper(model)
        self._decoder = _make_decoder(model, decoder, self._stop_ids[0])

    def identity(self) -> dict[str, object]:
        """Describe what besides prompts, settings and weights can change a completion."""
        import torch
        import transformers

        return {
            "engine": "transformers",
            "engine_version": transformers.__version__,
            "torch_version": torch.__version__,
            "decoder": self._decoder_name,
            "weights": self._weights,
            "engine_arguments": f"attention={self._model.config._attn_implementation}",
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "device": self._model.device.type,
            "batch_size": self._batch.size,
            "stop_token_ids": list(self._stop_ids),
        }

    def generate(
        self, prompts: Sequence[Prompt], sampling: SamplingSettings, adapter: Path | None = None
    ) -> Iterator[Completion]:
        """Draw one completion per prompt and seed, in the order (prompt, sample).

        Nothing is taken from the model's generation_config.

        Args:
            prompts: conversations with the seeds of their samples.
            sampling: every sampling setting.
            adapter: directory of the adapter in force, if weights are swapped.

        Raises:
            EngineError: a prompt with its completion exceeds the model's context, or there is an adapter and
                weights are merged; when the first completion is drawn, that the adapter does not fit.
        """
        if adapter is not None and self._weights != "swapped":
            raise EngineError(f"{adapter}: this engine draws from merged weights; open it with weights 'swapped'.")
        token_ids = [render_prompt(self._tokenizer, prompt.system, prompt.user) for prompt in prompts]
        self._check_lengths(token_ids, sampling.max_new_tokens)
        return self._generate(prompts, token_ids, sampling, adapter)

    @property
    def out_of_memory(self) -> str | None:
        """What was done about too little memory; None if there was enough."""
        if not self._batch.halved:
            return None
        return f"the device ran out of memory with batches of {self._asked} completions; drawn in batches of {self._batch.size}"

    def close(self) -> None:
        """Drop the model; its memory is free once nobody else holds it."""
        del self._model, self._decoder, self._swapper

    def _check_lengths(self, token_ids: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        context = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        for index, ids in enumerate(token_ids):
            if context is not None and len(ids) + max_new_tokens > context:
                raise EngineError(
                    f"Prompt {index} has {len(ids)} tokens; with sampling.max_new_tokens {max_new_tokens} "
                    f"it exceeds the model's context of {context} tokens: lower max_new_tokens or shorten "
                    "the prompt."
                )

    def _generate(
        self, prompts: Sequence[Prompt], token_ids: Sequence[list[int]], sampling: SamplingSettings, adapter: Path | None
    ) -> Iterator[Completion]:
        with self._swapper.attached(adapter):
            # A decoder may hold a copy of the weights, so it is made after the adapter came in.
            decoder = self._decoder if adapter is None else _make_decoder(self._model, self._decoder_name, self._stop_ids[0])
            yield from self._complete(decoder, prompts, token_ids, sampling)

    def _complete(
        self, decoder: Decoder, prompts: Sequence[Prompt], token_ids: Sequence[list[int]], sampling: SamplingSettings
    ) -> Iterator[Completion]:
        rows = [
            _Row(prompt_index, sample_index, seed)
            for prompt_index, prompt in enumerate(prompts)
            for sample_index, seed in enumerate(prompt.seeds)
        ]
        start = 0
        while start < len(rows):

            def attempt(
                size: int, start: int = start
            ) -> tuple[Sequence[_Row], list[tuple[tuple[int, ...], bool]]]:
                batch = rows[start : _batch_end(rows, start, size)]
                return batch, self._draw(decoder, batch, token_ids, sampling)

            batch, drawn = self._batch.attempt(attempt)
            start += len(batch)
            texts = self._tokenizer.batch_decode(
                [list(ids) for ids, _ in drawn], skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            for row, (ids, stopped), text in zip(batch, drawn, texts, strict=True):
                yield Completion(
                    prompt_index=row.prompt_index,
                    sample_index=row.sample_index,
                    seed=row.seed,
                    text=text,
                    token_ids=ids,
                    n_tokens=len(ids),
                    finish_reason="stop" if stopped else "length",
                )

    def _draw(
        self, decoder: Decoder, batch: Sequence[_Row], token_ids: Sequence[list[int]], sampling: SamplingSettings
    ) -> list[tuple[tuple[int, ...], bool]]:
        """Continue a batch to its end; return each row's tokens, and whether a stop token came after them."""
        import torch

        limit = sampling.max_new_tokens
        device = self._model.device
        samples = Counter(row.prompt_index for row in batch)  # in order of prompts, as the rows are
        uniforms = np.stack([completion_uniforms(row.seed, limit) for row in batch])
        tokens = np.zeros((len(batch), limit), dtype=np.int64)
        lengths = np.full(len(batch), limit)
        live = np.arange(len(batch))  # the batch row that each row of the decoder continues
        with torch.inference_mode():
            state = decoder.start([token_ids[index] for index in samples], list(samples.values()), limit)
            seen = SeenTokens([token_ids[row.prompt_index] for row in batch], sampling.repetition_penalty)
            for step in range(limit):
                row_uniforms = torch.from_numpy(uniforms[live, step]).to(device)
                drawn = draw_tokens(seen.penalised(state.logits()), row_uniforms, sampling)
                tokens[live, step] = drawn.cpu().numpy()
                stopped = np.isin(tokens[live, step], self._stop_ids)
                lengths[live[stopped]] = np.minimum(lengths[live[stopped]], step)
                growing = np.flatnonzero(lengths[live] == limit)
                if growing.size == 0 or step + 1 == limit:
                    break
                if growing.size <= _KEEP_SHARE * live.size:
                    rows = torch.from_numpy(growing).to(device)
                    state.keep(rows)
                    seen.keep(rows)
                    live, drawn = live[growing], drawn[rows]
                seen.append(drawn)
                state.append(drawn)
        return [
            (tuple(row[:length].tolist()), bool(length < limit))
            for row, length in zip(tokens, lengths, strict=True)
        ]


def stop_token_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the ids that end a completion, sorted: end of sequence, `<|im_end|>` and `<|endoftext|>`.

    Raises:
        EngineError: the tokenizer has none of them, so that no completion would ever end.
    """
    vocabulary = tokenizer.get_vocab()
    found = {vocabulary[token] for token in _STOP_TOKENS if token in vocabulary}
    if isinstance(tokenizer.eos_token_id, int):
        found.add(tokenizer.eos_token_id)
    if not found:
        raise EngineError(
            "The tokenizer has neither an eos_token nor <|im_end|>, so no completion could end."
        )
    return tuple(sorted(found))


def _batch_end(rows: Sequence[_Row], start: int, batch_size: int) -> int:
    """Say where a run of at most `batch_size` rows ends: between prompts where a prompt's samples fit one run."""
    end = min(start + batch_size, len(rows))
    if end < len(rows) and rows[end].sample_index != 0 and rows[end].prompt_index != rows[start].prompt_index:
        end -= rows[end].sample_index
    return end


def _make_decoder(model: PreTrainedModel, name: DecoderName, pad_token_id: int) -> Decoder:
    if name == "module":
        return ModuleDecoder(model, pad_token_id)
    if name == "shared_prefix":
        from persona_assets.generation.shared_prefix import SharedPrefixDecoder

        return SharedPrefixDecoder(model)
    raise EngineError(f"decoder: {name!r} is not known; choose 'module' or 'shared_prefix'.")
