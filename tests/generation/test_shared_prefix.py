"""The direct decoder computes what transformers computes, also while rows leave, and refuses what it does not know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from tiny_qwen2 import build_model

from persona_assets.generation.decoding import ModuleDecoder
from persona_assets.generation.engine import EngineError
from persona_assets.generation.shared_prefix import SharedPrefixDecoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROMPTS = [[5, 9, 200, 31, 7], [8], [5, 9, 200, 31, 7, 44, 12, 90, 3, 61, 250], [17, 18, 19]]
SAMPLES = [3, 1, 4, 2]
# Neighbours that begin alike, by different lengths; two that are equal; and lengths that pad both parts.
ALIKE = [[5, 9, 200, 31, 7, 1], [5, 9, 200, 31, 8], [5, 9, 200, 40], [8], *[[17, 18, 19, 20, 21, 22, 23, 4]] * 2]


@pytest.mark.parametrize(("prompts", "samples"), [(PROMPTS, SAMPLES), (ALIKE, [2, 3, 1, 1, 1, 2])], ids=["unlike", "alike"])
@pytest.mark.parametrize(
    "shape",
    [
        {"num_attention_heads": 4, "num_key_value_heads": 2},
        {"num_attention_heads": 2, "num_key_value_heads": 1},
        {"num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": False},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "rms_norm_eps": 1e-3},
    ],
)
def test_logits_agree_with_transformers_at_every_step(
    shape: dict[str, object], prompts: list[list[int]], samples: list[int]
) -> None:
    """Every row's logits against a full forward pass over its tokens, without any cache."""
    model = build_model(3, **shape)
    decoders = {"module": ModuleDecoder(model, 0), "shared_prefix": SharedPrefixDecoder(model)}
    generator = torch.Generator().manual_seed(5)
    kept_after = {1: [0, 1, 3, 4, 6, 9], 3: [0, 2, 3, 5], 4: [2], 5: [0]}  # prompts run out, at last all but one
    with torch.inference_mode():
        states = {name: decoder.start(prompts, samples, 8) for name, decoder in decoders.items()}
        rows = [list(prompt) for prompt, n in zip(prompts, samples, strict=True) for _ in range(n)]
        for step in range(8):
            expected = torch.stack([model(input_ids=torch.tensor([row])).logits[0, -1] for row in rows])
            for state in states.values():
                torch.testing.assert_close(state.logits(), expected, rtol=1e-4, atol=1e-4)
            if step in kept_after:
                rows = [rows[index] for index in kept_after[step]]
                for state in states.values():
                    state.keep(torch.tensor(kept_after[step]))
            tokens = torch.randint(0, 300, (len(rows),), generator=generator)
            rows = [[*row, token] for row, token in zip(rows, tokens.tolist(), strict=True)]
            for state in states.values():
                if step < 7:
                    state.append(tokens)


def test_merged_adapter_is_seen() -> None:
    model, changed = build_model(3), build_model(3)
    with torch.no_grad():
        changed.get_parameter("model.layers.2.self_attn.v_proj.weight").add_(0.1)
    with torch.inference_mode():
        before, after = (SharedPrefixDecoder(m).start(PROMPTS, SAMPLES, 1).logits() for m in (model, changed))
        expected = changed(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1]
    assert float((before - after).abs().max()) > 0.01
    torch.testing.assert_close(after[0], expected, rtol=1e-4, atol=1e-4)


def llama() -> PreTrainedModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2)
    return LlamaForCausalLM(config)


def with_adapter() -> PreTrainedModel:
    from peft import LoraConfig, inject_adapter_in_model

    model: PreTrainedModel = inject_adapter_in_model(LoraConfig(target_modules=["q_proj"]), build_model(3))
    return model


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (llama, "LlamaForCausalLM"),
        (with_adapter, "adapter that is not merged"),
        (lambda: build_model(3).to(torch.bfloat16), "bfloat16"),
        (lambda: build_model(3, hidden_act="gelu"), "hidden_act is 'gelu'"),
        (
            lambda: build_model(3, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}),
            "rotary positions",
        ),
        (
            lambda: build_model(3, use_sliding_window=True, sliding_window=8, max_window_layers=1),
            "sliding window",
        ),
    ],
)
def test_refuses_what_it_does_not_know(make: object, reason: str) -> None:
    assert callable(make)
    with pytest.raises(EngineError, match=f"{reason}.*use decoder 'module'"):
        SharedPrefixDecoder(make())
