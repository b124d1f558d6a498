"""Persona-by-persona matrices of a study: bystander rates and pairwise cosines, from the tables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from persona_assets.statistics.tidy import StatisticsError, require_columns, settled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from persona_assets.statistics.tidy import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class LeakageMatrices:
    """Everything over pairs of personas, in panel order. NaN marks a cell that was not measured.

    Attributes:
        personas: ids, N of them.
        anchor: id of the anchor persona.
        layers: layer numbers.
        cosine: [L, N, N] pairwise cosines, symmetric.
        rate: [N, N] marker rate, rows sources, columns eval personas, mean over training seeds.
        residual: [N, N] rate minus the base model's rate under the same eval persona.
        mean_tokens: [N, N] mean completion length in tokens.
        trained_negative: [N, N] True where the eval persona was one of the source's negatives.
        kind_known: [N, N] False where it is not recorded whether a cell is a trained negative.
        base_rate: [N] base model's rate under each eval persona.
    """

    personas: tuple[str, ...]
    anchor: str
    layers: tuple[int, ...]
    cosine: FloatArray
    rate: FloatArray
    residual: FloatArray
    mean_tokens: FloatArray
    trained_negative: BoolArray
    kind_known: BoolArray
    base_rate: FloatArray

    @classmethod
    def from_frames(
        cls,
        cells: pl.DataFrame,
        pairwise_cosines: pl.DataFrame,
        *,
        personas: Sequence[str],
        anchor: str,
        centring: str = "panel",
    ) -> LeakageMatrices:
        """Arrange the tables `cells` and `pairwise_cosines` as matrices.

        Args:
            cells: one measurement per (source, eval persona, seed); seeds are averaged.
            pairwise_cosines: every pair at every layer.
            personas: panel order; cells of other personas are left out.
            anchor: id of the anchor persona.
            centring: which rows of `pairwise_cosines` to use.

        Raises:
            StatisticsError: a pair lacks a cosine, a cell stands twice, or no cell is left.
        """
        columns = [
            "source",
            "eval_persona",
            "seed",
            "kind",
            "rate",
            "residual_rate",
            "base_rate",
            "mean_tokens",
        ]
        require_columns(cells, columns, "cells")
        require_columns(pairwise_cosines, ["layer", "persona_a", "persona_b", "cosine", "centring"], "pairwise_cosines")
        ids = list(personas)
        own = cells.filter(pl.col("source").is_in(ids) & pl.col("eval_persona").is_in(ids))
        if own.is_empty():
            raise StatisticsError("cells: none of the panel's personas was measured.")
        twice = own.group_by("source", "eval_persona", "seed").len().filter(pl.col("len") > 1)
        if twice.height:
            first = twice.sort("source", "eval_persona").row(0, named=True)
            raise StatisticsError(
                f"cells: ({first['source']}, {first['eval_persona']}) of seed {first['seed']} stands there "
                f"{first['len']} times; choose one measurement."
            )
        mean = own.group_by("source", "eval_persona", maintain_order=True).agg(
            pl.col("rate", "residual_rate", "base_rate", "mean_tokens").mean(),
            (pl.col("kind") == "trained_negative").any().alias("negative"),
            pl.col("kind").is_not_null().all().alias("known"),
        )
        rows, columns_at = _positions(mean["source"], ids), _positions(mean["eval_persona"], ids)

        def matrix(name: str) -> FloatArray:
            out = np.full((len(ids), len(ids)), np.nan)
            out[rows, columns_at] = settled(mean[name].cast(pl.Float64).fill_null(float("nan")).to_numpy())
            return out

        layers, cosine = _cosines(pairwise_cosines.filter(pl.col("centring") == centring), ids)
        return cls(
            tuple(ids),
            anchor,
            layers,
            cosine,
            matrix("rate"),
            matrix("residual_rate"),
            matrix("mean_tokens"),
            np.nan_to_num(matrix("negative")) == 1.0,
            np.nan_to_num(matrix("known")) == 1.0,
            _column_mean(matrix("base_rate")),
        )

    @property
    def n(self) -> int:
        """Number of personas."""
        return len(self.personas)

    @property
    def measured(self) -> BoolArray:
        """[N, N] True for measured cells off the diagonal."""
        return np.isfinite(self.rate) & ~np.eye(self.n, dtype=np.bool_)

    @property
    def source_rate(self) -> FloatArray:
        """[N] diagonal of the rates; NaN where not measured."""
        return np.asarray(np.diag(self.rate))

    def without(self, persona: str) -> LeakageMatrices:
        """Return the matrices without one persona's row and column."""
        keep = np.array([p != persona for p in self.personas])
        square = np.ix_(keep, keep)
        return replace(
            self,
            personas=tuple(p for p in self.personas if p != persona),
            cosine=self.cosine[:, keep][:, :, keep],
            rate=self.rate[square],
            residual=self.residual[square],
            mean_tokens=self.mean_tokens[square],
            trained_negative=self.trained_negative[square],
            kind_known=self.kind_known[square],
            base_rate=self.base_rate[keep],
        )


def _positions(values: pl.Series, ids: Sequence[str]) -> IntArray:
    index = {persona: i for i, persona in enumerate(ids)}
    return np.array([index[value] for value in values.to_list()], dtype=np.int64)


def _cosines(frame: pl.DataFrame, ids: Sequence[str]) -> tuple[tuple[int, ...], FloatArray]:
    own = frame.filter(pl.col("persona_a").is_in(ids) & pl.col("persona_b").is_in(ids))
    layers = tuple(sorted(own["layer"].unique().to_list()))
    if not layers:
        raise StatisticsError("pairwise_cosines: no rows for this panel and centring.")
    order = pl.DataFrame({"persona": list(ids), "position": np.arange(len(ids))})
    placed = own.join(order.rename({"persona": "persona_a", "position": "a"}), on="persona_a").join(
        order.rename({"persona": "persona_b", "position": "b"}), on="persona_b"
    )
    at = np.searchsorted(np.array(layers), placed["layer"].to_numpy())
    cosine = np.full((len(layers), len(ids), len(ids)), np.nan)
    cosine[at, placed["a"].to_numpy(), placed["b"].to_numpy()] = placed["cosine"].to_numpy()
    if placed.height != cosine.size or np.isnan(cosine).any():
        raise StatisticsError(
            f"pairwise_cosines: {placed.height} rows for {len(ids)} personas and {len(layers)} layers, "
            f"expected each ordered pair once at each layer ({cosine.size})."
        )
    return layers, cosine


def _column_mean(matrix: FloatArray) -> FloatArray:
    """Mean of the values that exist in each column, NaN in a column without any."""
    there = np.isfinite(matrix)
    count = there.sum(axis=0)
    total = np.where(there, matrix, 0.0).sum(axis=0)
    return settled(np.divide(total, count, out=np.full(matrix.shape[1], np.nan), where=count > 0))
