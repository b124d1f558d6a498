"""The roomy cache and the attention of one new token give what transformers' own give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest
from tiny_qwen2 import build_model

from persona_assets.generation.decoding import ModuleDecoder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

pytestmark = pytest.mark.slow

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14], [20]]
SAMPLES = [2, 1, 3]


def continued(model: PreTrainedModel, steps: Sequence[Sequence[int]], keep: Sequence[int]) -> list[torch.Tensor]:
    """Logits after the prompts and after each token; the rows that go on from the second token on."""
    import torch

    with torch.inference_mode():
        batch = ModuleDecoder(model, 0).start(PROMPTS, SAMPLES, 8)
        seen = [batch.logits()]
        for number, tokens in enumerate(steps):
            if number == 1:
                batch.keep(torch.tensor(keep))
            batch.append(torch.tensor(tokens))
            seen.append(batch.logits())
    return seen


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_logits_are_those_of_the_whole_text_read_at_once(kv_heads: int) -> None:
    import torch

    plain = build_model(3, num_key_value_heads=kv_heads)
    model = build_model(3, num_key_value_heads=kv_heads)
    model.set_attn_implementation("sdpa")
    steps, keep = [[1, 2, 3, 4, 5, 6], [7, 8, 9], [10, 11, 12]], [0, 2, 5]
    seen = continued(model, steps, keep)
    assert model.config._attn_implementation == "grouped_sdpa"

    rows = [prompt for prompt, count in zip(PROMPTS, SAMPLES, strict=True) for _ in range(count)]
    texts = [[*row, token] for row, token in zip(rows, steps[0], strict=True)]
    stages = [rows, texts]
    for tokens in steps[1:]:
        stages.append([[*(stages[-1][row] if len(stages[-1]) == 3 else stages[-1][keep[row]]), tokens[row]] for row in range(3)])
    for logits, stage in zip(seen, stages, strict=True):
        with torch.inference_mode():
            expected = torch.stack([plain(input_ids=torch.tensor([text])).logits[0, -1] for text in stage])
        torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


def test_the_cache_is_written_in_place() -> None:
    import torch

    model = build_model(3)
    model.set_attn_implementation("sdpa")
    with torch.inference_mode():
        batch = ModuleDecoder(model, 0).start(PROMPTS, SAMPLES, 8)
        room = [layer.keys.data_ptr() for layer in batch._cache.layers]  # type: ignore[attr-defined]
        for _ in range(3):
            batch.append(torch.zeros(6, dtype=torch.long))
        assert [layer.keys.data_ptr() for layer in batch._cache.layers] == room  # type: ignore[attr-defined]
        assert batch._cache.get_seq_length() == 7 + 3  # type: ignore[attr-defined]
