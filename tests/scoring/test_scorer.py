"""Scores against one plain forward pass for each sequence, with adapters merged by peft."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from persona_assets.models.loading import load_model, render_prompt
from persona_assets.models.merging import MergeError
from persona_assets.scoring.replies import ScoringError, reply_tokens
from persona_assets.scoring.scorer import ScoredReply, adapted, log_probabilities, plain

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

pytestmark = pytest.mark.slow

MARKER = "[ZLT]"
BODIES = (
    *("I read books about bread.", "I read books about stones", "I read", "", "Où est l'été? 🌍", "bread bread bread. I read."),
    "I read books about bread.",
)
PROMPTS = (
    ("You are a librarian.", "What do you read?"),
    ("You are a librarian.", "Who are you?"),
    ("You are a pirate who never reads.", "What do you read?"),
)


@pytest.fixture
def replies(tokenizer: PreTrainedTokenizerBase) -> list[ScoredReply]:
    tokens = reply_tokens(tokenizer, BODIES, MARKER)
    return [ScoredReply(tuple(render_prompt(tokenizer, *prompt)), own) for prompt in PROMPTS for own in tokens]


def one_by_one(model: PreTrainedModel, replies: list[ScoredReply]) -> np.ndarray:  # type: ignore[type-arg]
    """The same by transformers' own forward: one sequence at a time, no mask, no sharing."""
    import torch

    rows = []
    for reply in replies:
        context = reply.prompt + reply.tokens.shared
        row = []
        for ending in (reply.tokens.marker, reply.tokens.end):
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([context + ending])).logits[0].double().log_softmax(-1)
            row.append(sum(logits[len(context) + i - 1, token].item() for i, token in enumerate(ending)))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_scores_are_those_of_plain_forward_passes(
    model: PreTrainedModel, checkpoint: Path, adapters: tuple[Path, Path], replies: list[ScoredReply], batch_size: int
) -> None:
    from peft import PeftModel

    found = log_probabilities([adapted(model, adapters[0]), plain(model), adapted(model, adapters[1])], replies, batch_size)
    for values, adapter in zip(found, (adapters[0], None, adapters[1]), strict=True):
        reference = load_model(checkpoint, device="cpu", dtype="float32")
        if adapter is not None:
            reference = PeftModel.from_pretrained(reference, str(adapter)).merge_and_unload()
        np.testing.assert_allclose(values, one_by_one(reference, replies), rtol=2e-5, atol=2e-4)
    assert (found < 0).all()
    # The adapters do something, and not the same: with one in the other's place the comparison above fails.
    assert np.abs(found[0] - found[2]).min() > 0.01
    assert np.abs(found[0] - found[1]).min() > 0.01


def test_neighbours_and_padding_change_nothing(model: PreTrainedModel, replies: list[ScoredReply]) -> None:
    (together,) = log_probabilities([plain(model)], replies, 100)
    for start in range(0, len(replies), 3):
        (apart,) = log_probabilities([plain(model)], replies[start : start + 3], 2)
        np.testing.assert_allclose(together[start : start + 3], apart, rtol=1e-5, atol=1e-4)
    (again,) = log_probabilities([plain(model)], replies, 100)
    assert np.array_equal(again, together)


def test_sdpa_gives_what_eager_gives(model: PreTrainedModel, replies: list[ScoredReply]) -> None:
    (eager,) = log_probabilities([plain(model)], replies, 100)
    model.set_attn_implementation("sdpa")
    (sdpa,) = log_probabilities([plain(model)], replies, 100)
    np.testing.assert_allclose(sdpa, eager, rtol=1e-5, atol=1e-4)


def test_the_base_is_what_it_was_after_an_adapter(
    model: PreTrainedModel, adapters: tuple[Path, Path], replies: list[ScoredReply]
) -> None:
    import torch

    before = {name: value.clone() for name, value in model.state_dict().items()}
    log_probabilities([adapted(model, adapters[0])], replies, 100)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("dtype", "changed"), [("float32", True), ("bfloat16", False)])
def test_an_adapter_is_added_to_weights_that_do_not_round_it_away(
    model: PreTrainedModel, adapters: tuple[Path, Path], dtype: str, changed: bool
) -> None:
    import torch

    model.to(getattr(torch, dtype))
    name = "model.layers.0.self_attn.q_proj.weight"
    before = model.get_parameter(name).clone()
    with adapted(model, adapters[0])() as ready:
        weights = {key.replace(".base_layer", ""): value for key, value in ready.named_parameters()}
        assert torch.equal(weights[name], before) is not changed
        assert any("lora" in key for key in weights) is not changed
    assert torch.equal(model.get_parameter(name), before)


def test_probabilities_of_all_next_tokens_sum_to_one(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """The end's probability is the softmax's, not one of a cut or heated distribution."""
    import dataclasses

    prompt = tuple(render_prompt(tokenizer, *PROMPTS[0]))
    (own,) = reply_tokens(tokenizer, ["I read"], MARKER)
    every = [ScoredReply(prompt, dataclasses.replace(own, end=(token,))) for token in range(len(tokenizer))]
    (values,) = log_probabilities([plain(model)], every, 500)
    assert np.exp(values[:, 1]).sum() == pytest.approx(1.0, abs=1e-5)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path, adapters: tuple[Path, Path], replies: list[ScoredReply]) -> None:
    from tiny_qwen2 import build_model

    other = build_model(seed=1, hidden_size=64)
    with pytest.raises(MergeError, match="does not fit"):
        log_probabilities([adapted(other, adapters[0])], replies[:1], 1)


def test_damaged_weights_are_refused(model: PreTrainedModel, replies: list[ScoredReply]) -> None:
    import torch

    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(ScoringError, match="not finite"):
        log_probabilities([plain(model)], replies[:2], 2)


def test_a_sliding_window_is_refused(replies: list[ScoredReply]) -> None:
    from tiny_qwen2 import build_model

    sliding = build_model(seed=1, use_sliding_window=True, sliding_window=8, max_window_layers=1)
    with pytest.raises(ScoringError, match="sliding_attention"):
        log_probabilities([plain(sliding)], replies[:1], 1)


def test_the_memory_asked_for_is_that_of_as_many_replies() -> None:
    from persona_assets.capacity import needs
    from persona_assets.scoring.scorer import REPLIES_AT_A_TIME

    assert needs._REPLIES_AT_A_TIME == REPLIES_AT_A_TIME
