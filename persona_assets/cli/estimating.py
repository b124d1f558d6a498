"""What a study would take: what is missing in the lake, what the lake measured, and the table of the benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from persona_assets.capacity.estimate import (
    OF_STUDIES,
    PULLED,
    SHARED_ASSETS,
    Estimate,
    Keys,
    MeasuredHere,
    estimate,
    table_fits,
)
from persona_assets.capacity.table import ThroughputTable, read_table
from persona_assets.cli.deployment import REPOSITORY
from persona_assets.cli.running import PlannedAsset, plan_study
from persona_assets.store import Manifest, Product

if TYPE_CHECKING:
    from persona_assets.cli.deployment import Deployment
    from persona_assets.study import Study

DEFAULT_TABLE = REPOSITORY / "benchmarks" / "results" / "throughput.json"


def estimate_study(
    deployment: Deployment, study: Study, table_file: Path | None = None, answer_tokens: float | None = None
) -> Estimate:
    """Estimate what is left to do of a study and its ancestors.

    Args:
        deployment: whose lake.
        study: what would be run.
        table_file: throughput table; by default the repository's, where there is one.
        answer_tokens: mean tokens of an answer.

    Raises:
        ConfigurationError: the table given cannot be read.
    """
    table: ThroughputTable | None = None
    if table_file is not None or DEFAULT_TABLE.is_file():
        table = read_table(table_file or DEFAULT_TABLE)
        if table_file is None and not table_fits(table, study.profile.base_model.shape):
            table = None  # the repository's is of one model; a profile of another has nothing to learn from it
    products: dict[tuple[str | None, str], dict[str, Product]] = {}
    for each in (*reversed(study.ancestors), study):
        for stage in plan_study(deployment, each):
            for planned in stage.assets:
                _collect(deployment, planned, each, products)
    order = [*((None, asset) for asset in SHARED_ASSETS), *(key for key in products if key[0] is not None)]
    needed = {key: _keys(deployment, products[key]) for key in order if key in products}
    manifests: dict[str, list[Manifest]] = {}
    for (_, asset), made in products.items():
        found = [deployment.products.store.manifest(path) for path in made]
        manifests.setdefault(asset, []).extend(each for each in found if each is not None and "seconds" in each.facts)
    here = {asset: _sum(found) for asset, found in manifests.items() if found}
    return estimate(study, needed, here, table, answer_tokens)


def _collect(
    deployment: Deployment,
    planned: PlannedAsset,
    study: Study,
    products: dict[tuple[str | None, str], dict[str, Product]],
) -> None:
    """Add the products of an asset by path: studies share some, and a study's plan can name an asset in several parts."""
    catalog = deployment.catalog
    pulled = {deployment.products.adapter(persona, seed).path for persona, seed in catalog.inherited_adapters}
    for make in planned.products.values():
        product = make()
        asset = PULLED if product.path in pulled else product.producer
        if asset in SHARED_ASSETS or asset in OF_STUDIES:
            scope = study.name if asset in OF_STUDIES else None
            products.setdefault((scope, asset), {})[product.path] = product


def _keys(deployment: Deployment, products: Mapping[str, Product]) -> Keys:
    missing = sum(deployment.products.state(product) != "current" for product in products.values())
    return Keys(len(products), missing)


def _sum(manifests: list[Manifest]) -> MeasuredHere:
    def total(name: str) -> float:
        return sum(float(str(manifest.facts[name])) for manifest in manifests if name in manifest.facts)

    completions = total("completions")
    return MeasuredHere(
        keys=len(manifests),
        tokens=round(total("tokens")),
        seconds=total("seconds"),
        bytes=sum(int(file["size"]) for manifest in manifests for file in manifest.files.values()),
        mean_tokens=total("tokens") / completions if completions else None,
        replies=round(total("looked_at")),
    )
