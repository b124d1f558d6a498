"""What ties a number in the text to a table cell: a reference, written into the file beside the number.

In the Markdown a bound text is followed by `<!--12-->`, a bound table preceded by `<!--grid 13-->`; the references
themselves stand in a comment at the end of the file. A reader sees none of it, a lint can follow all of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import polars as pl

from persona_assets.reporting.writeup.errors import WriteUpError
from persona_assets.reporting.writeup.facts import derived_tables
from persona_assets.reporting.writeup.numbers import write
from persona_assets.reporting.writeup.sources import Sources

Where = Mapping[str, str | int | float | bool | None]
MARKER = re.compile(r"<!--(\d+)-->")
GRID = re.compile(r"<!--grid (\d+)-->")
CAPTION = re.compile(r"<!--caption ([a-z0-9_]+)-->")
_OPEN, _CLOSE = "\n<!-- bindings\n", "\n-->"
COMPLETIONS = "completions"
_SENSITIVITY = {("outcome", "bucket_signed")}  # the one row of `outcome` holds one sensitivity value


@dataclass(frozen=True)
class Cell:
    """A table cell and how it is written.

    Attributes:
        table: name of a stored or derived table, or `completions`.
        where: column values that single out one row.
        column: the cell.
        format: one of `numbers.FORMATS`.
    """

    table: str
    where: Where
    column: str
    format: str

    def __str__(self) -> str:
        """Name the cell in a message."""
        keys = ", ".join(f"{name} {value}" for name, value in self.where.items())
        return f"{self.table}.{self.column}" + (f" ({keys})" if keys else "")


@dataclass(frozen=True)
class Column:
    """A column of a grid: the cells that belong to it, one for each row of the grid."""

    header: str
    table: str
    where: Where
    column: str
    format: str


@dataclass(frozen=True)
class Grid:
    """A table in the text.

    Attributes:
        columns: from left to right.
        rows: what singles out each row, from top to bottom.
    """

    columns: Sequence[Column]
    rows: Sequence[Where]

    def cell(self, row: int, column: int) -> Cell:
        """The table cell behind a cell of the grid."""
        own = self.columns[column]
        return Cell(own.table, {**own.where, **self.rows[row]}, own.column, own.format)


Binding = Cell | Grid


class Book:
    """All tables that a write-up may quote."""

    def __init__(self, sources: Sources) -> None:
        """Open the book on a study."""
        self.sources = sources
        self._completions: dict[str, dict[str, Any]] = {}
        self._places: dict[tuple[str, tuple[str, ...]], dict[tuple[Any, ...], list[int]]] = {}

    @cached_property
    def tables(self) -> dict[str, pl.DataFrame]:
        """Stored and derived tables by name."""
        return {**self.sources.tables, **derived_tables(self.sources)}

    def completions(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Find completions by id, each read once; those that do not exist are not in the answer."""
        unread = [each for each in ids if each not in self._completions]
        self._completions |= self.sources.completions.by_id(unread) if unread else {}
        return {each: self._completions[each] for each in ids if each in self._completions}

    def rows(self, table: str, where: Where) -> list[dict[str, Any]]:
        """Find the rows of a table.

        Raises:
            WriteUpError: there is no such table or column.
        """
        if table == COMPLETIONS:
            return list(self.completions([str(where.get("completion_id"))]).values())
        if table not in self.tables:
            raise WriteUpError(f"there is no table {table}; there are {', '.join(sorted(self.tables))}.")
        frame = self.tables[table]
        if missing := [name for name in where if name not in frame.columns]:
            raise WriteUpError(f"table {table} has no column {', '.join(missing)}; it has {', '.join(frame.columns)}.")
        names = tuple(sorted(where))
        places = self._indexed(table, names).get(tuple(where[name] for name in names), [])
        return [frame.row(place, named=True) for place in places]

    def _indexed(self, table: str, names: tuple[str, ...]) -> dict[tuple[Any, ...], list[int]]:
        """Rows of a table by the values of some columns: a page asks for thousands of rows by the same few."""
        if (table, names) not in self._places:
            frame = self.tables[table]
            places: dict[tuple[Any, ...], list[int]] = {}
            for place, values in enumerate(frame.select(names).iter_rows() if names else [()] * frame.height):
                places.setdefault(values, []).append(place)
            self._places[table, names] = places
        return self._places[table, names]

    def row(self, table: str, where: Where) -> dict[str, Any]:
        """Find the one row that a reference means.

        Raises:
            WriteUpError: there is none, or more than one.
        """
        found = self.rows(table, where)
        if len(found) != 1:
            raise WriteUpError(f"table {table} has {len(found)} rows with {dict(where)}; a reference needs exactly one.")
        return found[0]

    def text(self, cell: Cell) -> str:
        """Write a cell as it has to stand in the text."""
        return write(self.row(cell.table, cell.where), cell.column, cell.format)

    def registered(self, cell: Cell) -> bool | None:
        """Say whether a cell is preregistered (True), sensitivity (False) or neither (None)."""
        if cell.table == "outcome":
            return (cell.table, cell.column) not in _SENSITIVITY
        if cell.table == COMPLETIONS:
            return None
        value = self.row(cell.table, cell.where).get("registered")
        return None if value is None else bool(value)

    def kinds(self, grid: Grid) -> set[bool]:
        """Say which kinds of row a grid shows: preregistered (True), sensitivity (False), both or neither."""
        cells = [grid.cell(i, j) for i in range(len(grid.rows)) for j in range(len(grid.columns))]
        return {kind for cell in cells if (kind := self.registered(cell)) is not None}


class Ledger:
    """The references of one text, numbered as they are first used."""

    def __init__(self) -> None:
        """Start with no reference."""
        self._numbers: dict[str, int] = {}

    def number(self, binding: Binding) -> int:
        """Number a reference; equal references share a number."""
        return self._numbers.setdefault(_dump(binding), len(self._numbers) + 1)

    def block(self) -> str:
        """Write the comment that holds all references."""
        lines = [f"{number} {text}" for text, number in self._numbers.items()]
        return "\n".join(["<!-- bindings", *lines, "-->"])


def read_bindings(text: str) -> dict[int, Binding]:
    """Read the references at the end of a text.

    Raises:
        WriteUpError: there is no such comment at the end, or a line of it cannot be read.
    """
    block = text[bindings_start(text) :].rstrip()
    if not block:
        raise WriteUpError("the file does not end with the comment `<!-- bindings` that it was written with.")
    bindings: dict[int, Binding] = {}
    for line in block.removesuffix(_CLOSE).splitlines()[2:]:
        number, _, rest = line.partition(" ")
        try:
            bindings[int(number)] = _load(json.loads(rest))
        except (ValueError, TypeError, KeyError) as error:
            raise WriteUpError(f"the binding {line!r} cannot be read ({error}).") from error
    return bindings


def bindings_start(text: str) -> int:
    """Offset of the comment that holds the references; the length of the text where it does not end with one."""
    start = text.rfind(_OPEN)
    return start if start >= 0 and text.rstrip().endswith(_CLOSE) else len(text)


def _dump(binding: Binding) -> str:
    text = json.dumps(asdict(binding), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    # An HTML comment may hold neither `--` nor `>`.
    return text.replace(">", "\\u003e").replace("--", "-\\u002d")


def _load(value: dict[str, Any]) -> Binding:
    if "rows" in value:
        return Grid([Column(**column) for column in value["columns"]], value["rows"])
    return Cell(**value)
