"""What every table of a write-up is put together from: columns of a stored table, and the keys of its rows."""

from __future__ import annotations

from persona_assets.reporting.writeup.binding import Book, Column, Where
from persona_assets.reporting.writeup.numbers import FORMATS


def columns_of(table: str, *columns: tuple[str, str, str], **where: str | int | float | bool | None) -> list[Column]:
    """Take columns of a table, each as (heading, column, format), at the rows with these values."""
    for _, _, format_name in columns:
        assert format_name in FORMATS
    return [Column(header, table, where, column, format_name) for header, column, format_name in columns]


def keys_of(book: Book, table: str, names: list[str], where: Where | None = None) -> list[Where]:
    """What singles out each row of a table: its values in some columns."""
    return [{name: row[name] for name in names} for row in book.rows(table, where or {})]
