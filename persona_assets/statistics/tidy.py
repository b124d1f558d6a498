"""Tidy result rows and the input checks that every family shares.

Two rules hold everywhere: bad input (NaN, an infinity, unequal lengths) raises `StatisticsError`; a quantity that the
data cannot give (too few personas, a constant column) is a row with a null estimate and a note that says why.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from persona_assets.errors import PersonaAssetsError
from persona_assets.hashing import derive_seed

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    FloatArray = NDArray[np.float64]
    IntArray = NDArray[np.int64]
    BoolArray = NDArray[np.bool_]

TIDY_SCHEMA: dict[str, type[pl.DataType]] = {
    "family": pl.String,
    "layer": pl.Int64,
    "predictor": pl.String,
    "outcome": pl.String,
    "statistic": pl.String,
    "estimate": pl.Float64,
    "p": pl.Float64,
    "n": pl.Int64,
    "low": pl.Float64,
    "high": pl.Float64,
    "registered": pl.Boolean,
    "note": pl.String,
}

# Spread below this share of the magnitude is rounding noise of float32 centroids averaged in float64, not variation.
_CONSTANT_TOLERANCE = 1e-12


class StatisticsError(PersonaAssetsError, ValueError):
    """An input that no statistic may be computed from; the text says which and what is wrong."""


@dataclass(frozen=True, slots=True)
class TidyRow:
    """One published number.

    Attributes:
        family: subject of the statistic (`scan`, `partial`, `drift`, ...).
        statistic: name of the estimator or test.
        layer: layer of the base model, None where the statistic has none.
        predictor: what explains (`cosine`, `neg_levenshtein`, ...).
        outcome: what is explained (`source_rate`, ...).
        estimate: the number, None when not estimable.
        p: p-value, None when the statistic is no test.
        n: number of units (personas, cells, questions) it rests on.
        low: lower end of the interval named in the statistic's docstring.
        high: upper end of that interval.
        registered: True for a preregistered row, False for a sensitivity row.
        note: why the estimate is missing, or how to read it.
    """

    family: str
    statistic: str
    layer: int | None = None
    predictor: str | None = None
    outcome: str | None = None
    estimate: float | None = None
    p: float | None = None
    n: int | None = None
    low: float | None = None
    high: float | None = None
    registered: bool = False
    note: str | None = None

    def __post_init__(self) -> None:
        """Refuse a silent number.

        Raises:
            StatisticsError: a number is NaN or infinite, a p-value outside 0..1, or an estimate missing without note.
        """
        for name in ("estimate", "p", "low", "high"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise StatisticsError(f"{self.family}/{self.statistic} (layer {self.layer}): {name} is {value}.")
        if self.p is not None and not 0.0 <= self.p <= 1.0:
            raise StatisticsError(f"{self.family}/{self.statistic} (layer {self.layer}): p is {self.p}, outside 0..1.")
        if self.estimate is None and self.p is None and not self.note:
            raise StatisticsError(f"{self.family}/{self.statistic} (layer {self.layer}): no estimate and no note why.")


@dataclass(frozen=True)
class RowTemplate:
    """What the rows of one family have in common; calling it makes a row.

    Attributes:
        family: see `TidyRow`.
        n: see `TidyRow`.
        predictor: see `TidyRow`.
        outcome: see `TidyRow`.
        registered: see `TidyRow`.
    """

    family: str
    n: int | None = None
    predictor: str | None = None
    outcome: str | None = None
    registered: bool = False

    def __call__(
        self,
        statistic: str,
        layer: int | None = None,
        estimate: float | None = None,
        *,
        p: float | None = None,
        n: int | None = None,
        low: float | None = None,
        high: float | None = None,
        predictor: str | None = None,
        outcome: str | None = None,
        registered: bool | None = None,
        note: str | None = None,
    ) -> TidyRow:
        """Make a row; what is not given comes from the template."""
        return TidyRow(
            self.family,
            statistic,
            layer,
            predictor or self.predictor,
            outcome or self.outcome,
            estimate,
            p,
            self.n if n is None else n,
            low,
            high,
            self.registered if registered is None else registered,
            note,
        )


def tidy_frame(rows: Iterable[TidyRow]) -> pl.DataFrame:
    """Put rows into a frame with the columns and types of `TIDY_SCHEMA`, in the order given."""
    rows = list(rows)
    return pl.DataFrame(
        {name: pl.Series(name, [_plain(getattr(row, name)) for row in rows], dtype=dtype) for name, dtype in TIDY_SCHEMA.items()}
    )


def frame_of(rows: Sequence[object], schema: dict[str, type[pl.DataType]]) -> pl.DataFrame:
    """Put dataclass rows into a frame whose columns are the schema's, in its order."""
    if rows:
        names = {field.name for field in fields(rows[0])}  # type: ignore[arg-type]
        if missing := [name for name in schema if name not in names]:
            raise StatisticsError(f"{type(rows[0]).__name__} lacks the columns {missing}.")
    return pl.DataFrame(
        {name: pl.Series(name, [_plain(getattr(row, name)) for row in rows], dtype=dtype) for name, dtype in schema.items()}
    )


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value


