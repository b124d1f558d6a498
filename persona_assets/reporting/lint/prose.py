"""Rules on numbers without a reference: invented ones, typed ones, counts in words, digests."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from persona_assets.reporting.lint.bound import Checked
from persona_assets.reporting.lint.document import Block, Document
from persona_assets.reporting.lint.findings import Finding
from persona_assets.reporting.lint.pool import Meant, Pool
from persona_assets.reporting.writeup.binding import GRID, Book
from persona_assets.reporting.writeup.numbers import MINUS, SPELLED
from persona_assets.reporting.writeup.outline import HUMAN_TLDR

_NUMBER = re.compile(
    rf"(?<![\w.])(?P<p>p (?P<relation>[<≤=>≥]) )?(?P<sign>[-{MINUS}](?=[\d.]))?"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d*\.\d+|\d+)(?P<exponent>e[-−+]?\d+)?(?P<percent>\s?%)?(?!\w)"
)
_CODE = re.compile(r"`([^`]*)`")
_LINK = re.compile(r"\]\([^)\s]*\)")
_MARKER = re.compile(r"<!--.*?-->", re.DOTALL)
_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
_COUNT_WORDS = "|".join(sorted((*SPELLED, "no"), key=len, reverse=True))
_COUNT = re.compile(rf"\b(?P<count>\d+|{_COUNT_WORDS})\s+(?:(?P<adjective>[a-z-]+)\s+)?(?P<noun>[a-z]+)\b", re.IGNORECASE)
_MOVES = ("drop", "tie", "increase")
_COMMON = ("one", "no", "zero")  # words of everyday prose; as counts of anything but moves they are not checked
_RENDER = "Every number of a write-up is rendered from a table cell: put it into the template, or leave it out."


def check(document: Document, book: Book, checked: Sequence[Checked]) -> Iterator[Finding]:
    """Yield what is wrong with the numbers of the prose, and of tables that are bound to nothing."""
    pool = Pool(book)
    spans: dict[int, list[Checked]] = {}
    for each in checked:
        spans.setdefault(id(each.mark.block), []).append(each)
    for block in document.prose:
        own = spans.get(id(block), [])
        yield from _counts(block, own, book)
        yield from _numbers(block, _masked(block.text, own), pool)
    for position, block in enumerate(document.blocks):
        before = document.blocks[position - 1] if position else None
        if block.kind == "table" and not (before and before.kind == "comment" and GRID.fullmatch(before.text.strip())):
            yield from _numbers(block, block.text, pool)
    yield from _digests(document, book)


def _masked(text: str, own: Sequence[Checked]) -> str:
    """Blank out what is bound, quoted as code, linked to or a comment, keeping every position."""
    for each in own:
        text = text[: each.start] + " " * (each.mark.end - each.start) + text[each.mark.end :]
    for pattern in (_MARKER, _LINK):
        text = pattern.sub(lambda found: " " * len(found[0]), text)
    return _CODE.sub(lambda found: found[0] if _NUMBER.fullmatch(found[1]) else " " * len(found[0]), text)


def _numbers(block: Block, text: str, pool: Pool) -> Iterator[Finding]:
    for found in _NUMBER.finditer(text):
        digits = found["digits"].replace(",", "")
        exponent = (found["exponent"] or "").replace(MINUS, "-")
        value, decimals = float(digits + exponent), len(digits.partition(".")[2]) - int(exponent[1:] or 0)
        if found["percent"]:
            value, decimals = value / 100, decimals + 2
        line, said = block.line_at(found.start()), found[0].strip()
        meant: Meant = "p" if found["p"] else "percent" if found["percent"] else "number"
        if not pool.holds(value, decimals, block.plain, meant, below=found["relation"] in ("<", "≤")):
            yield Finding(
                line,
                "number",
                f"{said} stands in no table row that this sentence speaks of.",
                "Correct it, or name the persona or layer it belongs to.",
            )
        elif block.section != HUMAN_TLDR.heading:
            yield Finding(line, "typed", f"{said} is typed, not rendered from a table cell.", _RENDER)


def _counts(block: Block, own: Sequence[Checked], book: Book) -> Iterator[Finding]:
    nouns = {row["noun"] for row in book.rows("counts", {})} | set(_MOVES)
    text = _MARKER.sub(lambda found: " " * len(found[0]), block.text)
    for found in _COUNT.finditer(text):
        word, noun = found["count"].lower(), found["noun"].lower()
        names = [noun, noun.removesuffix("s"), noun.removesuffix("ies") + "y" if noun.endswith("ies") else noun]
        singular = next((name for name in names if name in nouns), None)
        bound = next((each for each in own if each.start <= found.start("count") < each.mark.end), None)
        if singular is None or (bound is not None and not bound.right):
            continue
        if singular not in _MOVES and (bound is not None or word.isdigit() or word in _COMMON):
            continue
        count = int(word) if word.isdigit() else SPELLED.get(word, 0)
        counted = {row["value"] for row in book.rows("counts", {"noun": singular})}
        line, said = block.line_at(found.start()), " ".join(found[0].split())
        if count not in counted:
            there = ", ".join(map(str, sorted(counted))) or "no such count"
            yield Finding(line, "count", f"The text says {said!r}; the tables have {there}.", "Write the count of the tables.")
        elif bound is None and block.section != HUMAN_TLDR.heading:
            yield Finding(line, "typed", f"{said!r} is typed, not rendered from a table cell.", _RENDER)


def _digests(document: Document, book: Book) -> Iterator[Finding]:
    known = {
        value
        for table, column in (("artifacts", "digest"), ("measurements", "adapter_digest"), ("measurements", "base_digest"))
        for value in book.tables[table][column].to_list()
    }
    for block in document.prose:
        for found in _DIGEST.finditer(block.text):
            if found[0] not in known:
                what = f"{found[0][:12]}… is the digest of no artifact of this study."
                yield Finding(block.line_at(found.start()), "digest", what, "Correct it, or leave it out.")
