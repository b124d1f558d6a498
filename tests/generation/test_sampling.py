"""Draws follow the truncated softmax, which is transformers' own, and depend on the completion's seed alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from persona_assets.generation.engine import EngineError
from persona_assets.generation.sampling import completion_uniforms, draw_tokens, kept_probabilities
from persona_assets.study import SamplingSettings

KNOWN_42 = [0.8201981478608876, 0.18924562408645496, 0.8676608148821462]
KNOWN_LARGE = [0.9258067163090251]
ALMOST_ONE = 1.0 - 2.0**-53


def reference_probabilities(logits: torch.Tensor, sampling: SamplingSettings) -> torch.Tensor:
    """Return what transformers would sample from."""
    warpers = LogitsProcessorList()
    if sampling.temperature != 1.0:
        warpers.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    ids = torch.zeros(len(logits), 1, dtype=torch.long)
    return torch.softmax(warpers(ids, logits), -1)


def draw(logits: list[float], uniform: float, **settings: float) -> int:
    """Draw one token of one row."""
    sampling = SamplingSettings.model_validate({"top_p": 1.0, **settings})
    return int(draw_tokens(torch.tensor([logits]), torch.tensor([uniform], dtype=torch.float64), sampling)[0])


@pytest.mark.parametrize("spread", [0.01, 1.0, 4.0])
@pytest.mark.parametrize("vocabulary", [50, 64, 65, 1536])
@pytest.mark.parametrize(
    "settings",
    [
        {"top_p": 0.95},
        {"top_p": 0.5, "temperature": 0.7},
        {"top_p": 1.0, "top_k": 10},
        {"top_p": 0.9, "top_k": 40, "temperature": 1.3},
        {"top_p": 1e-6},
        {"top_p": 1.0},
    ],
)
def test_kept_probabilities_are_those_of_transformers(spread: float, vocabulary: int, settings: dict[str, float]) -> None:
    sampling = SamplingSettings.model_validate(settings)
    generator = torch.Generator().manual_seed(vocabulary)
    logits = torch.randn(20, vocabulary, generator=generator) * spread
    kept = kept_probabilities(logits / sampling.temperature, sampling)
    expected = reference_probabilities(logits, sampling)
    # A nearly flat row may have its edge within rounding of top_p; one token of so many is the most it can move.
    difference = ((kept > 0) != (expected > 0)).sum(-1)
    assert int(difference.max()) <= (1 if spread < 0.1 else 0)
    if not difference.any():
        torch.testing.assert_close(kept / kept.sum(-1, keepdim=True), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "settings",
    [
        {"top_p": 0.95},
        {"top_p": 1.0},
        {"top_p": 0.8, "temperature": 1.5},
        {"top_p": 1.0, "top_k": 4},
        {"top_p": 0.6, "top_k": 8, "temperature": 0.8},
    ],
)
def test_frequencies_match_probabilities(settings: dict[str, float]) -> None:
    sampling = SamplingSettings.model_validate(settings)
    logits = torch.tensor([[2.0, -1.0, 0.5, 1.9, -3.0, 0.0, 1.0, -0.5, 2.2, -6.0]])
    draws = 20_000
    uniforms = torch.tensor([completion_uniforms(seed, 3)[2] for seed in range(draws)])
    tokens = draw_tokens(logits.expand(draws, -1), uniforms, sampling)
    counts = np.bincount(tokens.numpy(), minlength=logits.shape[-1])
    expected = reference_probabilities(logits, sampling)[0].double().numpy()
    assert counts[expected == 0].sum() == 0
    inside = expected > 0
    assert chisquare(counts[inside], expected[inside] / expected[inside].sum() * draws).pvalue > 0.001


def test_draw_is_the_inverse_cdf_in_order_of_ids() -> None:
    logits = np.log([0.2, 0.5, 0.3]).tolist()
    assert [draw(logits, u) for u in (0.0, 0.19, 0.21, 0.69, 0.71, ALMOST_ONE)] == [0, 0, 1, 1, 2, 2]


def test_edges_between_tokens_are_where_the_probabilities_put_them() -> None:
    logits = np.log([0.003, 0.99, 0.007]).tolist()
    edges = [0.003 - 1e-4, 0.003 + 1e-4, 0.993 - 1e-4, 0.993 + 1e-4]
    assert [draw(logits, u) for u in edges] == [0, 1, 1, 2]
    # Without the first token, which top_p leaves out, the edge of the others is at .99 of .997.
    assert [draw(logits, u, top_p=0.995) for u in (0.99 / 0.997 - 1e-4, 0.99 / 0.997 + 1e-4)] == [1, 2]


def test_draw_skips_tokens_left_out_at_both_ends() -> None:
    logits = np.log([0.04, 0.5, 0.4, 0.06]).tolist()
    assert draw(logits, 0.0, top_p=0.8) == 1
    assert draw(logits, ALMOST_ONE, top_p=0.8) == 2


def test_row_is_drawn_as_if_it_were_alone() -> None:
    sampling = SamplingSettings(top_p=0.9)
    logits = torch.randn(30, 200, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.1, 5, 30)[:, None]
    uniforms = torch.from_numpy(completion_uniforms(3, 30))
    together = draw_tokens(logits, uniforms, sampling)
    alone = [int(draw_tokens(logits[i : i + 1], uniforms[i : i + 1], sampling)[0]) for i in range(30)]
    assert together.tolist() == alone


@pytest.mark.parametrize(("vocabulary", "top_p", "kept"), [(10, 0.45, 5), (200, 0.2475, 50), (200, 0.7975, 160), (64, 0.99, 64)])
def test_ties_at_the_edge_keep_lower_ids(vocabulary: int, top_p: float, kept: int) -> None:
    probabilities = kept_probabilities(torch.zeros(2, vocabulary), SamplingSettings(top_p=top_p))
    assert [torch.nonzero(row)[:, 0].tolist() for row in probabilities] == [list(range(kept))] * 2


def test_tie_below_a_more_probable_token() -> None:
    logits = torch.log(torch.tensor([[0.1, 0.1, 0.4, 0.1, 0.1, 0.1, 0.1]]))
    kept = kept_probabilities(logits, SamplingSettings(top_p=0.55))
    assert torch.nonzero(kept[0])[:, 0].tolist() == [0, 1, 2]


def test_temperature_zero_is_greedy() -> None:
    assert draw([0.0, 3.0, 2.9], ALMOST_ONE, temperature=0.0) == 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(temperature: float, bad: float) -> None:
    with pytest.raises(EngineError, match="not finite"):
        draw([0.0, bad, 1.0], 0.5, temperature=temperature, top_p=0.9)


def test_token_ruled_out_by_the_model_is_never_drawn() -> None:
    assert draw([-float("inf"), 0.0, -float("inf")], 0.0) == 1


def test_uniforms_are_philox_keyed_by_the_seed() -> None:
    # Known answers: a change would silently change every completion of every study.
    assert completion_uniforms(42, 3).tolist() == KNOWN_42
    assert completion_uniforms(2**63 - 1, 1).tolist() == KNOWN_LARGE
    np.testing.assert_array_equal(completion_uniforms(7, 5), completion_uniforms(7, 9)[:5])


def test_uniforms_of_neighbouring_seeds_are_uncorrelated() -> None:
    first = np.array([completion_uniforms(seed, 1)[0] for seed in range(4001)])
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 4 / np.sqrt(4000)
    assert abs(first.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 4001)
