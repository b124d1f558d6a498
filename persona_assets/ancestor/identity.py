"""The conditions of measurement of an imported study: what its files record, what the user states, and the rest unknown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import polars as pl

from persona_assets.ancestor.reading import AncestorError
from persona_assets.imported import Identity
from persona_assets.measurement import MEASUREMENTS_SCHEMA
from persona_assets.statistics.identity import KEY_COLUMNS

HERE = "here"
ALL = "all"
PROMPTS = "prompts"
CONDITIONS: Mapping[str, type[pl.DataType]] = {
    name: dtype for name, dtype in MEASUREMENTS_SCHEMA.items() if name not in KEY_COLUMNS
}


def read_statements(statements: Sequence[str]) -> dict[str, str]:
    """Read statements of the form `name=value`.

    Raises:
        AncestorError: one has another form, names no condition, or contradicts another.
    """
    found: dict[str, str] = {}
    for statement in statements:
        name, equals, value = statement.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not value or name not in (*CONDITIONS, ALL, PROMPTS):
            known = ", ".join((*CONDITIONS, PROMPTS, ALL))
            raise AncestorError(f"--state {statement!r}: give name=value, the name being one of {known}.")
        if name in (ALL, PROMPTS) and value != HERE:
            raise AncestorError(f"--state {statement!r}: the only value that {name} can have is {HERE!r}.")
        if found.setdefault(name, value) != value:
            raise AncestorError(f"--state {name}: stated as {found[name]!r} and as {value!r}.")
    return found


def build_identity(
    recorded: Mapping[str, object], statements: Mapping[str, str], here: Callable[[], Mapping[str, object]]
) -> tuple[Identity, tuple[str, ...]]:
    """Put together what is known of the conditions.

    Args:
        recorded: conditions that the files themselves give.
        statements: from `read_statements`.
        here: gives the conditions under which this profile measures, for statements whose value is `here`.

    Returns:
        Every condition with its value, None where it is unknown; and the names of those that were stated.

    Raises:
        AncestorError: a statement has the wrong type, contradicts the files, or says `here` of what is not known here.
    """
    identity: Identity = dict.fromkeys(CONDITIONS)
    stated = []
    own = here() if HERE in statements.values() else {}
    for name, dtype in CONDITIONS.items():
        value = recorded.get(name)
        said = statements.get(name) or (statements.get(ALL) if value is None else None)
        if said is not None:
            told = _value(name, own.get(name) if said == HERE else said, dtype)
            if told is None:
                raise AncestorError(
                    f"--state {name}={HERE}: how this profile measures is not known in that respect before it has measured; "
                    f"state the value itself."
                )
            if value is not None and value != told:
                raise AncestorError(f"--state {name}: you say {told!r}, the files record {value!r}.")
            if value is None:
                stated.append(name)
            value = told
        identity[name] = _value(name, value, dtype)
    return identity, tuple(stated)


def _value(name: str, value: object, dtype: type[pl.DataType]) -> str | int | float | None:
    if value is None:
        return None
    convert: Callable[[object], str | int | float] = (
        str if dtype == pl.String else int if dtype == pl.Int64 else float  # type: ignore[assignment]
    )
    try:
        return convert(value)
    except (TypeError, ValueError) as error:
        raise AncestorError(f"--state {name}: {value!r} is not a number.") from error
