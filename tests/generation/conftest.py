"""A tiny Qwen2 with random weights and a byte-level tokenizer of its own, as an ordinary checkpoint directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerBase:
    """Train a byte-level BPE with a few merges and ChatML's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["You are a helpful librarian who answers", "system user assistant"] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
    )


def build_model(vocabulary: int, seed: int, **overrides: object) -> PreTrainedModel:
    """Make a Qwen2 whose random weights are large enough for peaked, prompt-dependent distributions."""
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
        model = Qwen2ForCausalLM(config)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # transformers starts biases at 0, which would hide a decoder that forgets them
                torch.nn.init.normal_(parameter, std=0.3)
            elif name.endswith("norm.weight"):
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.eval()
    return model


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the tiny model and its tokenizer."""
    directory = tmp_path_factory.mktemp("tiny_checkpoint")
    tokenizer = build_tokenizer()
    build_model(len(tokenizer), seed=7).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tokenizer(checkpoint: Path) -> PreTrainedTokenizerBase:
    """Return the tiny tokenizer as loaded from its directory."""
    from persona_assets.models.loading import load_tokenizer

    return load_tokenizer(checkpoint)


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> PreTrainedModel:
    """Return the tiny model as loaded from its directory."""
    from persona_assets.models.loading import load_model

    return load_model(checkpoint, device="cpu", dtype="float32")
