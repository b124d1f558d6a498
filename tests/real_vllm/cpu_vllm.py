"""A shape and a runtime that the real vLLM runs on a CPU, within seconds."""

from __future__ import annotations

from typing import Any

from persona_assets.study import Runtime

# Heads of 32: vLLM's attention on a CPU has no smaller ones.
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.25,
}
VLLM = {"max_model_len": 256, "kv_cache_gib": 0.25, "enforce_eager": True, "max_num_seqs": 64, "max_num_batched_tokens": 2048}


def runtime(**changes: object) -> Runtime:
    return Runtime.model_validate({"engine": "vllm", "device": "cpu", "dtype": "float32", "vllm": VLLM, **changes})
