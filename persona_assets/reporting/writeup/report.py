"""Write a clean result: Markdown and page, byte for byte the same for the same sources."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from persona_assets.reporting.writeup import claim
from persona_assets.reporting.writeup.binding import Book
from persona_assets.reporting.writeup.numbers import escape
from persona_assets.reporting.writeup.outline import SECTIONS, TAKEAWAYS
from persona_assets.reporting.writeup.sources import Sources
from persona_assets.reporting.writeup.writer import SLOT, Writer
from persona_assets.study import Study

MARKDOWN_FILE = "report.md"
PAGE_FILE = "report.html"
_HEADER = "<!-- clean result of {asset}, study digest {digest} -->"
HEADER = re.compile(r"^<!-- clean result of (?P<asset>[^,\s]+), study digest (?P<digest>[0-9a-f]{64}) -->$", re.MULTILINE)


@dataclass(frozen=True)
class WrittenReport:
    """The files of a write-up and its headline."""

    markdown: Path
    page: Path
    headline: str


def write_clean_result(sources: Sources, directory: Path) -> WrittenReport:
    """Write `report.md` and `report.html`.

    Args:
        sources: what the write-up is made from.
        directory: where to; it must exist. Figures are referred to as `../figures/<name>.png`, as they lie in the lake.

    Returns:
        The files and the headline.

    Raises:
        WriteUpError: a table, a figure or a completion that the text needs is missing or contradicts another.
    """
    from persona_assets.reporting.writeup.page import page

    book = Book(sources)
    text = markdown(sources, book)
    written = WrittenReport(directory / MARKDOWN_FILE, directory / PAGE_FILE, claim.title(sources))
    written.markdown.write_text(text, encoding="utf-8", newline="\n")
    written.page.write_text(page(text, sources, book), encoding="utf-8", newline="\n")
    return written


def markdown(sources: Sources, book: Book) -> str:
    """Render the Markdown of a write-up, with the references of all its numbers.

    Raises:
        WriteUpError: as `write_clean_result`.
    """
    writer = Writer(sources, book)
    templates = environment(writer)
    parts = [
        _HEADER.format(asset=sources.asset, digest=sources.study.digest),
        f"# {claim.title(sources)}",
    ]
    for section in SECTIONS:
        template = section.without_content(sources.study) or _template(section.key, sources.study, templates)
        parts += [f"## {section.heading}", templates.get_template(f"{template}.md.jinja").render(section=section)]
    return join(parts, writer)


def environment(writer: Writer) -> Environment:
    """Give the Markdown templates what they write with."""
    sources, book = writer.sources, writer.book
    templates = Environment(
        loader=PackageLoader("persona_assets.reporting.writeup"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701  # Markdown, not HTML; the page escapes
    )
    templates.globals |= {
        "w": writer,
        "study": sources.study,
        "plan": sources.study.analysis,
        "profile": sources.study.profile,
        "imported": sources.study.imported,
        "embedded_model": sources.study.imported is None and sources.study.profile.base_model.kind == "nano",
        "outcome": book.row("outcome", {}),
        "layers": sources.study.analysis.primary_layers,
        "claim": claim.claim(sources),
        "plain_claim": claim.plain_claim(sources),
        "takeaways": TAKEAWAYS,
    }
    templates.filters["escape_markdown"] = escape
    return templates


def join(parts: Sequence[str], writer: Writer) -> str:
    """Put rendered parts together, with the samples they quote and the references of all their numbers."""
    text = _unwrap(re.sub(r"\n{3,}", "\n\n", "\n\n".join(part.strip("\n") for part in parts)))
    text = SLOT.sub(lambda slot: writer.slots[slot[0]], text)
    return f"{text}\n\n{writer.ledger.block()}\n"


def _template(key: str, study: Study, environment: Environment) -> str:
    """Name of a section's template; some have another one for imported studies."""
    other = f"imported_{key}"
    return other if study.imported is not None and f"{other}.md.jinja" in environment.list_templates() else key


def _unwrap(text: str) -> str:
    """Put every paragraph and list item on one line: templates are wrapped where their source is, not their text."""
    lines: list[str] = []
    for line in text.split("\n"):
        starts_block = not line or line.startswith(("- ", "|", "#", "<!--", "![", "\x00"))
        continues = bool(lines) and bool(lines[-1]) and not lines[-1].startswith(("|", "#", "<!--", "![", "\x00"))
        if continues and not starts_block:
            lines[-1] = f"{lines[-1]} {line.strip()}"
        else:
            lines.append(line)
    return "\n".join(lines)
