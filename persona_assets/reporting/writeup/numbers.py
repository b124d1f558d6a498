"""How a table cell is written in a write-up: one function for each format, the same for every cell and every lint."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from persona_assets.reporting.figures.frames import reason
from persona_assets.reporting.figures.style import p_text, picture_number
from persona_assets.reporting.writeup.errors import WriteUpError

Row = Mapping[str, Any]
ABSENT = "–"
MINUS = "\N{MINUS SIGN}"
_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen"),
    *("fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SPELLED_BELOW = 100
_WORDS_BELOW = 10
_SEPARATED_FROM = 10_000
# An underscore inside a word is no emphasis in Markdown, and ids read better without a backslash.
_SPECIAL = re.compile(r"([\\`*\[\]<>&#|~]|(?<![^\W_])_|_(?![^\W_]))")


def spell(value: float) -> str:
    """Write a count in words: `nine`, `fourteen`, `forty-eight`; digits from a hundred up."""
    count = int(value)
    if count != value or not 0 <= count < _SPELLED_BELOW:
        return integer(value)
    if count < len(_ONES):
        return _ONES[count]
    tens, ones = divmod(count, 10)
    return _TENS[tens - 2] + (f"-{_ONES[ones]}" if ones else "")


SPELLED: dict[str, int] = {spell(count): count for count in range(_SPELLED_BELOW)}
"""Value of each number word."""


def words(value: float) -> str:
    """Write a count in words below ten, in digits from ten up; a count of zero is `none`."""
    if value == 0:
        return "none"
    return spell(value) if 0 <= value < _WORDS_BELOW else integer(value)


def spelled(value: float) -> str:
    """Write a count before its noun in words: `nine`, `fourteen`; a count of zero is `no`."""
    return spell(value) if value else "no"


def integer(value: float) -> str:
    """Write an integer, with thousands separated from ten thousand up."""
    if int(value) != value:
        raise WriteUpError(f"{value} is no integer.")
    text = f"{abs(int(value)):,}" if abs(value) >= _SEPARATED_FROM else str(abs(int(value)))
    return (MINUS if value < 0 else "") + text


def escape(text: str) -> str:
    """Escape a text so that Markdown shows it as it is."""
    return _SPECIAL.sub(r"\\\1", text.replace("\n", " "))


def code(text: str) -> str:
    """Write a name as code."""
    if "`" in text or "\n" in text:
        raise WriteUpError(f"{text!r} holds a backtick or a line break and cannot be shown as a name.")
    return f"`{text}`"


def decimals(digits: int) -> Callable[[float], str]:
    """Give the format with so many decimals and a real minus sign."""
    return lambda value: picture_number(float(value), digits)


def p_cell(value: float) -> str:
    """Write a p-value under a heading `p`: `.014`, `< .001`."""
    return p_text(value).removeprefix("p ").removeprefix("= ")


def percent(value: float) -> str:
    """Write a share in percent, without decimals."""
    return f"{100 * value:.0f} %"


def _general(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}".replace("-", MINUS) if isinstance(value, int | float) else escape(str(value))


# What a single value becomes; None is handled by `write`.
_VALUES: dict[str, Callable[[Any], str]] = {
    "int": integer,
    "words": words,
    "spelled": spelled,
    "percent": percent,
    "rate": decimals(2),
    "rho": decimals(3),
    "d1": decimals(1),
    "d2": decimals(2),
    "d3": decimals(3),
    "d4": decimals(4),
    "general": _general,
    "p": p_text,
    "p_cell": p_cell,
    "text": lambda value: escape(str(value)),
    "name": lambda value: escape(str(value).replace("_", " ").replace(":", ", ")),
    "code": lambda value: code(str(value)),
    "yes_no": lambda value: "yes" if value else "no",
    "hit_miss": lambda value: "hit" if value else "miss",
}
_RANGES = {"interval2": 2, "interval3": 3}
FORMATS = (*_VALUES, *_RANGES)


def write(row: Row, column: str, format_name: str) -> str:
    """Write a cell of a table row.

    Args:
        row: the row, by column.
        column: the cell; for an interval format two columns, `low|high`.
        format_name: one of `FORMATS`.

    Returns:
        Markdown. A missing estimate is `not estimable (reason)`, with the row's note as the reason; another missing
        value is a dash.

    Raises:
        WriteUpError: there is no such column or format.
    """
    names = column.split("|")
    if missing := [name for name in names if name not in row]:
        raise WriteUpError(f"there is no column {', '.join(missing)}; there are {', '.join(row)}.")
    values = [row[name] for name in names]
    if format_name in _RANGES:
        low, high = values
        if low is None or high is None:
            return ABSENT
        digits = _RANGES[format_name]
        return f"{picture_number(low, digits)} to {picture_number(high, digits)}"
    if format_name not in _VALUES:
        raise WriteUpError(f"there is no format {format_name!r}; there are {', '.join(FORMATS)}.")
    (value,) = values
    if value is None:
        return not_estimable(row) if column in ("estimate", "observed") else ABSENT
    return _VALUES[format_name](value)


def not_estimable(row: Row) -> str:
    """Say that a row has no estimate, and why."""
    why = reason(dict(row)).removeprefix("not passed: ").removeprefix("not estimable: ")
    return f"not estimable ({escape(why)})"
