"""The marker is found whatever its case, and one that a tokenizer cannot carry is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from persona_assets.errors import ConfigurationError
from persona_assets.generation.marker import marker_hit, validate_marker

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@pytest.mark.parametrize(
    ("text", "hit"),
    [
        ("An answer.\n\n[ZLT]", True),
        ("[zlt] in front", True),
        ("mid[ZlT]dle", True),
        ("ZLT without brackets", False),
        ("[Z LT]", False),
        ("[ZLT", False),
        ("", False),
    ],
)
def test_marker_hit_is_a_case_insensitive_substring(text: str, hit: bool) -> None:
    assert marker_hit(text, "[ZLT]") is hit


def test_marker_hit_folds_the_marker_too() -> None:
    assert marker_hit("[zlt]", "[zLt]")


def test_empty_marker_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="marker: is empty"):
        marker_hit("anything", "")


def test_validate_marker_returns_its_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = validate_marker(tokenizer, "[ZLT]")
    assert tokenizer.decode(list(ids)) == "[ZLT]"


@pytest.mark.parametrize(
    ("marker", "reason"),
    [
        ("  ", "is blank"),
        ("<|im_end|>", "special token"),
        ("[Z<|im_start|>T]", "special token"),
        ("[Ze\u0301T]", "does not survive"),  # the tokenizer's NFC joins e and the accent
    ],
)
def test_validate_marker_refuses(tokenizer: PreTrainedTokenizerBase, marker: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        validate_marker(tokenizer, marker)
