"""Rules on the structure: header, title, sections in order, parts of the AI TL;DR, takeaways."""

from __future__ import annotations

from collections.abc import Iterator

from persona_assets.reporting.lint.document import Document
from persona_assets.reporting.lint.findings import Finding
from persona_assets.reporting.writeup import claim
from persona_assets.reporting.writeup.outline import AI_TLDR, SECTIONS, TAKEAWAYS, TLDR_PARTS
from persona_assets.reporting.writeup.report import HEADER
from persona_assets.reporting.writeup.sources import Sources


def check(document: Document, sources: Sources) -> Iterator[Finding]:
    """Yield what is wrong with the structure."""
    yield from _header(document, sources)
    yield from _title(document, sources)
    yield from _sections(document)
    yield from _parts(document)
    yield from _takeaways(document, sources)


def _header(document: Document, sources: Sources) -> Iterator[Finding]:
    found = HEADER.search(document.text)
    if found is None:
        yield Finding(1, "header", "The comment that names study and digest is missing.", "Restore the first line of the file.")
    elif found["digest"] != sources.study.digest:
        line = document.text.count("\n", 0, found.start()) + 1
        there, now = found["digest"][:12], sources.study.digest[:12]
        what = f"The file belongs to a study of digest {there}…, the study file now has {now}…."
        yield Finding(line, "digest", what, "Materialize clean_result again.")


def _title(document: Document, sources: Sources) -> Iterator[Finding]:
    titles = [block for block in document.blocks if block.kind == "heading" and block.level == 1]
    wanted = claim.title(sources)
    if len(titles) != 1:
        line = titles[1].line if titles else 1
        yield Finding(line, "title", f"The file has {len(titles)} titles; it needs one.", f"The title is: # {wanted}")
    elif titles[0].text != wanted:
        yield Finding(
            titles[0].line,
            "title",
            "The title does not claim what the outcome allows.",
            f"Write: # {wanted}",
        )


def _sections(document: Document) -> Iterator[Finding]:
    headings = document.sections()
    order = [section.heading for section in SECTIONS]
    there = [block for block in headings if block.text in order]
    names = [block.text for block in there]
    for block, previous in zip(there[1:], there[:-1], strict=True):
        if block.text in names[: names.index(previous.text) + 1] and names.count(block.text) > 1:
            yield Finding(block.line, "section", f"The section {block.text!r} stands twice.", "Keep one of them.")
        elif order.index(block.text) < order.index(previous.text):
            yield Finding(
                block.line,
                "section",
                f"The section {block.text!r} comes after {previous.text!r}.",
                f"The order is: {'; '.join(order)}.",
            )
    for position, heading in enumerate(order):
        if heading not in names:
            earlier = [block for block in there if order.index(block.text) < position]
            line = _last_line(document, earlier[-1].text) if earlier else 1
            yield Finding(line, "section", f"The section {heading!r} is missing.", "It belongs here; restore it.")


def _last_line(document: Document, heading: str) -> int:
    return max(block.last_line for block in document.blocks if block.section == heading)


def _parts(document: Document) -> Iterator[Finding]:
    if AI_TLDR.heading not in {block.text for block in document.sections()}:
        return
    parts = [block for block in document.within(AI_TLDR.heading) if block.kind == "heading" and block.level == 3]
    names = [block.text for block in parts]
    for part in TLDR_PARTS:
        if part not in names:
            line = _last_line(document, AI_TLDR.heading)
            yield Finding(line, "section", f"The {AI_TLDR.heading} has no part {part!r}.", f"Its parts: {', '.join(TLDR_PARTS)}.")
    known = [block for block in parts if block.text in TLDR_PARTS]
    for block, previous in zip(known[1:], known[:-1], strict=True):
        if TLDR_PARTS.index(block.text) < TLDR_PARTS.index(previous.text):
            yield Finding(
                block.line, "section", f"The part {block.text!r} comes after {previous.text!r}.", "Put the parts in their order."
            )


def _takeaways(document: Document, sources: Sources) -> Iterator[Finding]:
    lines = {block.text: block.line for block in document.sections()}
    for section in SECTIONS:
        if not section.is_result or section.heading not in lines or not section.has_content(sources.study):
            continue
        blocks = document.within(section.heading)
        places = [i for i, block in enumerate(blocks) if block.kind == "paragraph" and block.plain.strip() == TAKEAWAYS]
        if not places:
            yield Finding(
                lines[section.heading],
                "takeaways",
                f"The section {section.heading!r} has no {TAKEAWAYS}",
                f"Put a line {TAKEAWAYS} before the list of what the result says.",
            )
        elif places[0] + 1 >= len(blocks) or blocks[places[0] + 1].kind != "item":
            yield Finding(
                blocks[places[0]].line,
                "takeaways",
                f"No list follows {TAKEAWAYS} in {section.heading!r}.",
                "Say there in a list what the result says.",
            )
