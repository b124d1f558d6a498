"""Numbers that a sentence without references may use: those of the rows it speaks of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import Literal

import numpy as np
import polars as pl

from persona_assets.reporting.figures.style import readable
from persona_assets.reporting.writeup.binding import Book

_PERSONA_COLUMNS = ("persona", "source", "eval_persona", "persona_a", "persona_b")
_NO_SHARES = ("estimate", "low", "high", "observed", "threshold", "delta", "cosine")
Meant = Literal["number", "percent", "p"]
_LAYER = re.compile(r"\blayers? (\d+)")
_HALF = 0.5 + 1e-6  # of the last decimal


class Pool:
    """Finds a number in the tables, at the precision at which it is printed.

    A panel has thousands of rates and cosines, among which every short decimal occurs; so a row about personas counts
    only in a sentence that names them, and a row about a layer where the sentence names it (or names none, and the
    layer is primary or the strongest).
    """

    def __init__(self, book: Book) -> None:
        """Look into a book."""
        self.book = book

    def holds(self, value: float, decimals: int, text: str, meant: Meant = "number", *, below: bool = False) -> bool:
        """Say whether a number stands in a row that a text speaks of.

        Args:
            value: the number; its sign is not compared, because words may carry it.
            decimals: how many are printed.
            text: the block it stands in.
            meant: a p-value is looked for among p-values alone, and nothing else is; a percentage not among statistics.
            below: the text says that a p-value lies below it.
        """
        for column, values in self._values(text):
            is_p = column == "p" or column.startswith("p_")
            if is_p != (meant == "p") or (meant == "percent" and column in _NO_SHARES):
                continue
            if bool((values < value if below else np.abs(np.abs(values) - abs(value)) <= _HALF * 10.0**-decimals).any()):
                return True
        return False

    def _values(self, text: str) -> Iterator[tuple[str, np.ndarray]]:
        layers = {int(found) for found in _LAYER.findall(text)} or self._usual_layers
        personas = [p for p in self.book.sources.study.panel.ids if p in text or readable(p) in text]
        for frame in self.book.tables.values():
            kept = frame
            for column in _PERSONA_COLUMNS:
                if column in frame.columns:
                    kept = kept.filter(pl.col(column).is_in(personas) | pl.col(column).is_null())
            if "layer" in frame.columns:
                kept = kept.filter(pl.col("layer").is_in(sorted(layers)) | pl.col("layer").is_null())
            for column, dtype in kept.schema.items():
                if dtype.is_numeric() and kept.height:
                    yield column, kept[column].drop_nulls().cast(pl.Float64).to_numpy()

    @cached_property
    def _usual_layers(self) -> set[int]:
        outcome = self.book.row("outcome", {})
        strongest = set() if outcome["strongest_layer"] is None else {outcome["strongest_layer"]}
        return strongest | set(self.book.sources.study.analysis.primary_layers)
