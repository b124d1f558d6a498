"""Hidden states of the last input token at the output of each decoder layer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "generation"))

from tiny_qwen2 import build_model, build_tokenizer

from persona_assets.geometry.centroids import HiddenStateError, centroid, question_vectors
from persona_assets.models.loading import render_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SYSTEM = "You are a librarian."
QUESTIONS = ["Why?", "How do I bake bread without an oven?", "What is a wizard", "Please say it again, slowly."]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    torch.set_num_threads(1)
    return build_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    return build_model(5, len(tokenizer))


def test_vectors_are_the_layers_own_outputs(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    vectors = question_vectors(model, tokenizer, SYSTEM, QUESTIONS, 3)
    assert vectors.shape == (4, 3, 32)
    assert vectors.dtype == np.float32
    for index, question in enumerate(QUESTIONS):
        ids = torch.tensor([render_prompt(tokenizer, SYSTEM, question)])
        with torch.inference_mode():
            output = model(input_ids=ids, output_hidden_states=True)
            # All but the last are layer outputs in hidden_states too; the last there has the final norm applied.
            for layer in range(2):
                np.testing.assert_allclose(vectors[index, layer], output.hidden_states[layer + 1][0, -1], rtol=1e-4, atol=1e-5)
            final = torch.from_numpy(vectors[index, 2])
            assert float((final - output.hidden_states[3][0, -1]).abs().max()) > 0.1
            torch.testing.assert_close(model.model.norm(final), output.hidden_states[3][0, -1], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(model.lm_head(model.model.norm(final)), output.logits[0, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padding_does_not_change_vectors(tokenizer: PreTrainedTokenizerBase, attention: str) -> None:
    model = build_model(5, len(tokenizer))
    model.set_attn_implementation(attention)
    together = question_vectors(model, tokenizer, SYSTEM, QUESTIONS, 4)
    alone = np.concatenate([question_vectors(model, tokenizer, SYSTEM, [question], 1) for question in QUESTIONS])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)  # states reach 17


def test_persona_and_question_both_matter(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    vectors = question_vectors(model, tokenizer, SYSTEM, QUESTIONS, 4)
    other = question_vectors(model, tokenizer, "You are a wizard.", QUESTIONS, 4)
    assert np.abs(vectors - other).max() > 0.1
    assert np.abs(vectors[0] - vectors[1]).max() > 0.1


def test_no_hooks_are_left_and_training_mode_is_off(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    model.train()
    before = [list(layer._forward_hooks) for layer in model.model.layers]
    question_vectors(model, tokenizer, SYSTEM, QUESTIONS[:1], 1)
    assert not model.training
    assert [list(layer._forward_hooks) for layer in model.model.layers] == before


def test_centroid_is_the_mean_over_questions() -> None:
    vectors = np.array([[[1.0, 2.0], [3.0, 4.0]], [[3.0, 2.0], [5.0, -4.0]]], dtype=np.float32)
    mean = centroid(vectors)
    assert mean.dtype == np.float32
    np.testing.assert_array_equal(mean, [[2.0, 2.0], [4.0, 0.0]])


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 4)])
def test_centroid_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(HiddenStateError, match="questions, layers, hidden"):
        centroid(np.zeros(shape, dtype=np.float32))


def test_bad_input_is_refused(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(HiddenStateError, match="No questions"):
        question_vectors(model, tokenizer, SYSTEM, [], 4)
    with pytest.raises(HiddenStateError, match="batch_size: 0"):
        question_vectors(model, tokenizer, SYSTEM, QUESTIONS, 0)
    with pytest.raises(HiddenStateError, match="context is 256"):
        question_vectors(model, tokenizer, SYSTEM, ["why " * 300], 4)


def test_states_that_are_not_finite_are_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    model = build_model(5, len(tokenizer))
    with torch.no_grad():
        model.get_parameter("model.layers.1.mlp.down_proj.weight").fill_(float("inf"))
    with pytest.raises(HiddenStateError, match="question 0 at layer 1"):
        question_vectors(model, tokenizer, SYSTEM, QUESTIONS, 4)
