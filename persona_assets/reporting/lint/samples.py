"""Rules on sample completions: enough of them, and each word for word what is stored."""

from __future__ import annotations

from collections.abc import Iterator

from persona_assets.reporting.lint.document import Block, Document
from persona_assets.reporting.lint.findings import Finding
from persona_assets.reporting.writeup.binding import Book
from persona_assets.reporting.writeup.outline import MINIMUM_SAMPLES, SECTIONS

_PREFIX = "completion "


def check(document: Document, book: Book) -> Iterator[Finding]:
    """Yield what is wrong with the samples."""
    quoted = [block for block in document.blocks if _id(block)]
    stored = book.completions([_id(block) for block in quoted])
    for block in quoted:
        completion = stored.get(_id(block))
        if completion is None:
            yield Finding(
                block.line,
                "sample",
                f"There is no completion {_id(block)} in the cells of this study.",
                "Quote one that there is, with its id.",
            )
        elif completion["text"] != block.text:
            yield Finding(
                block.line,
                "sample",
                f"The text quoted as {_id(block)} is not the stored completion.",
                "Quote it word for word, or materialize clean_result again.",
            )
    if book.sources.study.imported is not None:  # it may have come without completions
        return
    lines = {block.text: block.line for block in document.sections()}
    for section in SECTIONS:
        if section.heading not in lines or not section.is_result or not section.has_content(book.sources.study):
            continue
        there = {_id(block) for block in document.within(section.heading)} - {""}
        if len(there) < MINIMUM_SAMPLES:
            yield Finding(
                lines[section.heading],
                "samples",
                f"The section {section.heading!r} quotes {len(there)} sample completions; it needs {MINIMUM_SAMPLES}.",
                "Quote completions in a fence that opens with ```completion ID.",
            )


def _id(block: Block) -> str:
    return block.info.removeprefix(_PREFIX) if block.kind == "fence" and block.info.startswith(_PREFIX) else ""
