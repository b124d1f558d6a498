"""Which completions a section quotes: chosen by rule from the tables, the same ones every time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import polars as pl

from persona_assets.reporting.writeup.sources import Sources

Row = dict[str, Any]


@dataclass
class SampleChooser:
    """Chooses completions, each at most once in a write-up while there are others.

    For each sample the rule gives an order of cells and says whether a hit or a miss is wanted; the first completion
    that fits, by question and sample, is taken, beginning with another question for each. Where no cell has one, the
    first completion of the first cell is.
    """

    sources: Sources
    used: set[str] = field(default_factory=set)

    def choose(self, section: str) -> list[Row]:
        """Choose the completions of a section."""
        return [row for hit, cells in _RULES[section](self.sources) for row in [self._pick(cells, hit=hit)] if row is not None]

    def _pick(self, cells: pl.DataFrame, *, hit: bool) -> Row | None:
        if self.sources.study.imported is not None:  # not every source's completions need have been imported
            there = [source for source, _ in self.sources.completions.files]
            cells = cells.filter(pl.col("source").is_in(there))
        if cells.is_empty():
            return None
        fitting = cells.filter(pl.col("hits") > 0 if hit else pl.col("hits") < pl.col("n"))
        for cell in [*fitting.to_dicts(), *cells.head(1).to_dicts()]:
            rows = self.sources.completions.cell(cell["source"], cell["seed"], cell["eval_persona"])
            free = [row for row in rows if row["completion_id"] not in self.used]
            for row in sorted(free, key=lambda row: (row["hit"] != hit, self._turn(row))):  # stable: samples stay in order
                self.used.add(row["completion_id"])
                return row
        return None

    def _turn(self, row: Row) -> int:
        """Position of a row's question, counted from another one for each sample, so that they do not all answer the first."""
        return int((row["question_index"] - len(self.used)) % self.sources.study.evaluation.n_questions)


def _own(sources: Sources) -> pl.DataFrame:
    """Cells of adapters under their own persona, with what is known of the persona, in panel order."""
    rates = sources.tables["source_rates"]
    cells = sources.tables["cells"].filter(kind="self").select("source", "eval_persona", "seed", "hits", "n", "rate")
    facts = rates.select("seed", "category", "cohort", "prompt_tokens", source="persona")
    return facts.join(cells, on=["source", "seed"], how="inner", maintain_order="left")


def _sorted(frame: pl.DataFrame, by: str, *, descending: bool) -> pl.DataFrame:
    return frame.sort(by, descending=descending, maintain_order=True)


Rule = list[tuple[bool, pl.DataFrame]]


def _by(frame: pl.DataFrame, column: str) -> Rule:
    """A hit from the upper end of a column, a miss from its lower end."""
    return [(True, _sorted(frame, column, descending=True)), (False, _sorted(frame, column, descending=False))]


def _rates(sources: Sources) -> Rule:
    return _by(_own(sources), "rate")


def _cosine(sources: Sources) -> Rule:
    layer = sources.study.analysis.primary_layers[0]
    geometry = sources.tables["geometry"].filter(layer=layer, centring="panel").select("cosine", source="persona")
    others = _own(sources).filter(pl.col("source") != sources.study.panel.anchor)
    return _by(others.join(geometry, on="source", how="inner", maintain_order="left"), "cosine")


def _gates(sources: Sources) -> Rule:
    return _by(_own(sources).filter(category="occupational"), "rate")


def _surface(sources: Sources) -> Rule:
    return _by(_own(sources), "prompt_tokens")


def _prediction(sources: Sources) -> Rule:
    own = _own(sources)
    typical = own.with_columns((pl.col("rate") - own["rate"].mean()).abs().alias("distance")).sort(
        "distance", maintain_order=True
    )
    return [(True, typical), (False, typical)]


def _bystanders(sources: Sources) -> Rule:
    cells = sources.tables["cells"].sort(["rate", "source", "eval_persona", "seed"], descending=[True, False, False, False])
    negatives = cells.filter(kind="trained_negative")
    return [(True, cells.filter(kind="unseen")), (False, negatives if negatives.height else cells.filter(kind="unseen"))]


def _drift(sources: Sources) -> Rule:
    deltas = sources.tables["inherited_drift"].select("seed", "delta", source="persona")
    moved = _own(sources).join(deltas, on=["source", "seed"], how="inner", maintain_order="left")
    return [(True, _sorted(moved, "delta", descending=False)), (False, _sorted(moved, "delta", descending=True))]


def _attenuation(sources: Sources) -> Rule:
    own = _sorted(_own(sources), "rate", descending=True)
    return [(True, own.filter(cohort="inherited")), (False, own.filter(cohort="new"))]


def _samples(sources: Sources) -> Rule:
    own = _sorted(_own(sources), "rate", descending=True)
    anchor = own.filter(source=sources.study.panel.anchor)
    return [(True, own), (False, own), (True, anchor), (False, anchor), *_bystanders(sources)]


_RULES = {
    "rates": _rates,
    "cosine": _cosine,
    "gates": _gates,
    "surface": _surface,
    "prediction": _prediction,
    "bystanders": _bystanders,
    "drift": _drift,
    "attenuation": _attenuation,
    "samples": _samples,
}
