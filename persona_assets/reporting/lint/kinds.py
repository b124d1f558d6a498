"""Rules on the two kinds of row: never in one block or table, each labelled, and disagreements said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from persona_assets.reporting.lint.bound import Checked
from persona_assets.reporting.lint.document import Block, Document
from persona_assets.reporting.lint.findings import Finding
from persona_assets.reporting.writeup.binding import Binding, Book, Grid
from persona_assets.reporting.writeup.disagreements import sentence
from persona_assets.reporting.writeup.errors import WriteUpError
from persona_assets.reporting.writeup.numbers import escape
from persona_assets.reporting.writeup.outline import RESULTS, SENSITIVITY_LABEL

_APART = "Preregistered and sensitivity numbers stand in sentences and tables of their own: divide it."


def check(document: Document, book: Book, bindings: Mapping[int, Binding], checked: Sequence[Checked]) -> Iterator[Finding]:
    """Yield where the two kinds are mixed or unlabelled, and disagreements that the text keeps quiet."""
    yield from _prose(book, checked)
    yield from _tables(document, book, bindings)
    yield from _unsaid(document, book)


def _prose(book: Book, checked: Sequence[Checked]) -> Iterator[Finding]:
    blocks: dict[int, tuple[Block, set[bool]]] = {}
    for each in checked:
        if each.cell is not None:
            kind = _kind(book, each)
            _, kinds = blocks.setdefault(id(each.mark.block), (each.mark.block, set()))
            kinds |= set() if kind is None else {kind}
    for block, kinds in blocks.values():
        labelled = block.text.startswith(SENSITIVITY_LABEL)
        if len(kinds) == 2:
            yield Finding(block.line, "kinds", "Preregistered and sensitivity numbers stand in one block.", _APART)
        elif kinds == {False} and not labelled:
            yield Finding(
                block.line,
                "kinds",
                "Sensitivity numbers stand in a block that does not say so.",
                f"Begin it with {SENSITIVITY_LABEL}.**",
            )
        elif kinds == {True} and labelled:
            yield Finding(
                block.line, "kinds", "Preregistered numbers stand in a block labelled sensitivity.", "Correct the label."
            )


def _kind(book: Book, each: Checked) -> bool | None:
    assert each.cell is not None
    try:
        return book.registered(each.cell)
    except WriteUpError:  # a broken reference has its own finding
        return None


def _tables(document: Document, book: Book, bindings: Mapping[int, Binding]) -> Iterator[Finding]:
    for number, line, table, title in document.grids():
        grid = bindings.get(number)
        if not isinstance(grid, Grid) or table is None:
            continue
        try:
            kinds = book.kinds(grid)
        except WriteUpError:  # as above
            continue
        labelled = title is not None and title.text.startswith(SENSITIVITY_LABEL)
        if len(kinds) == 2:
            yield Finding(line, "kinds", "A table holds preregistered and sensitivity rows.", _APART)
        elif kinds and labelled == (True in kinds):
            name = "preregistered" if True in kinds else "sensitivity"
            yield Finding(line, "kinds", f"The title of a table of {name} rows does not say so.", "Correct the line before it.")


def _unsaid(document: Document, book: Book) -> Iterator[Finding]:
    headings = {block.text: block.line for block in document.sections()}
    for section in RESULTS:
        if section.heading not in headings or not section.has_content(book.sources.study):
            continue
        said = {block.plain for block in document.within(section.heading)}
        for row in book.rows("disagreements", {"section": section.key}):
            escaped = {name: escape(str(value)) for name, value in row.items()}
            wanted = sentence(escaped, "" if row["layer"] is None else str(row["layer"]))
            if wanted not in said:
                yield Finding(
                    headings[section.heading],
                    "disagreement",
                    f"The section {section.heading!r} does not say where preregistered and sensitivity disagree.",
                    f"Write: {wanted}",
                )
