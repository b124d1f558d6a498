"""Rules on references: every bound text and every bound table says what its cells say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from persona_assets.reporting.lint.document import Block, Document, Mark
from persona_assets.reporting.lint.findings import Finding
from persona_assets.reporting.writeup.binding import COMPLETIONS, Binding, Book, Cell, Grid
from persona_assets.reporting.writeup.errors import WriteUpError
from persona_assets.reporting.writeup.numbers import MINUS
from persona_assets.reporting.writeup.outline import ARTIFACTS

_AGAIN = "Write what the table says, or materialize clean_result again."
_WORD = re.compile(r"\S+$")
_COUNTED = ("words", "spelled")
_DIGESTS = ("digest", "adapter_digest")


@dataclass(frozen=True)
class Checked:
    """A marker with what its reference says.

    Attributes:
        mark: the marker.
        cell: what it refers to; None where the reference is broken.
        start: where the bound text begins.
        right: whether the text is what the cell says.
    """

    mark: Mark
    cell: Cell | None
    start: int
    right: bool


def follow(document: Document, book: Book, bindings: Mapping[int, Binding]) -> tuple[list[Checked], list[Finding]]:
    """Follow every marker of the prose to its table cell."""
    quoted = [str(b.where.get("completion_id")) for b in bindings.values() if isinstance(b, Cell) and b.table == COMPLETIONS]
    book.completions(quoted)  # read once, together
    checked, findings = [], []
    for mark in document.marks:
        result, finding = _follow(mark, book, bindings.get(mark.number))
        checked.append(result)
        if finding is not None:
            findings.append(finding)
    return checked, findings


def _follow(mark: Mark, book: Book, binding: Binding | None) -> tuple[Checked, Finding | None]:
    before = mark.block.text[mark.start : mark.end]
    said = _WORD.search(before)
    word = said[0] if said else ""
    if not isinstance(binding, Cell):
        finding = Finding(mark.line, "binding", f"The reference {mark.number} behind {word!r} is not in the file.", _AGAIN)
        return Checked(mark, None, mark.end - len(word), False), finding
    try:
        wanted = book.text(binding)
    except WriteUpError as error:
        finding = Finding(mark.line, "binding", f"The reference behind {word!r} leads nowhere: {error}", _AGAIN)
        return Checked(mark, binding, mark.end - len(word), False), finding
    if before.endswith((wanted, wanted[:1].upper() + wanted[1:])) and not _runs_on(before, wanted):
        return Checked(mark, binding, mark.end - len(wanted), True), None
    start = min(mark.end - len(word), max(mark.end - len(wanted), mark.start))
    found = mark.block.text[start : mark.end].strip()
    rule = "count" if binding.format in _COUNTED else "number"
    finding = Finding(mark.line, rule, f"The text says {found!r}, but {binding} says {wanted!r}.", _AGAIN)
    return Checked(mark, binding, start, False), finding


def _runs_on(before: str, wanted: str) -> bool:
    """Whether the bound text is only the end of a longer number or word: `10.44`, `−0.44`, `none` for one."""
    earlier = before[: -len(wanted)][-1:]
    return wanted[:1].isalnum() and (earlier.isalnum() or earlier in tuple(f".,-{MINUS}"))


def check_grids(document: Document, book: Book, bindings: Mapping[int, Binding]) -> Iterator[Finding]:
    """Compare every bound table with its cells, one by one."""
    for number, line, table, _ in document.grids():
        grid = bindings.get(number)
        if not isinstance(grid, Grid):
            yield Finding(line, "binding", f"The reference {number} of a table is not in the file.", _AGAIN)
        elif table is None:
            yield Finding(line, "binding", f"No table follows the reference {number}.", "Restore the table, or delete both.")
        else:
            yield from _compare(table, grid, book)
    shown = {
        column.table
        for number, _, table, _ in document.grids()
        if table is not None and table.section == ARTIFACTS.heading and isinstance(grid := bindings.get(number), Grid)
        for column in grid.columns
    }
    headings = {block.text: block.line for block in document.sections()}
    for name in ("artifacts", "measurements"):
        if ARTIFACTS.heading in headings and name not in shown:
            what = f"The section {ARTIFACTS.heading!r} lacks the table of digests from {name}."
            yield Finding(headings[ARTIFACTS.heading], "digest", what, "Materialize clean_result again.")


def _compare(table: Block, grid: Grid, book: Book) -> Iterator[Finding]:
    rows = table.rows
    if rows[0] != [column.header for column in grid.columns] or len(rows) - 2 != len(grid.rows):
        wanted = f"{len(grid.rows)} rows under {', '.join(column.header for column in grid.columns)}"
        yield Finding(table.line, "table", f"The table has other rows or columns than it was written with ({wanted}).", _AGAIN)
        return
    for i, cells in enumerate(rows[2:]):
        line = table.line + 2 + i
        if len(cells) != len(grid.columns):
            yield Finding(line, "table", f"The row has {len(cells)} cells for {len(grid.columns)} columns.", _AGAIN)
            continue
        for j, found in enumerate(cells):
            cell = grid.cell(i, j)
            try:
                wanted = book.text(cell)
            except WriteUpError as error:
                yield Finding(line, "binding", f"The cell {found!r} leads nowhere: {error}", _AGAIN)
                continue
            if found != wanted:
                rule = "digest" if cell.column in _DIGESTS else "number"
                yield Finding(line, rule, f"The table says {found!r}, but {cell} says {wanted!r}.", _AGAIN)
