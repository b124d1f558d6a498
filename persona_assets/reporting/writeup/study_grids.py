"""Tables of a write-up that say how a study was made: its plan, panel, conditions and artifacts."""

from __future__ import annotations

from persona_assets.reporting.writeup.binding import Book, Grid, Where
from persona_assets.reporting.writeup.grid_columns import columns_of, keys_of


def plan(book: Book) -> Grid:
    """Every field of the plan; a list of numbers on one line."""
    fields = [row["field"] for row in book.rows("plan", {}) if not row["field"].rpartition(".")[2].isdigit()]
    columns = columns_of("plan", ("Field of the study file", "field", "code"), ("Value", "text", "text"))
    return Grid(columns, [{"field": field} for field in fields])


def panel(book: Book) -> Grid:
    """Every persona with its system prompt."""
    columns = columns_of(
        "panel",
        ("Persona", "persona", "code"),
        ("Category", "category", "name"),
        ("Cohort", "cohort", "text"),
        ("System prompt", "prompt", "text"),
    )
    return Grid(columns, keys_of(book, "panel", ["persona"]))


def identity(book: Book) -> Grid:
    """Each set of conditions that occurs, once."""
    columns = columns_of(
        "measurements",
        ("Engine", "engine", "text"),
        ("Version", "engine_version", "text"),
        ("Decoder", "decoder", "text"),
        ("Weights", "weights", "text"),
        ("Arguments", "engine_arguments", "text"),
        ("Precision", "dtype", "text"),
        ("Device", "device", "text"),
        ("Temperature", "temperature", "general"),
        ("Top p", "top_p", "general"),
        ("Top k", "top_k", "general"),
        ("Repetition", "repetition_penalty", "general"),
        ("Tokens", "max_new_tokens", "int"),
    )
    seen: dict[tuple[object, ...], Where] = {}
    for row in book.rows("measurements", {}):
        seen.setdefault(
            tuple(row[column.column] for column in columns), {name: row[name] for name in ("source", "seed", "measurement")}
        )
    return Grid(columns, list(seen.values()))


def artifacts(book: Book) -> Grid:
    """What the write-up rests on, with its digests."""
    columns = columns_of(
        "artifacts", ("Artifact", "artifact", "text"), ("Place", "path", "code"), ("Digest (sha256)", "digest", "code")
    )
    return Grid(columns, keys_of(book, "artifacts", ["artifact", "path"]))


def adapters(book: Book) -> Grid:
    """The adapter behind each measurement."""
    columns = columns_of(
        "measurements",
        ("Source persona", "source", "code"),
        ("Seed", "seed", "int"),
        ("Measurement", "measurement", "int"),
        ("Adapter digest (sha256)", "adapter_digest", "code"),
    )
    return Grid(columns, keys_of(book, "measurements", ["source", "seed", "measurement"]))


def not_supported(book: Book) -> Grid:
    """What an import could not give, and why."""
    columns = columns_of("not_supported", ("The imported data do not support", "what", "text"), ("Why", "why", "text"))
    return Grid(columns, keys_of(book, "not_supported", ["what"]))
