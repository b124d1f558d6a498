"""What a lint says: where, which rule, what is wrong, what to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Finding:
    """One defect of a write-up.

    Attributes:
        line: line of the file, from 1.
        rule: short name of the rule that it breaks.
        what: what is wrong.
        advice: what to do about it.
    """

    line: int
    rule: str
    what: str
    advice: str

    def __str__(self) -> str:
        """Write the finding on one line."""
        return f"line {self.line}: {self.rule}: {self.what} {self.advice}"
