"""The clean-result write-up of a study: Markdown and one self-contained page, every number bound to a table cell."""

from persona_assets.reporting.writeup.errors import WriteUpError
from persona_assets.reporting.writeup.report import MARKDOWN_FILE, PAGE_FILE, WrittenReport, write_clean_result
from persona_assets.reporting.writeup.sources import CompletionFiles, FigureFile, Sources, read_figures

__all__ = [
    "MARKDOWN_FILE",
    "PAGE_FILE",
    "CompletionFiles",
    "FigureFile",
    "Sources",
    "WriteUpError",
    "WrittenReport",
    "read_figures",
    "write_clean_result",
]
