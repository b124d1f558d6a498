"""Imported studies in the graph: what was read of an earlier study, and the tables computed from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
from dagster import AssetSpec, MetadataValue

from persona_assets.ancestor import product
from persona_assets.assets.metadata import product_links, table_preview
from persona_assets.assets.partitions import group_name, study_key
from persona_assets.catalog import Catalog
from persona_assets.errors import LakeError
from persona_assets.hashing import sha256_text
from persona_assets.store import Manifest
from persona_assets.study import Study

if TYPE_CHECKING:
    from persona_assets.assets.computing import StudyData, Tables
    from persona_assets.imported import Imported
    from persona_assets.statistics.analysis import StudyFrames

IMPORTED = "imported"


def imported_asset(study: Study, catalog: Catalog) -> AssetSpec:
    """Declare what was imported: made by the command line, not by a run."""
    assert study.imported is not None
    profile = catalog.profile.name
    return AssetSpec(
        study_key(profile, study.name, IMPORTED),
        group_name=group_name(profile, study.name),
        description=(
            f"Results of an earlier study, read from {study.imported.source} by `persona-assets import`. Import it again when "
            "the files change."
        ),
        kinds={"parquet"},
        owners=list(study.owners),
        code_version=product.VERSION,
        metadata=import_facts(study.imported),
    )


def import_facts(imported: Imported) -> dict[str, MetadataValue]:
    """What the UI says of an imported study wherever its rates are shown."""
    unsupported = "\n".join(f"- {each.what}: {each.why}" for each in imported.not_supported)
    return {
        "imported_from": MetadataValue.text(imported.source),
        "cohort": MetadataValue.text("inherited: imported adapters, not trained here"),
        "measurement_identity": MetadataValue.text(imported.identity_sentence),
        "unknown_conditions": MetadataValue.int(len(imported.unknown_conditions)),
        "not_supported": MetadataValue.md(unsupported or "Nothing is missing."),
        **({} if imported.note is None else {"note": MetadataValue.text(imported.note)}),
    }


def import_metadata(imported: Imported, manifest: Manifest, directory: Path) -> dict[str, MetadataValue]:
    """Metadata of the materialization that the import reports."""
    files = pl.read_parquet(directory / product.SOURCES_FILE)
    return {
        **import_facts(imported),
        "sources": MetadataValue.int(len(imported.personas)),
        "imported_files": table_preview(product.SOURCES_FILE, files),
        **product_links(manifest, directory),
    }


def open_import(data: StudyData) -> tuple[Path, Imported]:
    """Return the verified directory of a study's import.

    Raises:
        LakeError: it is not in this lake, damaged, or another import than the one the study file was written with.
    """
    study, store = data.study, data.products.store
    assert study.imported is not None
    again = f"Run `persona-assets import {study.imported.source} --study {study.name}` again."
    path = data.products.imported_path(study)
    manifest = store.manifest(path)
    if manifest is None:
        raise LakeError(f"{path} is not in the lake {store.root}. {again}")
    if manifest.data_version != study.imported.data_version:
        raise LakeError(f"{path} holds another import than the file of the study {study.name} was written with. {again}")
    return store.open(path), study.imported


def source_rates_tables(data: StudyData) -> Tables:
    """Tables `source_rates`, `cells`, `source_scores`, `measurements` and `not_supported` of an imported study."""
    from persona_assets.statistics.marker_scores import source_scores, with_scores
    from persona_assets.statistics.rates import source_rates

    directory, imported = open_import(data)
    cells = product.imported_cells(directory, data.study.analysis)
    rates = source_rates(cells, product.imported_personas(directory))
    return {
        "source_rates": rates,
        "cells": with_scores(cells, None),
        "source_scores": source_scores(rates, None),
        "measurements": product.imported_measurements(directory, imported),
        "not_supported": product.not_supported_table(imported),
    }


def geometry_tables(data: StudyData) -> Tables:
    """Tables `geometry` and `pairwise_cosines` of an imported study; the latter is empty without centroids."""
    directory, imported = open_import(data)
    geometry, pairs = product.imported_geometry(directory, imported)
    return {"geometry": geometry, "pairwise_cosines": pairs}


def regression_tables(data: StudyData, frames: StudyFrames) -> Tables:
    """Tables `regressions` and `probe` of an imported study."""
    from persona_assets.ancestor.absent import absent_baselines, absent_probe
    from persona_assets.statistics.analysis import Extras, completions_of, regressions

    study, plan = data.study, data.study.analysis
    assert study.imported is not None
    observed = {centring: frames.observations(study.panel.anchor, centring) for centring in frames.centrings()}
    panel = observed["panel"]
    scores = data.table(data.products.source_rates(study), "source_scores")
    table = regressions(observed, plan, completions=completions_of(frames, panel), extras=Extras(scores=scores))
    if panel.prompts is None:
        table = pl.concat([table, absent_baselines(study.imported, panel.n, plan.primary_layers)])
    return {"regressions": table, "probe": absent_probe(study.imported, panel.n, panel.layers)}


def with_prompts(
    study: Study, parent: Study, now: pl.DataFrame, before: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Add each source's system prompt to the conditions that are compared with an imported parent.

    Between studies of one profile a persona has one prompt; an imported one had its own, or one that is not known.

    Args:
        study: the child.
        parent: the imported study.
        now: table `measurements` of the child.
        before: table `measurements` of the parent.

    Returns:
        Both tables with a column `prompt_digest`, null where the prompt is not known.
    """
    assert parent.imported is not None
    prompts = ({persona.id: persona.prompt for persona in study.panel}, parent.imported.prompts)
    one, other = (
        table.with_columns(
            pl.Series(
                "prompt_digest",
                [sha256_text(known[source]) if source in known else None for source in table["source"]],
                dtype=pl.String,
            )
        )
        for table, known in zip((now, before), prompts, strict=True)
    )
    return one, other
