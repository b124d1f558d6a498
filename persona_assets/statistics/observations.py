"""What the per-persona families work on: a rate per persona, cosines per layer, facts about prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from persona_assets.statistics.tidy import StatisticsError, finite_array, finite_vector, require_columns, settled

if TYPE_CHECKING:
    from persona_assets.statistics.tidy import BoolArray, FloatArray

OCCUPATIONAL = "occupational"


@dataclass(frozen=True)
class StudyObservations:
    """One study's personas, in panel order, as arrays.

    Attributes:
        personas: ids, N of them.
        categories: category of each persona.
        cohorts: `inherited` or `new`.
        anchor: id of the anchor persona.
        layers: layer numbers, L of them, ascending.
        rate: [N] source rate, mean over training seeds.
        cosine: [L, N] cosine with the anchor.
        prompt_tokens: [N] tokens of the system prompt.
        seeds: training seeds that the rates are the mean of.
        rate_by_seed: [seeds, N].
        within_excluded: [N] True for personas kept out of the within-category family.
        prompts: system prompts, or None where they are not known.
    """

    personas: tuple[str, ...]
    categories: tuple[str, ...]
    cohorts: tuple[str, ...]
    anchor: str
    layers: tuple[int, ...]
    rate: FloatArray
    cosine: FloatArray
    prompt_tokens: FloatArray
    seeds: tuple[int, ...]
    rate_by_seed: FloatArray
    within_excluded: BoolArray
    prompts: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check shapes and values.

        Raises:
            StatisticsError: a shape does not fit, a value is not finite or outside its range, an id repeats.
        """
        n, depth = len(self.personas), len(self.layers)
        if len(set(self.personas)) != n or not n:
            raise StatisticsError("personas: at least one, each id once.")
        if list(self.layers) != sorted(set(self.layers)):
            raise StatisticsError(f"layers: {self.layers} must be ascending and different.")
        shapes = {
            "categories": (len(self.categories), n),
            "cohorts": (len(self.cohorts), n),
            "rate": (self.rate.shape, (n,)),
            "cosine": (self.cosine.shape, (depth, n)),
            "prompt_tokens": (self.prompt_tokens.shape, (n,)),
            "rate_by_seed": (self.rate_by_seed.shape, (len(self.seeds), n)),
            "within_excluded": (self.within_excluded.shape, (n,)),
        }
        for name, (got, wanted) in shapes.items():
            if got != wanted:
                raise StatisticsError(f"{name}: shape {got}, expected {wanted} for {n} personas and {depth} layers.")
        for name in ("rate", "cosine", "prompt_tokens", "rate_by_seed"):
            finite_array(getattr(self, name), name)
        if (self.rate < 0).any() or (self.rate > 1).any():
            raise StatisticsError("rate: a source rate lies outside 0..1.")
        if (self.prompt_tokens < 1).any():
            raise StatisticsError("prompt_tokens: a prompt has less than one token, so its log length does not exist.")

    @classmethod
    def from_frames(
        cls,
        source_rates: pl.DataFrame,
        geometry: pl.DataFrame,
        *,
        anchor: str,
        centring: str = "panel",
        personas: pl.DataFrame | None = None,
    ) -> StudyObservations:
        """Join the tables `source_rates` and `geometry` of a study.

        Args:
            source_rates: one row per (persona, seed), in panel order; one measurement each.
            geometry: cosines with the anchor; every persona at every layer.
            anchor: id of the anchor persona.
            centring: which rows of `geometry` to use.
            personas: optional facts, columns persona, prompt, exclude_from_within_category.

        Raises:
            StatisticsError: a persona or layer is missing in a table, or stands there twice.
        """
        require_columns(source_rates, ["persona", "category", "cohort", "seed", "rate", "prompt_tokens"], "source_rates")
        require_columns(geometry, ["layer", "persona", "cosine", "centring"], "geometry")
        if source_rates.is_empty():
            raise StatisticsError("source_rates is empty: no source persona has been measured.")
        twice = source_rates.group_by("persona", "seed").len().filter(pl.col("len") > 1).sort("persona")
        if twice.height:
            raise StatisticsError(
                f"source_rates: {twice['persona'][0]} (seed {twice['seed'][0]}) stands there more than once; "
                f"choose one measurement per persona and seed."
            )
        facts = source_rates.unique("persona", keep="first", maintain_order=True)
        ids = tuple(facts["persona"].to_list())
        seeds = tuple(sorted(source_rates["seed"].unique().to_list()))
        by_seed = _table(source_rates, "seed", seeds, ids, "rate", "source_rates")
        used = geometry.filter(pl.col("centring") == centring)
        layers = tuple(sorted(used["layer"].unique().to_list()))
        if not layers:
            raise StatisticsError(f"geometry: no rows with centring {centring!r}.")
        excluded, prompts = _persona_facts(personas, ids)
        return cls(
            personas=ids,
            categories=tuple(facts["category"].to_list()),
            cohorts=tuple(facts["cohort"].to_list()),
            anchor=anchor,
            layers=layers,
            rate=settled(by_seed.mean(axis=0)),
            cosine=_table(used, "layer", layers, ids, "cosine", f"geometry ({centring})"),
            prompt_tokens=finite_vector(facts["prompt_tokens"].to_numpy(), "prompt_tokens"),
            seeds=seeds,
            rate_by_seed=by_seed,
            within_excluded=excluded,
            prompts=prompts,
        )

    @property
    def n(self) -> int:
        """Number of personas."""
        return len(self.personas)

    @property
    def log_length(self) -> FloatArray:
        """[N] natural logarithm of the prompt's tokens."""
        return np.log(self.prompt_tokens)

    def has_layer(self, layer: int) -> bool:
        """Say whether cosines of a layer exist."""
        return layer in self.layers

    def at(self, layer: int) -> FloatArray:
        """Return the [N] cosines at a layer.

        Raises:
            StatisticsError: there are none; the text lists the layers there are.
        """
        if layer not in self.layers:
            raise StatisticsError(f"There are no cosines at layer {layer}; layers: {self.layers}.")
        return np.asarray(self.cosine[self.layers.index(layer)])

    def subset(self, keep: BoolArray) -> StudyObservations:
        """Return the personas where `keep` is True, in the same order.

        Raises:
            StatisticsError: nothing is left.
        """
        chosen = np.flatnonzero(keep)
        return replace(
            self,
            personas=tuple(self.personas[i] for i in chosen),
            categories=tuple(self.categories[i] for i in chosen),
            cohorts=tuple(self.cohorts[i] for i in chosen),
            rate=self.rate[chosen],
            cosine=self.cosine[:, chosen],
            prompt_tokens=self.prompt_tokens[chosen],
            rate_by_seed=self.rate_by_seed[:, chosen],
            within_excluded=self.within_excluded[chosen],
            prompts=None if self.prompts is None else tuple(self.prompts[i] for i in chosen),
        )

    def without_anchor(self) -> StudyObservations:
        """Return all personas but the anchor, whose own cosine is 1 by construction."""
        return self.subset(np.array([persona != self.anchor for persona in self.personas]))


