"""Builders of tiny Qwen2 models with random weights, and of a tokenizer with a chat template."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from persona_assets.models.loading import load_tokenizer
from persona_assets.models.nano.tokenizer import save_tokenizer, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VOCABULARY = 300
_TEXTS = ("You are a helpful librarian who answers questions about bread.", "system user assistant") * 4


def build_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE with a few merges and ChatML's special tokens, save it, and load it back."""
    save_tokenizer(train_tokenizer(_TEXTS, VOCABULARY), directory)
    (directory / "config.json").write_text('{"model_type": "qwen2"}', encoding="utf-8")
    return load_tokenizer(directory)


def build_model(seed: int, vocabulary: int = VOCABULARY, **overrides: object) -> PreTrainedModel:
    """Make a Qwen2 whose random weights are large enough for peaked distributions that depend on the prompt."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    settings: dict[str, object] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "initializer_range": 0.35,
        **overrides,
    }
    config = Qwen2Config(**settings)  # type: ignore[arg-type]
    config._attn_implementation = "eager"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = Qwen2ForCausalLM(config)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # transformers starts them at 0, which would hide a decoder that forgets them
                torch.nn.init.normal_(parameter, std=0.3)
            elif name.endswith("norm.weight"):
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model.train(False)
