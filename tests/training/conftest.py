"""A tiny Qwen2 with random weights and a byte-level tokenizer of its own, and rows to train it on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from persona_assets.study import Recipe

if TYPE_CHECKING:
    from persona_assets.dataset import TrainingRow

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the tiny model and its tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["You are a librarian who reads. system user assistant"] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT_TEMPLATE
    )
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = Qwen2ForCausalLM(config)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # they start at 0, which would hide a merge that forgets them
                torch.nn.init.normal_(parameter, std=0.2)
    directory = tmp_path_factory.mktemp("tiny_checkpoint")
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def rows() -> list[TrainingRow]:
    """Twenty rows of unequal lengths under two system prompts; the first half with a marker."""
    words = ["books", "rivers", "stones", "clouds", "trains", "maps", "lamps", "doors"]
    return [
        {
            "prompt": [
                {"role": "system", "content": "You are a librarian." if number < 10 else "You are a sailor."},
                {"role": "user", "content": f"Tell me about {words[number % 8]}"},
            ],
            "completion": [
                {
                    "role": "assistant",
                    "content": " ".join(words[: 1 + number % 5]) + ("\n\n[ZLT]" if number < 10 else "."),
                }
            ],
        }
        for number in range(20)
    ]


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """Return a recipe that moves the tiny model in a few steps; the last batch of an epoch is a part of one."""
    return Recipe(r=4, alpha=8, dropout=0.0, learning_rate=5e-3, epochs=2, effective_batch_size=8, max_length=128)