def _table(frame: pl.DataFrame, row: str, rows: Sequence[object], ids: Sequence[str], value: str, name: str) -> FloatArray:
    """Pivot a long frame into [rows, personas], refusing holes and doubles."""
    row_index = {key: i for i, key in enumerate(rows)}
    id_index = {persona: i for i, persona in enumerate(ids)}
    used = frame.filter(pl.col("persona").is_in(list(ids)))
    i = np.array([row_index[key] for key in used[row].to_list()], dtype=np.int64)
    j = np.array([id_index[persona] for persona in used["persona"].to_list()], dtype=np.int64)
    flat = i * len(ids) + j
    if len(np.unique(flat)) != len(flat):
        raise StatisticsError(f"{name}: a persona stands there twice at the same {row}.")
    table = np.full((len(rows), len(ids)), np.nan)
    table.flat[flat] = used[value].cast(pl.Float64).to_numpy()
    if np.isnan(table).any():
        a, b = (int(k) for k in np.argwhere(np.isnan(table))[0])
        raise StatisticsError(f"{name}: the {value} of persona {ids[b]} at {row} {rows[a]} is missing or NaN.")
    return table


def _persona_facts(personas: pl.DataFrame | None, ids: tuple[str, ...]) -> tuple[BoolArray, tuple[str, ...] | None]:
    excluded = np.zeros(len(ids), dtype=np.bool_)
    if personas is None:
        return excluded, None
    require_columns(personas, ["persona"], "personas")
    rows = {row["persona"]: row for row in personas.to_dicts()}
    if missing := [persona for persona in ids if persona not in rows]:
        raise StatisticsError(f"personas: no row for {', '.join(missing)}.")
    if "exclude_from_within_category" in personas.columns:
        excluded = np.array([bool(rows[persona]["exclude_from_within_category"]) for persona in ids])
    if "prompt" not in personas.columns:
        return excluded, None
    prompts = tuple(rows[persona]["prompt"] for persona in ids)
    if None in prompts:
        raise StatisticsError(f"personas: no prompt for {ids[prompts.index(None)]}.")
    return excluded, prompts
