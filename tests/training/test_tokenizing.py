"""Tokenisation: what carries a loss, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from persona_assets.models.loading import load_tokenizer, render_prompt
from persona_assets.training import TrainingError, tokenize_rows
from persona_assets.training.tokenizing import IGNORED_LABEL

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from persona_assets.dataset import TrainingRow


@pytest.fixture
def tokenizer(checkpoint: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(checkpoint)


def test_the_loss_is_on_the_completion_and_its_end_of_turn_alone(
    tokenizer: PreTrainedTokenizerBase, rows: list[TrainingRow]
) -> None:
    tokenized = tokenize_rows(tokenizer, rows, max_length=128)
    assert len(tokenized) == len(rows)
    for row, found in zip(rows, tokenized, strict=True):
        system, user = (turn["content"] for turn in row["prompt"])
        prompt = render_prompt(tokenizer, system, user)  # what the engines give the model
        assert list(found.input_ids[: found.completion_start]) == prompt
        assert found.labels[: len(prompt)] == (IGNORED_LABEL,) * len(prompt)
        assert found.labels[len(prompt) :] == found.input_ids[len(prompt) :]
        assert tokenizer.decode(found.labels[len(prompt) :]) == row["completion"][0]["content"] + "<|im_end|>"
        assert found.input_ids[-1] == tokenizer.eos_token_id
        assert found.n_completion_tokens == len(found.input_ids) - len(prompt)


def test_a_row_that_is_too_long_is_named_and_not_cut(tokenizer: PreTrainedTokenizerBase, rows: list[TrainingRow]) -> None:
    lengths = [len(row.input_ids) for row in tokenize_rows(tokenizer, rows, max_length=128)]
    longest = max(lengths)
    assert len(tokenize_rows(tokenizer, rows, max_length=longest)) == len(rows)
    with pytest.raises(TrainingError, match=rf"Row {lengths.index(longest)}: {longest} tokens, and max_length is"):
        tokenize_rows(tokenizer, rows, max_length=longest - 1)


def test_a_completion_that_merges_with_the_prompt_is_refused(tokenizer: PreTrainedTokenizerBase, rows: list[TrainingRow]) -> None:
    assert tokenizer.chat_template is not None
    # A template that tells the generation prompt from a written turn: the mask would be off by some tokens.
    tokenizer.chat_template = str(tokenizer.chat_template).replace("<|im_start|>assistant\n{%", "<|im_start|>bot\n{%")
    with pytest.raises(TrainingError, match="Row 0: the tokens of its prompt are not the first tokens"):
        tokenize_rows(tokenizer, rows, max_length=128)


def test_a_template_that_never_ends_the_turn_is_refused(tokenizer: PreTrainedTokenizerBase, rows: list[TrainingRow]) -> None:
    endless = copy.deepcopy(tokenizer)
    endless.chat_template = str(tokenizer.chat_template).replace("<|im_end|>", "")
    with pytest.raises(TrainingError, match=r"does not end the assistant's turn with the EOS token '<\|im_end\|>'"):
        tokenize_rows(endless, rows, max_length=128)
    talkative = copy.deepcopy(tokenizer)
    talkative.chat_template = str(tokenizer.chat_template) + "{% if not add_generation_prompt %}Bye{% endif %}"
    with pytest.raises(TrainingError, match="text after the assistant's turn"):
        tokenize_rows(talkative, rows, max_length=128)


def test_no_rows_are_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(TrainingError, match="no rows"):
        tokenize_rows(tokenizer, [], max_length=128)
