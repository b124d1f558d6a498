"""What of a study is published: its products, gathered from the lake into bundles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

from persona_assets.adapter_files import LOSS_CURVE_FILE
from persona_assets.assets.products import TABLE_PRODUCTS, Products
from persona_assets.publication.bundles import Bundle, Kind, seal
from persona_assets.store import Manifest
from persona_assets.study import Study
from persona_assets.tasks.models import ADAPTER

_METRICS = ("first_loss", "final_loss", "steps", "trained_tokens")


def study_bundles(study: Study, products: Products, work: Path) -> Iterator[Bundle]:
    """Gather the adapters, cells, tables, figures and the write-up of a study.

    Args:
        study: whose.
        products: where they lie.
        work: directory that the lists of contents are written to.

    Raises:
        LakeError: a product is missing or damaged.
        PublicationError: a product holds a file that may not travel.
    """
    for seed in study.seeds:
        for persona in study.panel.ids:
            yield _adapter(products, persona, seed, work)
    paths: Mapping[Kind, Mapping[str, str]] = {
        "cells": {
            **{path.partition("/eval_cells/")[2]: path for path in products.measured_paths(study)},
            **{f"base/persona={persona}": products.base_cells(persona).path for persona in study.panel.ids},
        },
        "tables": {name: make(products, study).path for name, make in TABLE_PRODUCTS.items()},
        "figures": {"": products.figures(study).path},
        "clean_result": {"": products.clean_result(study).path},
    }
    for kind, folders in paths.items():
        directories = {path: products.store.open(path) for path in folders.values()}
        manifests = {path: _manifest(products, path) for path in directories}
        versions = {path: manifest.data_version for path, manifest in manifests.items()}
        files = {
            f"{folder}/{name}".lstrip("/"): directories[path] / name
            for folder, path in folders.items()
            for name in sorted(manifests[path].files)
        }
        facts = {"profile": products.profile, "study": study.name, "study_digest": study.digest, "products": versions}
        yield seal(f"{products.profile}/{study.name}/{kind}", kind, files, {**facts, "made_by": _made_by()}, work)


def _adapter(products: Products, persona: str, seed: int, work: Path) -> Bundle:
    """Bundle one adapter as a registry holds it: what peft loads, its loss curve, and what is known of its training."""
    path = products.adapter(persona, seed).path
    directory, manifest = products.store.open(path), _manifest(products, path)
    files = {file.name: file for file in sorted((directory / ADAPTER).iterdir())}
    if (directory / LOSS_CURVE_FILE).is_file():
        files[LOSS_CURVE_FILE] = directory / LOSS_CURVE_FILE
    facts = {
        "persona": persona,
        "seed": seed,
        "recipe": manifest.parameters.get("recipe"),
        "negatives": list(products.negatives(persona)),
        "base_digest": manifest.inputs.get(products.base_path),
        "made_by": _made_by(),
        "metrics": {name: manifest.facts[name] for name in _METRICS if name in manifest.facts},
    }
    known = {name: value for name, value in facts.items() if value is not None}
    return seal(f"{products.profile}/adapter/seed{seed}/{persona}", "adapter", files, known, work)


def _manifest(products: Products, path: str) -> Manifest:
    """Read the manifest of a product that was opened, and so verified."""
    manifest = products.store.manifest(path)
    assert manifest is not None
    return manifest


def _made_by() -> str:
    return f"persona-assets {version('persona-assets')}"
