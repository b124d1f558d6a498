"""What the study file of an imported study holds: enough to load the study without reading the lake."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from persona_assets.panel import Category, Panel, Persona, PersonaId
from persona_assets.yaml_files import FileModel

UNRECORDED_PROMPT = "(not recorded in the imported files)"
# The tables an import can give, in the order of the story; the first is there always.
IMPORTED_TABLES = (
    *("source_rates", "geometry", "power", "regressions", "off_diagonal"),
    *("inherited_drift", "remeasurement_drift", "retest", "gates", "attenuation"),
)
Identity = dict[str, str | int | float | None]


class ImportedPersona(FileModel):
    """A source persona of an imported study."""

    id: PersonaId
    category: Category
    prompt: Annotated[str, StringConstraints(min_length=2, max_length=2000)] | None = None


class NotSupported(FileModel):
    """Something that the imported data cannot give, and why."""

    what: Annotated[str, StringConstraints(min_length=1)]
    why: Annotated[str, StringConstraints(min_length=1)]


class ImportedPanel(Panel):
    """The sources of an imported study: prompts may be unrecorded, and the anchor may not be among them."""

    personas: tuple[Persona, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.ids)) != len(self.ids):
            raise ValueError("a persona stands more than once")
        return self


class Imported(FileModel):
    """The section `imported:` of a study file, written by `persona-assets import`.

    Attributes:
        source: path that was imported.
        data_version: of the product in the lake that holds what was read.
        marker: string that was counted.
        anchor: persona that the cosines are taken to.
        personas: the sources.
        layers: layers with cosines.
        completions: completions of a cell, by number; several where cells differ.
        identity: the conditions of measurement; null is unknown.
        stated: conditions that the user stated at import, as opposed to those that the files record.
        note: the user's remark.
        tables: the assets that the data support, out of `IMPORTED_TABLES`.
        not_supported: what the data cannot give.
    """

    source: str
    data_version: str
    marker: str
    anchor: PersonaId
    personas: tuple[ImportedPersona, ...] = Field(min_length=1)
    layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    completions: tuple[Annotated[int, Field(ge=1)], ...]
    identity: Identity
    stated: tuple[str, ...] = ()
    note: str | None = None
    tables: tuple[str, ...]
    not_supported: tuple[NotSupported, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if unknown := sorted(set(self.tables) - set(IMPORTED_TABLES)):
            raise ValueError(f"tables: {unknown[0]!r} is none of {', '.join(IMPORTED_TABLES)}")
        if "source_rates" not in self.tables:
            raise ValueError("tables: source_rates is missing, and every import has it")
        if not len(self.panel):  # building it refuses what cannot be a persona
            raise ValueError("personas: there is none")
        return self

    @property
    def panel(self) -> ImportedPanel:
        """The sources as a panel."""
        personas = [Persona(id=p.id, category=p.category, prompt=p.prompt or UNRECORDED_PROMPT) for p in self.personas]
        return ImportedPanel(anchor=self.anchor, personas=tuple(personas))

    @property
    def prompts(self) -> dict[str, str]:
        """System prompts, of the personas whose prompt is known."""
        return {persona.id: persona.prompt for persona in self.personas if persona.prompt is not None}

    @property
    def unknown_conditions(self) -> tuple[str, ...]:
        """Conditions of measurement that are unknown."""
        return tuple(name for name, value in self.identity.items() if value is None)

    @property
    def identity_sentence(self) -> str:
        """Say what is known of how the rates were measured."""
        known = [name for name, value in self.identity.items() if value is not None]
        stated = [name for name in known if name in self.stated]
        recorded = [name for name in known if name not in self.stated]
        parts = [
            f"{words} {', '.join(names)}"
            for words, names in (("recorded:", recorded), ("stated at import:", stated), ("unknown:", self.unknown_conditions))
            if names
        ]
        return "; ".join(parts)

    def why_not(self, what: str) -> str | None:
        """Say why something is not supported; None when it is not listed."""
        return next((each.why for each in self.not_supported if each.what == what), None)
