"""What a study would take: what is missing in the lake, what the lake measured, and the table of the benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from persona_assets.capacity.estimate import SHARED_ASSETS, Estimate, MeasuredHere, estimate, table_fits
from persona_assets.capacity.table import ThroughputTable, read_table
from persona_assets.cli.deployment import REPOSITORY
from persona_assets.cli.running import PlannedAsset, plan_study
from persona_assets.store import Manifest

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
    missing: dict[tuple[str | None, str], int] = {}
    manifests: dict[str, list[Manifest]] = {}
    for each in (*reversed(study.ancestors), study):
        for stage in plan_study(deployment, each):
            for planned in stage.assets:
                _count(deployment, planned, each, missing, manifests)
    order = [*((None, asset) for asset in SHARED_ASSETS), *(key for key in missing if key[0] is not None)]
    ordered = {key: missing[key] for key in order if key in missing}
    here = {asset: _sum(found) for asset, found in manifests.items() if found}
    return estimate(study, ordered, here, table, answer_tokens)


def _count(
    deployment: Deployment,
    planned: PlannedAsset,
    study: Study,
    missing: dict[tuple[str | None, str], int],
    manifests: dict[str, list[Manifest]],
) -> None:
    products = deployment.products
    made = [make() for make in planned.products.values()]
    asset = made[0].producer
    if asset not in (*SHARED_ASSETS, "eval_cells"):
        return
    scope = study.name if asset == "eval_cells" else None
    count = sum(products.state(product) != "current" for product in made)
    # Shared work is counted once: the largest panel, the last in the lineage, has all of it. Seeds are assets of their own.
    seeds_before = missing.get((scope, asset), 0) if planned.key.path[-1] != asset else 0
    missing[scope, asset] = seeds_before + count
    found = {product.path: products.store.manifest(product.path) for product in made}
    known = {manifest.path for manifest in manifests.setdefault(asset, [])}
    manifests[asset] += [
        manifest for path, manifest in found.items() if manifest is not None and path not in known and "seconds" in manifest.facts
    ]


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
    )
