"""Which adapters a study inherits from registries: what its file says, checked against the panel and the other studies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, PlainSerializer

from persona_assets.registry.reference import AdapterReference, BadReferenceError, ReferencePattern, parse_pattern
from persona_assets.yaml_files import mistake

if TYPE_CHECKING:
    from persona_assets.study import Study

AdapterKey = tuple[str, int]
"""Persona and training seed."""

_FIELD = "inherited_adapters"


@dataclass(frozen=True)
class InheritedAdapters:
    """The field `inherited_adapters` of a study file.

    Attributes:
        by_persona: pattern by persona id, in the order of the file.
        cohort: pattern of the personas that `by_persona` does not name; None when it names all that are inherited.
    """

    by_persona: Mapping[str, ReferencePattern]
    cohort: ReferencePattern | None = None

    def patterns(self, panel: Iterable[str]) -> dict[str, ReferencePattern]:
        """Return the pattern of every persona that is inherited, given the panel."""
        if self.cohort is not None:
            return dict.fromkeys(panel, self.cohort)
        return dict(self.by_persona)

    def written(self) -> dict[str, str]:
        """Return it as a file would say it, for the registered plan."""
        named = {persona: pattern.text for persona, pattern in self.by_persona.items()}
        return named if self.cohort is None else {"reference": self.cohort.text}


def _read(content: object) -> InheritedAdapters:
    if isinstance(content, InheritedAdapters):
        return content
    if not isinstance(content, Mapping) or not content:
        raise ValueError("expected `reference` with `personas`, or a reference for each persona")
    if "reference" not in content:
        return InheritedAdapters({str(persona): _pattern(text, str(persona)) for persona, text in content.items()})
    other = sorted(set(map(str, content)) - {"reference", "personas"})
    if other:
        raise ValueError(f"{other[0]}: stands beside `reference`; name references by persona, or one `reference` with `personas`")
    pattern = _pattern(content["reference"], "reference")
    personas = content.get("personas")
    if personas is None:
        return InheritedAdapters({}, pattern)
    if not isinstance(personas, list) or not personas or not all(isinstance(persona, str) for persona in personas):
        raise ValueError("personas: expected a list of persona ids; left out, it is the whole panel")
    twice = sorted({persona for persona in personas if personas.count(persona) > 1})
    if twice:
        raise ValueError(f"personas: {twice[0]!r} stands more than once")
    return InheritedAdapters(dict.fromkeys(personas, pattern))


def _pattern(text: object, field: str) -> ReferencePattern:
    if not isinstance(text, str):
        raise ValueError(f"{field}: expected a reference, given: {text!r}")  # pydantic reports ValueError
    try:
        return parse_pattern(text)
    except BadReferenceError as error:
        raise ValueError(f"{field}: {error}") from error


InheritedField = Annotated[
    InheritedAdapters | None,
    BeforeValidator(lambda content: None if content is None else _read(content)),
    PlainSerializer(lambda inherited: None if inherited is None else inherited.written()),
]


def inherited_references(
    path: Path, inherited: InheritedAdapters | None, panel: Iterable[str], seeds: Iterable[int]
) -> dict[AdapterKey, AdapterReference]:
    """Give every adapter that a study inherits its reference.

    Raises:
        ConfigurationError: a persona is not in the panel, or two adapters would be one and the same.
    """
    if inherited is None:
        return {}
    ids, seeds = tuple(panel), tuple(seeds)
    found: dict[AdapterKey, AdapterReference] = {}
    owners: dict[AdapterReference, AdapterKey] = {}
    for persona, pattern in inherited.patterns(ids).items():
        if persona not in ids:
            raise mistake(path, _FIELD, f"{persona!r} is not in the study's panel.")
        for seed in seeds:
            reference = pattern.reference(persona, seed)
            if reference in owners:
                other, other_seed = owners[reference]
                lacking = "{persona}" if other != persona else "{seed}"
                raise mistake(
                    path,
                    _FIELD,
                    f"{reference} would be the adapter of {other} (seed {other_seed}) and of {persona} (seed {seed}): write "
                    f"{lacking} where they differ.",
                )
            owners[reference] = persona, seed
            found[persona, seed] = reference
    return found


def shared_references(profile_directory: Path, studies: Mapping[str, Study]) -> dict[AdapterKey, AdapterReference]:
    """Put the references of a profile's studies together; studies share their adapters.

    Raises:
        ConfigurationError: two studies name different references for one adapter, or one trains what another inherits.
    """
    found: dict[AdapterKey, tuple[AdapterReference, str]] = {}
    for name, study in studies.items():
        for key, reference in study.inherited_adapters.items():
            there, first = found.setdefault(key, (reference, name))
            if there != reference:
                raise mistake(
                    profile_directory / f"{name}.yaml",
                    _FIELD,
                    f"{key[0]} (seed {key[1]}) is {reference}, in {first} it is {there}: studies of a profile share their "
                    f"adapters, so both must name the same.",
                )
    for name, study in studies.items():
        lineage = (study, *study.ancestors)
        for key, (reference, first) in found.items():
            persona, seed = key
            uses = study.imported is None and persona in study.panel.ids and seed in study.seeds
            if uses and not any(key in each.inherited_adapters for each in lineage):
                raise mistake(
                    profile_directory / f"{name}.yaml",
                    _FIELD,
                    f"{first} inherits the adapter of {persona} (seed {seed}), which this study would train: they share it, so "
                    f"name {reference} here as well.",
                )
    return {key: reference for key, (reference, _) in found.items()}