def finite_vector(values: ArrayLike, name: str) -> FloatArray:
    """Return the values as a float64 vector.

    Raises:
        StatisticsError: not one-dimensional, not numbers, or one of them missing or not finite; the text gives its
            position.
    """
    try:
        vector = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise StatisticsError(f"{name}: not a vector of numbers ({error}).") from error
    if vector.ndim != 1:
        raise StatisticsError(f"{name}: expected one dimension, got shape {vector.shape}.")
    return finite_array(vector, name)


def finite_array(values: ArrayLike, name: str) -> FloatArray:
    """Return the values as a float64 array of any shape.

    Raises:
        StatisticsError: a value is missing or not finite; the text gives its position.
    """
    array = np.asarray(values, dtype=np.float64)
    bad = ~np.isfinite(array)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise StatisticsError(
            f"{name}: {int(bad.sum())} of {array.size} values are missing or not finite (first at {where}); "
            f"drop or measure them before the analysis."
        )
    return array


def settled(values: FloatArray) -> FloatArray:
    """Round sums and differences of rates to 12 decimals.

    Rates are ratios of small counts. Two that are equal on paper differ by 1e-17 once they were averaged or
    subtracted in different orders, which would break a tie and move a rank.
    """
    return np.asarray(np.round(values, 12))


def same_length(**vectors: Sequence[object] | FloatArray) -> int:
    """Return the common length of the vectors.

    Raises:
        StatisticsError: the lengths differ; the text lists them.
    """
    lengths = {name: len(vector) for name, vector in vectors.items()}
    if len(set(lengths.values())) != 1:
        raise StatisticsError(f"Lengths differ: {', '.join(f'{name} {n}' for name, n in lengths.items())}.")
    return next(iter(lengths.values()))


def is_constant(values: FloatArray) -> bool:
    """Say whether a vector has no variation beyond rounding."""
    return values.size == 0 or bool(np.ptp(values) <= _CONSTANT_TOLERANCE * np.max(np.abs(values)))


def why_not_estimable(minimum: int, **vectors: FloatArray) -> str | None:
    """Say why a statistic of these vectors cannot be computed, or None when it can.

    Args:
        minimum: smallest number of observations the statistic needs.
        vectors: named vectors of one length that must each vary.
    """
    n = same_length(**vectors)
    if n < minimum:
        return f"not estimable: {n} observations, at least {minimum} needed"
    constant = [name for name, vector in vectors.items() if is_constant(vector)]
    return f"not estimable: constant {', '.join(constant)}" if constant else None


def generator(*purpose: str | int) -> np.random.Generator:
    """Return the random generator of a named draw: PCG64 seeded by `derive_seed(*purpose)`."""
    return np.random.Generator(np.random.PCG64(derive_seed(*purpose)))


def require_columns(frame: pl.DataFrame, columns: Iterable[str], name: str) -> None:
    """Check that a frame has the columns.

    Raises:
        StatisticsError: some are missing; the text lists them and what there is.
    """
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise StatisticsError(f"{name}: columns {missing} are missing; there are {frame.columns}.")
