"""The overview of a study: one page that says where it stands, what came out, and where to read on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from persona_assets.reporting.writeup import claim
from persona_assets.reporting.writeup.binding import Book
from persona_assets.reporting.writeup.page import page
from persona_assets.reporting.writeup.report import PAGE_FILE, environment, join
from persona_assets.reporting.writeup.sources import Sources
from persona_assets.reporting.writeup.writer import Writer

OVERVIEW_FILE = "overview.html"
OVERVIEW_FIGURES = ("rate_heatmap", "spearman_by_layer")
# As the products lie in the lake: the page works from there, served or opened as a file.
_LINKS = {"report": f"../clean_result/{PAGE_FILE}", "figures": "../figures/", "tables": "../tables/"}


@dataclass(frozen=True)
class WrittenOverview:
    """The page and its headline."""

    page: Path
    headline: str


def write_overview(sources: Sources, directory: Path) -> WrittenOverview:
    """Write `overview.html`, which needs nothing but itself and links to the write-up, the figures and the tables.

    Args:
        sources: what the write-up is made from.
        directory: where to; it must exist.

    Raises:
        WriteUpError: a table or a figure is missing, or contradicts another.
    """
    book = Book(sources)
    writer = Writer(sources, book)
    body = environment(writer).get_template("overview.md.jinja").render(links=_LINKS)
    headline = claim.title(sources)
    file = directory / OVERVIEW_FILE
    text = join([f"# {headline}", body], writer)
    file.write_text(page(text, sources, book, tuple(_LINKS.values())), encoding="utf-8", newline="\n")
    return WrittenOverview(file, headline)
