"""What the write-up of a study is made from, gathered from the lake: for the asset, its check and the command line."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from persona_assets.assets.products import TABLE_PRODUCTS, Products
from persona_assets.reporting.writeup import CompletionFiles, Sources, read_figures
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
    rows = {(source, seed): products.latest_eval_cells(study, source, seed) for seed in study.seeds for source in study.panel.ids}
    return Sources(
        study=study,
        tables=tables,
        figures=read_figures(store.open(products.figures(study).path)),
        completions=CompletionFiles({key: store.open(product.path) / COMPLETIONS_FILE for key, product in rows.items()}),
        artifacts=pl.DataFrame(
            list(_artifacts(study, products, tables["measurements"])), schema=["artifact", "path", "digest"], orient="row"
        ),
        asset=f"{products.profile}/{study.name}/clean_result",
    )


def _artifacts(study: Study, products: Products, measurements: pl.DataFrame) -> Iterator[tuple[str, str, str]]:
    store = products.store
    yield "study", f"studies/{products.profile}/{study.name}.yaml", study.digest
    yield "base model", products.base_path, store.verified(products.base_path).data_version
    for name, column in _MEASURED.items():
        for number, digest in enumerate(measurements[column].unique(maintain_order=True).to_list()):
            yield f"{name}, as measured" + (f" ({number + 1})" if number else ""), products.base_path, digest
    for name, make in TABLE_PRODUCTS.items():
        path = make(products, study).path
        yield f"tables {name}", path, store.verified(path).data_version
    figures = products.figures(study).path
    yield "figures", figures, store.verified(figures).data_version
