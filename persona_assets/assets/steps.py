"""Build a partitioned asset from what is particular to it: products, tasks, metadata."""

# No postponed annotations here: Dagster reads the config class off the function when it is defined.

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from dagster import (
    AssetDep,
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    BackfillPolicy,
    Config,
    MetadataValue,
    Output,
    StaticPartitionsDefinition,
    asset,
)

from persona_assets.assets.metadata import file_columns, product_links
from persona_assets.assets.producers import VERSIONS
from persona_assets.assets.products import Products
from persona_assets.assets.recording import NOTHING, materialize_keys, partition_keys, said_in_words
from persona_assets.capacity.needs import asset_needs, check_room
from persona_assets.catalog import Catalog
from persona_assets.errors import LakeError
from persona_assets.panel import Panel
from persona_assets.store import Manifest, Product
from persona_assets.study import Runtime
from persona_assets.tasks.pulling import PullTask, remarks
from persona_assets.tracking import TrackedRun
from persona_assets.workers import Outcome
from resources.adapter_registry import AdapterRegistry
from resources.lake import Lake
from resources.model_runtime import ModelRuntime
from resources.tracker import Tracker

TaskT = TypeVar("TaskT")

GPU_POOL = "gpu"


class StepConfig(Config):
    """Config of a partitioned asset; most have no field."""


@dataclass(frozen=True)
class PersonaStep(Generic[TaskT]):
    """What is particular to one partitioned asset.

    Attributes:
        key: the asset's key.
        group: its group in the UI.
        producer: name of its function in `VERSIONS`.
        description: what it is and what it is for.
        kinds: at most three words that the UI shows as tags.
        panel: whose personas are its partitions.
        deps: what it reads.
        product: product of a persona.
        task: what to run for a persona, given its staging directory and the runtime.
        function: runs a task and returns facts.
        describe: metadata from the manifest and the product's directory.
        check: gives the function that reads a persona's staged product back and raises when it is not what it should be.
        gpu: whether it occupies the GPU.
        replace: False when its products are never overwritten.
        rebuilds: whether weights that were evicted are written again where the policy is to keep them.
        recorded: called for each key once it is recorded.
        config: typed fields of the launchpad.
        owners: who answers for it.
        pull: gives the task that brings a persona's product from a registry instead; None when it is made here.
        again: says whether a product is brought anew although nothing is known to have changed.
        definition_metadata: metadata that describes the definition rather than a materialization.
    """

    key: AssetKey
    group: str
    producer: str
    description: str
    kinds: frozenset[str]
    panel: Panel
    deps: Sequence[AssetDep]
    product: Callable[[Products, str, StepConfig], Product]
    task: Callable[[Products, str, Path, Runtime, StepConfig], TaskT]
    function: Callable[[TaskT], Mapping[str, object]]
    describe: Callable[[Manifest, Path], Mapping[str, MetadataValue]]
    check: Callable[[str], Callable[[Path], None]] | None = None
    track: Callable[[Manifest, Path], TrackedRun | None] | None = None
    gpu: bool = True
    replace: bool = True
    rebuilds: bool = False
    recorded: Callable[[Products, str, Runtime], None] | None = None
    config: type[StepConfig] = StepConfig
    owners: Sequence[str] = ()
    pull: Callable[[Products, str, Path, AdapterRegistry], TaskT | None] | None = None
    again: Callable[[Products, str, StepConfig], bool] | None = None
    definition_metadata: Mapping[str, Any] = field(default_factory=dict)


def build_step(step: PersonaStep[Any], catalog: Catalog, partitions: StaticPartitionsDefinition) -> AssetsDefinition:
    """Turn a step into a Dagster asset."""

    @asset(
        key=step.key,
        group_name=step.group,
        description=step.description,
        kinds=set(step.kinds),
        code_version=VERSIONS[step.producer],
        owners=list(step.owners),
        partitions_def=partitions,
        backfill_policy=BackfillPolicy.single_run(),
        pool=GPU_POOL if step.gpu else None,
        deps=step.deps,
        metadata=dict(step.definition_metadata),
        output_required=True,
        dagster_type=NOTHING,
    )
    def _asset(
        context: AssetExecutionContext,
        config: step.config,  # type: ignore[name-defined]  # read when the function is defined
        lake: Lake,
        model_runtime: ModelRuntime,
        tracker: Tracker,
        adapter_registry: AdapterRegistry,
    ) -> Iterator[Output[None]]:
        products = Products(catalog, lake)
        with said_in_words(context.asset_key.path[-1]):
            runtime = model_runtime.settings(catalog.profile)
            wanted = {key: step.product(products, key, config) for key in partition_keys(context, step.panel.ids)}

        def produce(staging: Mapping[str, Path]) -> Iterator[Outcome[Mapping[str, object]]]:
            tasks = {}
            for key, directory in staging.items():
                try:
                    pulled = None if step.pull is None else step.pull(products, key, directory, adapter_registry)
                    tasks[key] = step.task(products, key, directory, runtime, config) if pulled is None else pulled
                except LakeError as error:  # one key's input is damaged; the others go on
                    yield Outcome(key, error=str(error))
            made_here = sum(not isinstance(task, PullTask) for task in tasks.values())
            if made_here:  # pulling needs no room to speak of
                needs = asset_needs(step.producer, catalog.profile, made_here, len(step.panel))
                with said_in_words(step.producer):
                    check_room(step.producer, needs, products.store.root, None, runtime)
            for outcome in model_runtime.run(catalog.profile, step.function, tasks):
                for sentence in remarks(outcome.result):
                    context.log.warning(f"{outcome.key}: {sentence}")
                yield outcome

        def describe(key: str, manifest: Manifest, directory: Path) -> dict[str, MetadataValue]:
            table = file_columns(directory) if "parquet" in step.kinds else {}
            return {**step.describe(manifest, directory), **table, **product_links(manifest, directory)}

        with tracker.open(context.log.warning) as log:

            def made(_: str, manifest: Manifest, directory: Path) -> None:
                if step.track is not None:
                    log(partial(step.track, manifest, directory))

            yield from materialize_keys(
                context,
                products.store,
                wanted,
                produce,
                describe=describe,
                check=step.check,
                replace=step.replace,
                made=made,
                whole=step.rebuilds and runtime.merged_weights == "kept",
                again=lambda key: step.again is not None and step.again(products, key, config),
                recorded=lambda key: None if step.recorded is None else step.recorded(products, key, runtime),
            )

    return _asset
