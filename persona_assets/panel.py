"""Personas and panels: the one registry of prompts, read from `studies/personas.yaml`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from persona_assets.errors import ConfigurationError
from persona_assets.yaml_files import FileModel, validate_file

Category = Literal["occupational", "character", "generic_helper"]
CATEGORIES: tuple[Category, ...] = ("occupational", "character", "generic_helper")

# Names become path segments, partition keys and SQL values on every platform: letters, digits and underscores only.
PersonaId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,47}$")]
_WINDOWS_DEVICES = frozenset({"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)})


class Persona(FileModel):
    """One persona: what a system prompt makes the model play."""

    id: PersonaId
    category: Category
    prompt: Annotated[str, StringConstraints(min_length=2, max_length=2000)]
    exclude_from_within_category: bool = False

    @model_validator(mode="after")
    def _check(self) -> Persona:
        if self.id in _WINDOWS_DEVICES:
            raise ValueError(f"{self.id!r} is a device name on Windows and cannot be a directory there")
        if self.prompt != self.prompt.strip():
            raise ValueError("the prompt begins or ends with white space, which the model would see")
        return self


class Panel(FileModel):
    """An ordered list of personas with its anchor; a larger panel only appends to a smaller one."""

    anchor: PersonaId
    personas: tuple[Persona, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _check(self) -> Panel:
        for label, values in (("id", [p.id for p in self.personas]), ("prompt", [p.prompt for p in self.personas])):
            repeated = sorted({value for value in values if values.count(value) > 1})
            if repeated:
                raise ValueError(f"the {label} {repeated[0]!r} stands more than once")
        if self.anchor not in self.ids:
            raise ValueError(f"the anchor {self.anchor!r} is not one of the personas")
        return self

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids in panel order."""
        return tuple(persona.id for persona in self.personas)

    @property
    def categories(self) -> dict[str, Category]:
        """Category by persona id, in panel order."""
        return {persona.id: persona.category for persona in self.personas}

    def prefix(self, size: int) -> Panel:
        """Return the panel of the first `size` personas.

        Raises:
            ConfigurationError: there are fewer personas than that, or the anchor is not among them.
        """
        if size > len(self.personas):
            raise ConfigurationError(
                f"A panel of {size} personas was asked for, and personas.yaml has {len(self.personas)}: append personas to it."
            )
        if self.anchor not in self.ids[:size]:
            raise ConfigurationError(
                f"The anchor {self.anchor!r} is not among the first {size} personas, so a panel of that size has no anchor."
            )
        return Panel(anchor=self.anchor, personas=self.personas[:size])

    def __getitem__(self, persona_id: str) -> Persona:
        """Return the persona of that id; KeyError names the panel's ids."""
        for persona in self.personas:
            if persona.id == persona_id:
                return persona
        raise KeyError(f"no persona {persona_id!r}; the panel has {', '.join(self.ids)}")

    def __iter__(self) -> Iterator[Persona]:  # type: ignore[override]  # a panel is its personas, not its fields
        """Iterate over the personas in panel order."""
        return iter(self.personas)

    def __len__(self) -> int:
        """Return the number of personas."""
        return len(self.personas)


def contiguous_ranges(order: Sequence[str], wanted: Collection[str]) -> list[tuple[str, str]]:
    """Cover the wanted personas by as few ranges as possible, each the first and the last of neighbours in the order."""
    ranges: list[tuple[str, str]] = []
    before: str | None = None
    for persona in order:
        if persona in wanted:
            first = ranges.pop()[0] if before in wanted else persona
            ranges.append((first, persona))
        before = persona
    return ranges


def load_panel(path: Path) -> Panel:
    """Read `personas.yaml`.

    Raises:
        ConfigurationError: with file, line, field and reason.
    """
    return validate_file(path, Panel)
