"""regression_results.json: a whole study in one file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import Field

from persona_assets.ancestor.names import by_persona, persona_id
from persona_assets.ancestor.reading import AncestorError, Finite, Layout, Positive, Rate, as_layout, read_json, written_boolean
from persona_assets.panel import Category

REGRESSION_RESULTS = "regression_results.json"
ROUNDING = 1e-4  # a cosine may exceed 1 by as much
_LAYER = re.compile(r"layer_(\d+)")


class _LayerStatistics(Layout):
    pearson_r: Finite
    pearson_p: Finite
    spearman_rho: Finite
    spearman_p: Finite


class _Regression(Layout):
    experiment: str
    model: str
    n_personas: Positive
    personas: list[str]
    categories: dict[str, str | list[str]]
    source_rates: dict[str, Rate]
    prompt_token_lengths: dict[str, Positive]
    cosines_to_assistant: Annotated[dict[str, dict[str, Finite]], Field(min_length=1)]
    layer_stats: dict[str, _LayerStatistics]
    primary_layer: int | str
    outcome_bucket: str | None = None
    outcome_flags: object = None


@dataclass(frozen=True)
class RegressionResults:
    """A whole study.

    Attributes:
        model: name of the base model.
        personas: in the order of the file.
        categories: by persona.
        source_rates: by persona.
        prompt_tokens: by persona.
        cosines: by layer and persona, cut to [-1, 1].
        primary_layer: as the file says.
        published: what the file says it found, by name, as text.
    """

    model: str
    personas: tuple[str, ...]
    categories: Mapping[str, Category]
    source_rates: Mapping[str, float]
    prompt_tokens: Mapping[str, int]
    cosines: Mapping[int, Mapping[str, float]]
    primary_layer: int
    published: Mapping[str, str]


def read_regression_results(path: Path, anchor: str) -> RegressionResults:
    """Read a whole study.

    Args:
        path: the file.
        anchor: persona that the cosines are taken to.

    Raises:
        AncestorError: a key is missing, a persona lacks a value, a cosine is none, or a boolean is not one.
    """
    found = as_layout(path, read_json(path), _Regression)
    personas = tuple(persona_id(name, f"{path}: personas") for name in found.personas)
    if len(set(personas)) != len(personas) or len(personas) != found.n_personas:
        raise AncestorError(
            f"{path}: n_personas is {found.n_personas}, but personas lists {len(personas)} names, {len(set(personas))} different."
        )
    cosines = {
        _layer(path, name): _cosines(path, name, _complete(path, f"cosines_to_assistant.{name}", values, personas), anchor)
        for name, values in found.cosines_to_assistant.items()
    }
    return RegressionResults(
        model=found.model,
        personas=personas,
        categories=_complete(path, "categories", _categories(path, found.categories), personas),
        source_rates=_complete(path, "source_rates", found.source_rates, personas),
        prompt_tokens=_complete(path, "prompt_token_lengths", found.prompt_token_lengths, personas),
        cosines=dict(sorted(cosines.items())),
        primary_layer=_layer(path, found.primary_layer),
        published=_published(path, found),
    )


def _layer(path: Path, name: int | str) -> int:
    matched = _LAYER.fullmatch(str(name)) if isinstance(name, str) else None
    if matched is None and (isinstance(name, str) or name < 0):
        raise AncestorError(f"{path}: {name!r} does not name a layer (layer_<number>).")
    return int(matched[1]) if matched else int(name)


def _complete(path: Path, field: str, values: Mapping[str, Any], personas: tuple[str, ...]) -> dict[str, Any]:
    known = by_persona(values, f"{path}: {field}")
    if missing := [persona for persona in personas if persona not in known]:
        raise AncestorError(f"{path}: {field}: there is no value for {', '.join(missing)}.")
    return {persona: known[persona] for persona in personas}


def _cosines(path: Path, layer: str, values: Mapping[str, float], anchor: str) -> dict[str, float]:
    for persona, value in values.items():
        if abs(value) > 1.0 + ROUNDING:
            raise AncestorError(f"{path}: cosines_to_assistant.{layer}: {persona} has {value:g}, which is no cosine.")
    if anchor in values and abs(values[anchor] - 1.0) > ROUNDING:
        raise AncestorError(
            f"{path}: cosines_to_assistant.{layer}: {anchor} has {values[anchor]:g} with itself, so these are not its cosines."
        )
    return {persona: 1.0 if persona == anchor else min(1.0, max(-1.0, value)) for persona, value in values.items()}


def _categories(path: Path, found: Mapping[str, str | list[str]]) -> dict[str, str]:
    """By persona, whether the file lists categories by persona or personas by category."""
    known = get_args(Category)
    by_name: dict[str, str] = {}
    for key, value in found.items():
        pairs = [(name, key) for name in value] if isinstance(value, list) else [(key, value)]
        for name, category in pairs:
            if category not in known:
                raise AncestorError(f"{path}: categories: {name} is {category!r}; known are {', '.join(known)}.")
            if by_name.setdefault(name, category) != category:
                raise AncestorError(f"{path}: categories: {name} is {by_name[name]!r} and {category!r}.")
    return by_name


def _published(path: Path, found: _Regression) -> dict[str, str]:
    said = {
        f"{name}.{field}": f"{getattr(statistics, field):.6g}"
        for name, statistics in found.layer_stats.items()
        for field in ("spearman_rho", "spearman_p")
    }
    if found.outcome_bucket is not None:
        said["outcome_bucket"] = found.outcome_bucket
    flags = found.outcome_flags
    for name, value in (flags if isinstance(flags, dict) else {}).items():
        known = written_boolean(value)
        said[f"outcome_flags.{name}"] = ("yes" if known else "no") if isinstance(known, bool) else str(value)
    return said
