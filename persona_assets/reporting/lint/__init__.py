"""The lint of a clean-result write-up: structure, figures, samples, and every number against the tables."""

from __future__ import annotations

from persona_assets.reporting.lint import bound, figures, kinds, prose, samples, structure
from persona_assets.reporting.lint.document import parse
from persona_assets.reporting.lint.findings import Finding
from persona_assets.reporting.writeup.binding import Book, read_bindings
from persona_assets.reporting.writeup.errors import WriteUpError
from persona_assets.reporting.writeup.sources import Sources

__all__ = ["Finding", "lint"]


def lint(text: str, sources: Sources) -> list[Finding]:
    """Check a write-up against the study it is about.

    The text is taken apart anew and compared with the tables, figures and completions; what the writer did is trusted
    in nothing but the references that the text itself carries, and those are followed.

    Args:
        text: Markdown of the write-up.
        sources: the study's tables, figures, completions and digests, as they are now.

    Returns:
        Findings by line; none for a write-up that is in order.

    Raises:
        WriteUpError: the sources themselves contradict each other.
    """
    document, book = parse(text), Book(sources)
    findings = [*structure.check(document, sources), *figures.check(document, sources), *samples.check(document, book)]
    try:
        bindings = read_bindings(text)
    except WriteUpError as error:
        line = text.count("\n") + 1
        advice = "Restore the end of the file, or materialize clean_result again."
        return sorted([*findings, Finding(line, "binding", f"The references cannot be read: {error}", advice)])
    checked, wrong = bound.follow(document, book, bindings)
    findings += wrong
    findings += bound.check_grids(document, book, bindings)
    findings += kinds.check(document, book, bindings, checked)
    findings += prose.check(document, book, checked)
    return sorted(findings)
