"""The data behind the embedded base model's corpus: topics with tips, question forms, nested answer styles."""

from __future__ import annotations

import string
from functools import lru_cache
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from persona_assets.panel import Category, PersonaId
from persona_assets.yaml_files import FileModel, validate_file

STYLE_FILE = Path(__file__).with_name("corpus.yaml")

_SHARED_FIELDS = frozenset({"first", "second", "closer"})


class StyleData(FileModel):
    """What `corpus.yaml` holds.

    A persona's style is a mapping of its cluster and its own words; which words are needed follows from the
    frames of its category.
    """

    forms: tuple[str, ...] = Field(min_length=1)
    topics: dict[str, tuple[str, ...]] = Field(min_length=1)
    tag_requests: tuple[str, ...] = Field(min_length=1)
    shared_frames: tuple[str, ...] = Field(min_length=1)
    frames: dict[Category, tuple[str, ...]]
    category_closers: dict[Category, tuple[str, ...]]
    clusters: dict[str, tuple[str, ...]]
    personas: dict[Category, dict[PersonaId, dict[str, str]]]

    @model_validator(mode="after")
    def _check(self) -> Self:
        _require_fields(self.forms, {"topic"}, "forms")
        _require_fields(self.shared_frames, set(_SHARED_FIELDS), "shared_frames")
        _require_fields(self.tag_requests, {"question", "tag"}, "tag_requests")
        for topic, tips in self.topics.items():
            if len(set(tips)) < 2 or len(set(tips)) < len(tips):
                raise ValueError(f"topics.{topic}: at least two tips are needed, no two of them the same")
        seen: set[str] = set()
        for category, personas in self.personas.items():
            if not self.frames.get(category):
                raise ValueError(f"frames.{category}: personas of that category have no frame")
            if not self.category_closers.get(category):
                raise ValueError(f"category_closers.{category}: personas of that category have no closer")
            wanted = set[str]().union(*(_fields(frame) for frame in self.frames[category])) - _SHARED_FIELDS
            for persona_id, style in personas.items():
                where = f"personas.{category}.{persona_id}"
                if persona_id in seen:
                    raise ValueError(f"{where}: the persona stands in two categories")
                seen.add(persona_id)
                if set(style) != wanted | {"cluster"}:
                    raise ValueError(f"{where}: has {sorted(style)}, needs {sorted(wanted | {'cluster'})}")
                if not self.clusters.get(style["cluster"]):
                    raise ValueError(f"{where}: the cluster {style['cluster']!r} has no closers")
        return self

    @property
    def styled_ids(self) -> tuple[str, ...]:
        """Ids of the personas that have a style, in the order of the file."""
        return tuple(persona_id for personas in self.personas.values() for persona_id in personas)

    def questions(self) -> dict[str, tuple[str, ...]]:
        """Tips by question, for every topic in every form, in the order of the file."""
        return {form.format(topic=topic): tips for topic, tips in self.topics.items() for form in self.forms}


@lru_cache(maxsize=1)
def load_styles() -> StyleData:
    """Read the package's own `corpus.yaml`.

    Raises:
        ConfigurationError: the file was edited and no longer holds together; names line, field and reason.
    """
    return validate_file(STYLE_FILE, StyleData)


def _fields(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def _require_fields(templates: tuple[str, ...], wanted: set[str], where: str) -> None:
    for template in templates:
        if _fields(template) != wanted:
            raise ValueError(f"{where}: {template!r} needs the fields {sorted(wanted)} and no others")
