"""What the templates call: every number comes out of here, with the reference to its table cell beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from persona_assets.reporting.writeup import claim, grids
from persona_assets.reporting.writeup.binding import COMPLETIONS, Book, Cell, Ledger
from persona_assets.reporting.writeup.disagreements import reading, sentence
from persona_assets.reporting.writeup.errors import WriteUpError
from persona_assets.reporting.writeup.numbers import escape, not_estimable
from persona_assets.reporting.writeup.outline import SECTIONS, Section
from persona_assets.reporting.writeup.samples import SampleChooser
from persona_assets.reporting.writeup.sources import Sources

Row = Mapping[str, Any]
Value = str | int | float | bool | None
_SLOT = "\x00sample {}\x00"  # filled in after the white space of the text was put in order
SLOT = re.compile(_SLOT.format(r"\d+"))


@dataclass
class Writer:
    """Renders cells, tables, figures and samples of one write-up.

    Attributes:
        sources: what the write-up is made from.
        book: its tables.
        ledger: the references used so far.
        slots: sample completions by placeholder.
    """

    sources: Sources
    book: Book
    ledger: Ledger = field(default_factory=Ledger)
    slots: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Prepare the choice of samples."""
        self._chooser = SampleChooser(self.sources)

    def cell(self, table: str, column: str, format_name: str, **where: Value) -> str:
        """Write a table cell, followed by its marker."""
        bound = Cell(table, where, column, format_name)
        return f"{self.book.text(bound)}<!--{self.ledger.number(bound)}-->"

    def row(self, table: str, **where: Value) -> Row:
        """Read a row, for a template to decide by."""
        return self.book.row(table, where)

    def rows(self, table: str, **where: Value) -> Sequence[Row]:
        """Read rows, for a template to decide by."""
        return self.book.rows(table, where)

    def plan(self, name: str, format_name: str = "text") -> str:
        """Write a field of the study file, as text or under a number format."""
        return self.cell("plan", "text" if format_name in ("text", "code") else "value", format_name, field=name)

    def count(self, name: str, format_name: str = "words") -> str:
        """Write a count, in words below ten."""
        return self.cell("counts", "value", format_name, count=name)

    def counted(self, name: str, noun: str) -> str:
        """Write a count in words with its noun: `nine drops`, `one tie`."""
        return f"{self.count(name, 'spelled')} {noun}{'' if self.number_of(name) == 1 else 's'}"

    def number_of(self, name: str) -> int:
        """Read a count, for a template to decide by."""
        return int(self.row("counts", count=name)["value"])

    def outcome(self, column: str, format_name: str = "text") -> str:
        """Write a cell of the outcome."""
        return self.cell("outcome", column, format_name)

    def layer(self, layer: int) -> str:
        """Write a primary layer."""
        position = self.sources.study.analysis.primary_layers.index(layer)
        return self.plan(f"analysis.primary_layers.{position}", "int")

    def layers(self) -> str:
        """List the primary layers."""
        written = [self.layer(layer) for layer in self.sources.study.analysis.primary_layers]
        return " and ".join([", ".join(written[:-1]), written[-1]] if len(written) > 1 else written)

    def level(self) -> str:
        """Write the level of the intervals."""
        return self.plan("analysis.confidence_level", "percent")

    def correlation(self, table: str = "regressions", *, interval: bool = False, **where: Value) -> str:
        """Write a correlation with its p and n, or why there is none."""
        row = self.row(table, **where)
        if row["estimate"] is None:
            return self.cell(table, "estimate", "rho", **where)
        parts = [f"ρ = {self.cell(table, 'estimate', 'rho', **where)}"]
        if interval and row["low"] is not None:
            parts.append(f"{self.level()} interval {self.cell(table, 'low|high', 'interval3', **where)}")
        parts += [self.cell(table, "p", "p", **where), f"n = {self.cell(table, 'n', 'int', **where)}"]
        return ", ".join(parts)

    def scan(self, layer: int, **changed: Value) -> dict[str, Value]:
        """Name the registered correlation at a layer."""
        where: dict[str, Value] = {"family": "scan", "statistic": "spearman", "predictor": "cosine", "layer": layer}
        return {**where, "outcome": "source_rate", "registered": True, **changed}

    def strength(self, row: Row) -> str:
        """Say in words what a correlation shows, or why there is none."""
        return reading(row, self.sources.study.analysis.alpha) or not_estimable(row)

    def grid(self, name: str) -> str:
        """Write a table of the write-up; one without rows is an empty text."""
        grid = grids.make(name, self.book)
        if not grid.rows:
            return ""
        return grids.markdown(grid, self.book, self.ledger.number(grid))

    def has_rows(self, name: str) -> bool:
        """Say whether a table of the write-up has rows."""
        return bool(grids.make(name, self.book).rows)

    def figure(self, name: str) -> str:
        """Show a figure with the caption it was drawn with."""
        if name not in self.sources.figures:
            raise WriteUpError(f"The figure {name} was not drawn for {self.sources.asset}: materialize the figures again.")
        caption = escape(self.sources.figures[name].caption)
        return f"![{name}](../figures/{name}.png)\n\n**Figure.** {caption}<!--caption {name}-->"

    def has_figure(self, name: str) -> bool:
        """Say whether a figure was drawn that not every study has."""
        return name in self.sources.figures

    def figures(self, section: str) -> str:
        """Show the figures of a result section."""
        return "\n\n".join(self.figure(name) for name in self.section(section).figure_names(self.sources.study))

    def section(self, key: str) -> Section:
        """Find a section by its key."""
        return next(section for section in SECTIONS if section.key == key)

    def samples(self, section: str) -> str:
        """Quote the completions of a section."""
        quoted = "\n\n".join(self._sample(row) for row in self._chooser.choose(section))
        return quoted or "The import holds no completion that could be quoted here."

    def _sample(self, row: Row) -> str:
        key = {"completion_id": row["completion_id"]}
        kind = {"source": row["source"], "eval_persona": row["eval_persona"], "seed": row["seed"]}
        said = [
            f"Adapter of {self.cell(COMPLETIONS, 'source', 'code', **key)}",
            f"eval persona {self.cell(COMPLETIONS, 'eval_persona', 'code', **key)}",
            f"cell kind {self.cell('cells', 'kind', 'name', **kind)}",
            f"seed {self.cell(COMPLETIONS, 'seed', 'int', **key)}",
            f"a {self.cell(COMPLETIONS, 'hit', 'hit_miss', **key)}",
        ]
        slot = _SLOT.format(len(self.slots))
        self.slots[slot] = fenced(row["completion_id"], row["text"])
        return f"{', '.join(said)}. Question: {self.cell(COMPLETIONS, 'question', 'text', **key)}\n\n{slot}"

    def disagreements(self, section: str) -> str:
        """Say in sentences where preregistered and sensitivity readings of a section disagree, or that they do not."""
        found = self.rows("disagreements", section=section)
        if not self.number_of(f"comparisons_{section}"):
            return "- No preregistered reading of this section has a sensitivity reading to be compared with."
        if not found:
            return "- Where both can be read, the preregistered and the sensitivity analyses of this section agree."
        return "\n".join(f"- {self.disagreement(row)}" for row in found)

    def disagreement(self, row: Row) -> str:
        """Say one disagreement."""
        layer = "" if row["layer"] is None else self.layer(row["layer"])
        return sentence({name: escape(str(value)) for name, value in row.items()}, layer)

    def gates_held(self, layer: int) -> str:
        """Name the registered gates that hold at a layer."""
        held = claim.gates_held(self.book.tables, layer)
        if not held:
            return "no gate holds"
        return f"gate {held[0]} holds" if len(held) == 1 else f"gates {' and '.join(held)} hold"


def fenced(completion_id: str, text: str) -> str:
    """Quote a completion in a fence that the text itself cannot close."""
    longest, run = 0, 0
    for character in text:
        run = run + 1 if character == "`" else 0
        longest = max(longest, run)
    fence = "`" * max(3, longest + 1)
    return f"{fence}completion {completion_id}\n{text}\n{fence}"
