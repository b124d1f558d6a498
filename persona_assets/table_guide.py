"""What every table and column means, read from `tables.yaml`: for the UI, and for docs/tables.md.

Run `python -m persona_assets.table_guide docs/tables.md` to write that page.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from persona_assets.errors import ConfigurationError
from persona_assets.yaml_files import FileModel, validate_file

GUIDE_FILE = Path(__file__).with_name("tables.yaml")


class TableText(FileModel):
    """What one table is, and what its columns mean, in the order in which they stand.

    Attributes:
        made_by: asset that writes it.
        row: what one row is.
        about: what the table is for.
        columns: meaning by column.
    """

    made_by: str
    row: str
    about: str
    columns: Mapping[str, str | None]


class TableGuide(FileModel):
    """Every table of the warehouse, and the Parquet files of the lake beside it."""

    common: Mapping[str, str]
    tables: Mapping[str, TableText]
    files: Mapping[str, TableText]

    def columns(self, table: str) -> dict[str, str]:
        """Return meaning by column of a table (`cells`) or a file (`answers.parquet`); empty for an unknown one."""
        text = self.tables.get(table) or self.files.get(table)
        return {} if text is None else {name: said or self.common[name] for name, said in text.columns.items()}


@cache
def table_guide() -> TableGuide:
    """Read the guide.

    Raises:
        ConfigurationError: a column has neither a text of its own nor a common one.
    """
    guide = validate_file(GUIDE_FILE, TableGuide)
    for name, text in {**guide.tables, **guide.files}.items():
        for column, said in text.columns.items():
            if not said and column not in guide.common:
                raise ConfigurationError(f"{GUIDE_FILE}: {name}.{column}: give it a text here or under `common`.")
    return guide


def as_markdown(guide: TableGuide) -> str:
    """Write the page docs/tables.md."""
    return "\n".join(_page(guide)) + "\n"


def _page(guide: TableGuide) -> Iterator[str]:
    yield "# Every table and column"
    yield ""
    yield "<!-- Written by `python -m persona_assets.table_guide docs/tables.md` from persona_assets/tables.yaml: edit that. -->"
    yield ""
    yield "The warehouse has one schema for each study: `n12.cells`, `n24.cells`. Read it with `persona-assets sql`, any DuckDB"
    yield "client, or as Parquet in the lake. The Dagster UI shows the same texts under *Columns* of each table asset."
    yield ""
    yield "A null `estimate` could not be estimated, and `note` says why. `registered` separates what was preregistered from"
    yield "sensitivity rows: only registered rows decide anything."
    for name, text in guide.tables.items():
        yield from _section(guide, name, text)
    yield ""
    yield "# Files of the lake that are no tables of the warehouse"
    for name, text in guide.files.items():
        yield from _section(guide, name, text)


def _section(guide: TableGuide, name: str, text: TableText) -> Iterator[str]:
    yield from ("", f"## {name}", "", f"{text.about} One row for each {text.row}. Made by `{text.made_by}`.", "")
    yield from ("| column | meaning |", "|---|---|")
    for column, meaning in guide.columns(name).items():
        yield f"| `{column}` | {meaning.replace('|', chr(92) + '|')} |"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(as_markdown(table_guide()), encoding="utf-8")
