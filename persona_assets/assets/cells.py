"""The eval cells of a study: every source's adapter under every eval persona of the panel."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from dagster import AssetDep, AssetsDefinition, MetadataValue, StaticPartitionsDefinition
from pydantic import Field

from persona_assets.assets.adapters import adapter_digest
from persona_assets.assets.metadata import notes, numbers
from persona_assets.assets.partitions import group_name, same_persona, seeded, shared_key, study_key
from persona_assets.assets.products import Products
from persona_assets.assets.shared import SAMPLING_NUMBERS, completions_check, measurement_identity
from persona_assets.assets.steps import PersonaStep, StepConfig, build_step
from persona_assets.assets.tracked import tracked_evaluation
from persona_assets.catalog import Catalog
from persona_assets.errors import ConfigurationError
from persona_assets.store import Manifest, Product, Store
from persona_assets.study import Runtime, Study
from persona_assets.tasks.base_model import CHECKPOINT
from persona_assets.tasks.cells import CellsTask, make_cells
from persona_assets.tasks.loaded import OUT_OF_MEMORY
from persona_assets.tasks.models import ADAPTER


class EvalCellsConfig(StepConfig):
    """Config of `eval_cells`."""

    new_measurement: bool = Field(
        default=False, description="Measure again although nothing changed: adds measurement n+1, the earlier ones stay."
    )
    unless_measured_since: str | None = Field(
        default=None,
        description="With new_measurement: leave out sources measured since this time (ISO 8601 with an offset), so that a "
        "repeated run does what the first one did not.",
    )

    def wants_again(self, latest: Manifest | None) -> bool:
        """Say whether a source is to be measured again, given its latest measurement.

        Raises:
            ConfigurationError: what is given as a time is none, or has no offset.
        """
        since = self._since()
        if not self.new_measurement or since is None or latest is None:
            return self.new_measurement
        return datetime.fromisoformat(latest.made_at) < since

    def _since(self) -> datetime | None:
        if self.unless_measured_since is None:
            return None
        with suppress(ValueError):
            since = datetime.fromisoformat(self.unless_measured_since)
            if since.tzinfo is not None:
                return since
        raise ConfigurationError(
            f"unless_measured_since: {self.unless_measured_since!r} is no time with an offset. "
            "Write it like 2026-11-23T06:00:00+00:00."
        )


def eval_cells(study: Study, catalog: Catalog, seed: int, partitions: StaticPartitionsDefinition) -> AssetsDefinition:
    """Build a study's `eval_cells` for one training seed."""
    profile, panel = catalog.profile, study.panel
    swapped = profile.runtime.weights == "swapped"

    def product(products: Products, source: str, config: StepConfig) -> Product:
        assert isinstance(config, EvalCellsConfig)
        latest = products.store.manifest(products.latest_eval_cells(study, source, seed).path)
        return products.next_eval_cells(study, source, seed, again=config.wants_again(latest))

    def task(products: Products, source: str, out_dir: Path, runtime: Runtime, config: StepConfig) -> CellsTask:
        store = products.store
        adapter, merged = products.adapter(source, seed).path, products.merged_model(source, seed).path
        weights = (
            {"merged": store.open(merged) / CHECKPOINT}
            if not swapped and has_weights(store, merged)
            else {"adapter": store.open(adapter) / ADAPTER}
        )
        return CellsTask(
            out_dir=out_dir,
            base_dir=store.open(products.base_path),
            study=study.name,
            source=source,
            training_seed=seed,
            measurement=measurement_number(product(products, source, config)),
            eval_personas=panel.personas,
            questions=study.evaluation_questions,
            evaluation=study.evaluation,
            marker=profile.marker,
            runtime=runtime,
            identity={
                **measurement_identity(products),
                "adapter_digest": adapter_digest(store.verified(adapter)),
                "study_plan": study.plan,
            },
            **weights,
        )

    def describe(manifest: Manifest, _: Path) -> Mapping[str, MetadataValue]:
        return {
            **numbers(manifest.facts, ("source_rate", "bystander_rate", "hits", *SAMPLING_NUMBERS)),
            **notes(manifest.facts, (OUT_OF_MEMORY,)),
            "measurement": MetadataValue.int(measurement_number(manifest)),
        }

    def recorded(products: Products, source: str, runtime: Runtime) -> None:
        if runtime.merged_weights == "until_evaluated" and not swapped:
            evict_weights(products.store, products.merged_model(source, seed).path, f"the cells of {study.name} are measured")

    return build_step(
        PersonaStep(
            key=study_key(profile.name, study.name, seeded("eval_cells", seed, catalog)),
            group=group_name(profile.name, study.name),
            producer="eval_cells",
            description=(
                f"Every completion of one source persona's adapter under each of the {len(panel)} eval personas, with its "
                "token count, finish reason and measurement identity. Measurements are added, never replaced."
            ),
            kinds=frozenset({"pytorch", "parquet"}),
            panel=panel,
            deps=[
                AssetDep(shared_key(profile.name, "base_model")),
                *(
                    AssetDep(
                        shared_key(profile.name, seeded(name, seed, catalog)),
                        partition_mapping=same_persona(catalog.panel, panel),
                    )
                    for name in (("adapter",) if swapped else ("adapter", "merged_model"))
                ),
            ],
            product=product,
            task=task,
            function=make_cells,
            describe=describe,
            track=tracked_evaluation,
            check=lambda _: completions_check(catalog, panel.ids),
            replace=False,
            config=EvalCellsConfig,
            recorded=recorded,
            owners=study.owners,
        ),
        catalog,
        partitions,
    )


def has_weights(store: Store, merged_model: str) -> bool:
    """Say whether a merged model's weights are on disk; they may never have been written, or be evicted.

    Raises:
        LakeError: the merged model is missing or damaged.
    """
    store.verified(merged_model)
    return bool(_weights(store, merged_model)) and not store.evicted(merged_model)


def evict_weights(store: Store, merged_model: str, why: str) -> None:
    """Remove a merged model's weights, if they are on disk."""
    gone = store.evicted(merged_model)
    there = [name for name in _weights(store, merged_model) if name not in gone]
    if there:
        store.evict(merged_model, there, why)


def _weights(store: Store, merged_model: str) -> list[str]:
    manifest = store.manifest(merged_model)
    return [] if manifest is None else [name for name in manifest.files if name.endswith(".safetensors")]


def measurement_number(product: Product | Manifest) -> int:
    """Read the number of a measurement off its product."""
    number = product.parameters["measurement"]
    assert isinstance(number, int)
    return number
