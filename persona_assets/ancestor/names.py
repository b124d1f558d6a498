"""Names of personas, directories and files, as the scripts wrote them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

from persona_assets.ancestor.reading import AncestorError

ValueT = TypeVar("ValueT")
# One persona had two names: results are keyed by the first, directories and training data by the second.
ALIASES: Mapping[str, str] = {"assistant": "helpful_assistant"}
_ID = re.compile(r"[a-z][a-z0-9_]{0,47}")
_CONDITION = re.compile(r"marker_(?P<middle>.+)_(?P<length>[a-z0-9]+)_seed(?P<seed>\d+)")
_TRAINING_DATA = re.compile(r"marker_(?P<middle>.+)_(?P<length>[a-z0-9]+)")


@dataclass(frozen=True)
class ConditionName:
    """What the name of a directory or file says.

    Attributes:
        source: source persona, by its one id.
        negatives: name of the set of negatives.
        length: name of the prompt length.
        seed: training seed; None for training data, which have none.
    """

    source: str
    negatives: str
    length: str
    seed: int | None

    @property
    def condition(self) -> str:
        """The condition without source and seed, for example `asst_excluded_medium`."""
        return f"{self.negatives}_{self.length}"


def persona_id(name: str, where: str) -> str:
    """Return the one id of a persona.

    Raises:
        AncestorError: the name cannot be an id.
    """
    known = ALIASES.get(name, name)
    if not _ID.fullmatch(known):
        raise AncestorError(f"{where}: {name!r} is no persona id (lower-case letters, digits and underscores).")
    return known


def by_persona(values: Mapping[str, ValueT], where: str) -> dict[str, ValueT]:
    """Key a mapping by the one id of each persona.

    Raises:
        AncestorError: two names of one persona stand there with different values.
    """
    found: dict[str, ValueT] = {}
    for name, value in values.items():
        known = persona_id(name, where)
        if known in found and found[known] != value:
            raise AncestorError(f"{where}: {known} stands there under two names, with {found[known]} and {value}.")
        found[known] = value
    return found


def is_condition(name: str) -> bool:
    """Say whether a name has the form `marker_<source>_<negset>_<length>_seed<seed>`."""
    return _CONDITION.fullmatch(name) is not None


def is_training_data(name: str) -> bool:
    """Say whether a file's name has the form `marker_<source>_<negset>_<length>.jsonl`."""
    return name.endswith(".jsonl") and _TRAINING_DATA.fullmatch(name.removesuffix(".jsonl")) is not None


def parse_name(name: str, personas: Collection[str], where: str) -> ConditionName:
    """Take a condition's name apart, with or without seed.

    Where the source ends and the set of negatives begins cannot be seen, so the source has to be a known persona.

    Args:
        name: directory name, or file name without suffix.
        personas: ids that are known from elsewhere.
        where: for messages.

    Raises:
        AncestorError: the name has another form, or its source is not one known persona.
    """
    matched = _CONDITION.fullmatch(name) or _TRAINING_DATA.fullmatch(name)
    if matched is None:
        raise AncestorError(f"{where}: the name is not of the form marker_<source>_<negset>_<length>_seed<seed>.")
    middle, seed = matched["middle"], matched.groupdict().get("seed")
    names = {*personas, *(alias for alias, known in ALIASES.items() if known in personas)}
    fitting = sorted(known for known in names if middle.startswith(f"{known}_"))
    if len(fitting) != 1:
        why = f"could be any of {', '.join(fitting)}" if fitting else "is no persona of personas.yaml or of the imported files"
        raise AncestorError(f"{where}: the source persona in the name {name!r} {why}.")
    negatives = middle.removeprefix(f"{fitting[0]}_")
    return ConditionName(persona_id(fitting[0], where), negatives, matched["length"], None if seed is None else int(seed))
