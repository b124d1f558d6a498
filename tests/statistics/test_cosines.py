from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cosine as cosine_distance

from persona_assets.geometry.cosines import (
    GeometryError,
    anchor_cosines,
    centred,
    geometry_frame,
    pairwise_cosines,
    pairwise_frame,
)

CENTROIDS = np.random.default_rng(0).standard_normal((5, 3, 8)).astype(np.float32) + 4.0
REFERENCE = np.random.default_rng(1).standard_normal((4, 3, 8)) + 4.0


@pytest.mark.parametrize("centring", ["panel", "none", "frozen"])
def test_every_cosine_is_scipys(centring: str) -> None:
    reference = REFERENCE if centring == "frozen" else None
    centre = {"panel": CENTROIDS.astype(float).mean(axis=0), "none": 0.0, "frozen": REFERENCE.mean(axis=0)}[centring]
    moved = CENTROIDS.astype(float) - centre
    matrix = pairwise_cosines(CENTROIDS, centring, reference)
    for layer in range(3):
        for a in range(5):
            for b in range(5):
                assert matrix[layer, a, b] == pytest.approx(1 - cosine_distance(moved[a, layer], moved[b, layer]), abs=1e-12)
    for anchor in range(5):
        assert np.allclose(anchor_cosines(CENTROIDS, anchor, centring, reference), matrix[:, anchor], atol=1e-12)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 50), st.floats(-20, 20))
def test_panel_centring_ignores_scale_and_shift(seed: int, scale: float, shift: float) -> None:
    values = np.random.default_rng(seed).standard_normal((6, 2, 5))
    assert np.allclose(pairwise_cosines(values), pairwise_cosines(values * scale + shift), atol=1e-7)


def test_bounds_diagonal_and_symmetry_hold_exactly() -> None:
    matrix = pairwise_cosines(np.repeat(CENTROIDS, 2, axis=0), "none")
    assert (np.abs(matrix) <= 1.0).all()
    assert (matrix == matrix.transpose(0, 2, 1)).all()
    assert (np.einsum("lii->li", matrix) == 1.0).all()
    assert (anchor_cosines(CENTROIDS, 2)[:, 2] == 1.0).all()


def test_a_larger_panel_moves_panel_cosines_but_not_frozen_ones() -> None:
    larger = np.concatenate([CENTROIDS, REFERENCE + 1.0])
    assert not np.allclose(anchor_cosines(larger, 0)[:, :5], anchor_cosines(CENTROIDS, 0))
    frozen = anchor_cosines(CENTROIDS, 0, "frozen", REFERENCE)
    assert np.allclose(anchor_cosines(larger, 0, "frozen", REFERENCE)[:, :5], frozen)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: centred(CENTROIDS[0], "panel"), "expected \\[personas, layers, hidden\\]"),
        (lambda: centred(CENTROIDS, "frozen"), "a reference panel is needed"),
        (lambda: centred(CENTROIDS, "panel", REFERENCE), "a reference panel is needed"),
        (lambda: centred(CENTROIDS, "frozen", REFERENCE[:, :2]), "different base models"),
        (lambda: centred(CENTROIDS, "mean"), "unknown"),
        (lambda: pairwise_cosines(CENTROIDS[:1]), "zero after centring"),
        (lambda: anchor_cosines(CENTROIDS, 5), "outside a panel of 5"),
        (lambda: pairwise_cosines(np.where(CENTROIDS > 4, np.nan, CENTROIDS)), "not finite at layer"),
        (lambda: geometry_frame(CENTROIDS, list("abcde"), "z"), "not in the panel"),
        (lambda: geometry_frame(CENTROIDS, list("abcda"), "a"), "as many different persona ids"),
        (lambda: pairwise_frame(CENTROIDS, list("abcde"), layers=[1, 1, 2]), "different layer numbers"),
    ],
)
def test_bad_geometry_is_refused(call: object, message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        call()  # type: ignore[operator]


def test_frames_hold_every_number_once() -> None:
    frame = geometry_frame(CENTROIDS, list("abcde"), "c", reference=REFERENCE, layers=(7, 8, 9))
    assert frame.height == 3 * 5 * 3
    assert frame.select(pl.struct("layer", "persona", "centring").is_unique().all()).item()
    cell = frame.filter(layer=8, persona="e", centring="frozen")["cosine"].item()
    assert cell == pytest.approx(anchor_cosines(CENTROIDS, 2, "frozen", REFERENCE)[1, 4])
    assert "frozen" not in set(geometry_frame(CENTROIDS, list("abcde"), "c")["centring"])
    pairs = pairwise_frame(CENTROIDS, list("abcde"), layers=(7, 8, 9))
    assert pairs.height == 3 * 25
    cell = pairs.filter(layer=9, persona_a="b", persona_b="d")["cosine"].item()
    assert cell == pytest.approx(pairwise_cosines(CENTROIDS)[2, 1, 3])
