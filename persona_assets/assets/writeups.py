"""What the write-up of a study is made from, gathered from the lake: for the asset, its check and the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from persona_assets.ancestor.product import completions_file
from persona_assets.assets.products import TABLE_PRODUCTS, Products, table_names
from persona_assets.reporting.writeup import CompletionFiles, Sources, read_figures
from persona_assets.statistics.tidy import TIDY_SCHEMA
from persona_assets.study import Study
from persona_assets.tasks.cells import COMPLETIONS_FILE
from resources.warehouse import Warehouse

_MEASURED = {
    "base weights": "base_digest",
    "chat template": "chat_template_digest",
    "evaluation questions": "questions_digest",
}


def writeup_sources(study: Study, products: Products, warehouse: Warehouse) -> Sources:
    """Gather tables, figures, completions and digests of a study.

    Raises:
        LakeError: a product is missing or damaged; the message names it.
        WriteUpError: the study lacks a table.
    """
    store = products.store
    tables = warehouse.tables(products.table_paths(study))
    if study.imported is not None:
        tables.setdefault("off_diagonal", pl.DataFrame(schema=TIDY_SCHEMA))  # not supported by every import
    return Sources(
        study=study,
        tables=tables,
        figures=read_figures(store.open(products.figures(study).path)),
        completions=CompletionFiles(_completions(study, products)),
        artifacts=pl.DataFrame(
            list(_artifacts(study, products, tables["measurements"])), schema=["artifact", "path", "digest"], orient="row"
        ),
        asset=f"{products.profile}/{study.name}/clean_result",
    )


def _completions(study: Study, products: Products) -> dict[tuple[str, int], Path]:
    keys = [(source, seed) for seed in study.seeds for source in study.panel.ids]
    if study.imported is not None:
        directory = products.store.open(products.imported_path(study))
        files = {key: directory / completions_file(*key) for key in keys}
        return {key: file for key, file in files.items() if file.is_file()}
    return {key: products.store.open(products.latest_eval_cells(study, *key).path) / COMPLETIONS_FILE for key in keys}


def _artifacts(study: Study, products: Products, measurements: pl.DataFrame) -> Iterator[tuple[str, str, str]]:
    store = products.store
    yield "study", f"studies/{products.profile}/{study.name}.yaml", study.digest
    made_of = products.base_path if study.imported is None else products.imported_path(study)
    yield ("base model" if study.imported is None else "import"), made_of, store.verified(made_of).data_version
    for name, column in _MEASURED.items():
        for number, digest in enumerate(measurements[column].unique(maintain_order=True).to_list()):
            yield f"{name}, as measured" + (f" ({number + 1})" if number else ""), made_of, digest
    for name in table_names(study):
        path = TABLE_PRODUCTS[name](products, study).path
        yield f"tables {name}", path, store.verified(path).data_version
    figures = products.figures(study).path
    yield "figures", figures, store.verified(figures).data_version
