"""Cosines between persona centroids, layer by layer, under three centrings.

The preregistered cosine subtracts the mean centroid of the study's panel at each layer. Because that mean moves
whenever the panel grows, two sensitivity versions exist: no centring, and the mean of one frozen reference panel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from persona_assets.errors import PersonaAssetsError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    FloatArray = NDArray[np.float64]

Centring = Literal["panel", "none", "frozen"]
GEOMETRY_SCHEMA = {"layer": pl.Int64, "persona": pl.String, "cosine": pl.Float64, "centring": pl.String}
PAIRWISE_SCHEMA = {
    "layer": pl.Int64,
    "persona_a": pl.String,
    "persona_b": pl.String,
    "cosine": pl.Float64,
    "centring": pl.String,
}


class GeometryError(PersonaAssetsError, ValueError):
    """Centroids that no cosine may be computed from."""


def centred(centroids: ArrayLike, centring: Centring, reference: ArrayLike | None = None) -> FloatArray:
    """Subtract the centre that a centring names.

    Args:
        centroids: [personas, layers, hidden], any float type.
        centring: `panel` subtracts the mean over these personas at each layer, `none` nothing, `frozen` the mean over
            the reference's personas.
        reference: [reference personas, layers, hidden], required by `frozen` and only allowed there.

    Returns:
        [personas, layers, hidden] in float64.

    Raises:
        GeometryError: wrong shapes, values that are not finite, or a reference missing or not asked for.
    """
    array = _checked(centroids, "centroids")
    if (reference is not None) != (centring == "frozen"):
        raise GeometryError(f"centring {centring!r}: a reference panel is needed by 'frozen', and by it alone.")
    if centring == "none":
        return array
    if centring == "panel":
        return np.asarray(array - array.mean(axis=0))
    if centring != "frozen":
        raise GeometryError(f"centring {centring!r} is unknown; there are panel, none, frozen.")
    frozen = _checked(reference, "reference")
    if frozen.shape[1:] != array.shape[1:]:
        raise GeometryError(
            f"The reference panel has (layers, hidden) {frozen.shape[1:]}, the centroids {array.shape[1:]}: "
            f"they come from different base models."
        )
    return np.asarray(array - frozen.mean(axis=0))


def pairwise_cosines(centroids: ArrayLike, centring: Centring = "panel", reference: ArrayLike | None = None) -> FloatArray:
    """Cosine of every pair of personas at every layer.

    Args:
        centroids: [personas, layers, hidden].
        centring: see `centred`.
        reference: see `centred`.

    Returns:
        [layers, personas, personas], symmetric, exactly 1 on the diagonal, within [-1, 1].

    Raises:
        GeometryError: as `centred`; or a centred centroid is zero, which has no direction.
    """
    array = centred(centroids, centring, reference)
    unit = np.ascontiguousarray((array / _norms(array)[..., None]).transpose(1, 0, 2))
    matrix = np.clip(unit @ unit.transpose(0, 2, 1), -1.0, 1.0)
    matrix = (matrix + matrix.transpose(0, 2, 1)) / 2
    diagonal = np.arange(matrix.shape[1])
    matrix[:, diagonal, diagonal] = 1.0
    return matrix


def anchor_cosines(
    centroids: ArrayLike, anchor: int, centring: Centring = "panel", reference: ArrayLike | None = None
) -> FloatArray:
    """Cosine of every persona with the anchor persona at every layer.

    Args:
        centroids: [personas, layers, hidden].
        anchor: position of the anchor among the personas.
        centring: see `centred`.
        reference: see `centred`.

    Returns:
        [layers, personas] within [-1, 1]; the anchor's own is exactly 1.

    Raises:
        GeometryError: as `pairwise_cosines`; or the anchor's position is outside the panel.
    """
    array = centred(centroids, centring, reference)
    if not 0 <= anchor < array.shape[0]:
        raise GeometryError(f"The anchor's position {anchor} is outside a panel of {array.shape[0]} personas.")
    unit = array / _norms(array)[..., None]
    cosines: FloatArray = np.clip(np.einsum("plh,lh->lp", unit, unit[anchor]), -1.0, 1.0)
    cosines[:, anchor] = 1.0
    return cosines


def geometry_frame(
    centroids: ArrayLike,
    personas: Sequence[str],
    anchor: str,
    *,
    reference: ArrayLike | None = None,
    layers: Sequence[int] | None = None,
) -> pl.DataFrame:
    """Table of cosines with the anchor under every centring that the data allow.

    Args:
        centroids: [personas, layers, hidden].
        personas: ids in the order of the first axis.
        anchor: id of the anchor persona.
        reference: centroids of the frozen reference panel; without it there are no `frozen` rows.
        layers: layer numbers of the second axis, 0, 1, ... by default.

    Returns:
        Columns layer, persona, cosine, centring; ordered by centring, layer, panel.
    """
    array, names = _named(centroids, personas, layers)
    if anchor not in personas:
        raise GeometryError(f"The anchor {anchor!r} is not in the panel of {len(personas)} personas.")
    position = list(personas).index(anchor)
    parts = []
    for centring, ref in _centrings(reference):
        cosines = anchor_cosines(array, position, centring, ref)
        parts.append(
            pl.DataFrame(
                {
                    "layer": np.repeat(np.asarray(names, dtype=np.int64), len(personas)),
                    "persona": list(personas) * len(names),
                    "cosine": cosines.ravel(),
                    "centring": [centring] * cosines.size,
                },
                schema=GEOMETRY_SCHEMA,
            )
        )
    return pl.concat(parts)


def pairwise_frame(
    centroids: ArrayLike,
    personas: Sequence[str],
    *,
    reference: ArrayLike | None = None,
    layers: Sequence[int] | None = None,
    centrings: Sequence[Centring] = ("panel",),
) -> pl.DataFrame:
    """Table of the full cosine matrix at every layer, both orders of each pair and the diagonal.

    Args:
        centroids: [personas, layers, hidden].
        personas: ids in the order of the first axis.
        reference: centroids of the frozen reference panel, for the centring `frozen`.
        layers: layer numbers of the second axis, 0, 1, ... by default.
        centrings: which centrings to tabulate.

    Returns:
        Columns layer, persona_a, persona_b, cosine, centring.
    """
    array, names = _named(centroids, personas, layers)
    n = len(personas)
    ids = pl.Series("persona", list(personas), dtype=pl.String)
    first, second = np.repeat(np.arange(n), n), np.tile(np.arange(n), n)
    parts = []
    for centring in centrings:
        cosines = pairwise_cosines(array, centring, reference if centring == "frozen" else None)
        parts.append(
            pl.DataFrame(
                {
                    "layer": np.repeat(np.asarray(names, dtype=np.int64), n * n),
                    "persona_a": ids.gather(np.tile(first, len(names))),
                    "persona_b": ids.gather(np.tile(second, len(names))),
                    "cosine": cosines.ravel(),
                }
            ).with_columns(pl.lit(centring).alias("centring"))
        )
    return pl.concat(parts).select(list(PAIRWISE_SCHEMA))


def _centrings(reference: ArrayLike | None) -> list[tuple[Centring, ArrayLike | None]]:
    choices: list[tuple[Centring, ArrayLike | None]] = [("panel", None), ("none", None)]
    return choices if reference is None else [*choices, ("frozen", reference)]


def _named(centroids: ArrayLike, personas: Sequence[str], layers: Sequence[int] | None) -> tuple[FloatArray, tuple[int, ...]]:
    array = _checked(centroids, "centroids")
    if len(personas) != array.shape[0] or len(set(personas)) != len(personas):
        raise GeometryError(f"{array.shape[0]} centroids need as many different persona ids, got {list(personas)}.")
    names = tuple(range(array.shape[1])) if layers is None else tuple(layers)
    if len(names) != array.shape[1] or len(set(names)) != len(names):
        raise GeometryError(f"{array.shape[1]} layers of centroids need as many different layer numbers, got {list(names)}.")
    return array, names


def _checked(values: ArrayLike | None, name: str) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 3 or 0 in array.shape:
        raise GeometryError(f"{name}: expected [personas, layers, hidden], got shape {array.shape}.")
    if not np.isfinite(array).all():
        persona, layer, _ = (int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise GeometryError(f"{name}: persona {persona} has a value that is not finite at layer {layer}.")
    return array


def _norms(array: FloatArray) -> FloatArray:
    norms: FloatArray = np.linalg.norm(array, axis=2)
    if (norms == 0.0).any():
        persona, layer = (int(i) for i in np.argwhere(norms == 0.0)[0])
        raise GeometryError(
            f"The centroid of persona {persona} at layer {layer} is zero after centring: no direction; "
            f"a panel of one persona, or of identical prompts, cannot be centred on itself."
        )
    return norms
