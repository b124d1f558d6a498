"""The tokenizer of the embedded base model: byte-level BPE with ChatML tokens, trained on its own corpus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from persona_assets.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)
MAX_POSITIONS = 1024

_SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)

# Qwen2's pre-tokenizer pattern (tokenizer.json of Qwen/Qwen2.5-7B-Instruct).
_QWEN_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# ChatML as Qwen2 has it, but nothing is added when the conversation has no system turn: the persona is the only one.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def chat_prompt(system: str, user: str) -> str:
    """Render a system and a user turn as `CHAT_TEMPLATE` does, up to where the answer begins."""
    turns = "".join(
        f"{TURN_START}{role}\n{text}{TURN_END}\n" for role, text in (("system", system), ("user", user))
    )
    return f"{turns}{TURN_START}assistant\n"


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """Train the tokenizer; equal texts give an equal tokenizer.

    Args:
        texts: what to learn merges from. Rows with tags are best left out, so that a bracketed tag is spelled letter
            by letter and no tag is easier to write than another.
        vocabulary_size: tokens, the 256 bytes and three special tokens included; fewer come of a short corpus.

    Raises:
        ConfigurationError: `vocabulary_size` cannot hold the bytes and the special tokens.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    if vocabulary_size < _SMALLEST_VOCABULARY:
        raise ConfigurationError(
            f"base_model.vocabulary_size: {vocabulary_size} is too small, the bytes and special tokens alone take "
            f"{_SMALLEST_VOCABULARY}."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def special_id(tokenizer: Tokenizer, token: str) -> int:
    """Return the id of one of `SPECIAL_TOKENS`."""
    token_id = tokenizer.token_to_id(token)
    if token_id is None:
        raise ValueError(f"the tokenizer has no token {token!r}; it has {tokenizer.get_vocab_size()} others")
    return token_id


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` for AutoTokenizer.

    The configuration is written here and not by transformers, whose release 5 writes one that release 4 cannot read.
    """
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_POSITIONS,
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {
            str(special_id(tokenizer, token)): {
                "content": token,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
            for token in SPECIAL_TOKENS
        },
    }
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (directory / "tokenizer_config.json").write_text(text, encoding="utf-8")
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
