"""Pull and evaluate an inherited adapter when its registry has another version of it."""

# No postponed annotations here: Dagster reads the types off the functions when they are defined.

from collections.abc import Iterator, Mapping
from contextlib import ExitStack

from dagster import (
    AssetKey,
    DefaultSensorStatus,
    RunRequest,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from persona_assets.assets.partitions import seeded, shared_key
from persona_assets.assets.products import Products
from persona_assets.hashing import sha256_json
from persona_assets.registry.base import Registry, RegistryError, RegistryUnavailableError
from persona_assets.registry.reference import Scheme
from persona_assets.study import Study
from resources.adapter_registry import AdapterRegistry
from resources.lake import Lake
from sensors.re_evaluation import RUNS_TAG, TAG
from sensors.requests import StudyJobs, range_requests, unfinished_run

Key = tuple[str, int]


def moving(study: Study) -> list[Key]:
    """Adapters of a study whose reference can name another adapter later: persona and training seed."""
    return [key for key, reference in study.inherited_adapters.items() if not reference.pinned]


def versions_sensor(jobs: StudyJobs, shared: UnresolvedAssetJobDefinition) -> SensorDefinition:
    """Build the sensor that follows the registries of a study's inherited adapters."""
    study, catalog = jobs.study, jobs.catalog

    @sensor(
        name=f"follow_registries_of_{jobs.name}",
        jobs=[shared, jobs.measuring],
        minimum_interval_seconds=600,
        default_status=DefaultSensorStatus.STOPPED,
        description=(
            f"Asks the registries whether the adapters that {study.name} inherited by a reference that moves (a branch, an alias "
            "such as latest, a directory) are other ones now; pulls those past the gate, measures them, and the results follow. "
            "References pinned to a version are never asked. Each version is requested once. Off until you switch it on."
        ),
    )
    def follow_registries(
        context: SensorEvaluationContext, lake: Lake, adapter_registry: AdapterRegistry
    ) -> SensorResult | SkipReason:
        products = Products(catalog, lake)
        if run := unfinished_run(context.instance):
            return SkipReason(f"Run {run} has not finished; the registries are asked afterwards.")
        changed = dict(_changed(context, study, products, adapter_registry))
        requests = _pulls(jobs, shared.name, changed, products) if changed else _measurements(jobs, products)
        if not requests:
            return SkipReason(f"The registries have no adapter for {study.name} that was not pulled and measured.")
        return SensorResult(run_requests=requests)

    return follow_registries


def _changed(
    context: SensorEvaluationContext, study: Study, products: Products, registry: AdapterRegistry
) -> Iterator[tuple[Key, str]]:
    """Pulled adapters whose registry has another digest now, with that digest.

    A tick has a minute: each kind of registry is opened once, and a service that does not answer is asked once.
    """
    silent: set[Scheme] = set()
    with ExitStack() as stack:
        opened: dict[Scheme, Registry] = {}
        for persona, seed in moving(study):
            manifest = products.store.manifest(products.adapter(persona, seed).path)
            reference = study.inherited_adapters[persona, seed]
            if manifest is None or reference.scheme in silent:  # not pulled yet: whoever runs the study pulls it
                continue
            try:
                if reference.scheme not in opened:
                    opened[reference.scheme] = stack.enter_context(registry.opened(reference))
                digest = opened[reference.scheme].resolve(reference).digest
            except RegistryError as error:
                context.log.warning(f"{reference}: {error}")
                if isinstance(error, RegistryUnavailableError) and reference.scheme != "file":  # each is a place of its own
                    silent.add(reference.scheme)
                continue
            if digest != manifest.facts.get("registry_digest"):
                yield (persona, seed), digest


def _pulls(jobs: StudyJobs, job: str, changed: Mapping[Key, str], products: Products) -> list[RunRequest]:
    profile = jobs.catalog.profile.name
    wanted: dict[AssetKey, set[str]] = {}
    config: dict[AssetKey, Mapping[str, object]] = {}
    for seed in jobs.study.seeds:
        personas = {persona for persona, of_seed in changed if of_seed == seed}
        pulled = shared_key(profile, seeded("adapter", seed, jobs.catalog))
        wanted[pulled] = personas
        if not products.swapped:
            wanted[shared_key(profile, seeded("merged_model", seed, jobs.catalog))] = personas
        config[pulled] = {"pull_again": True}
    version = sha256_json(sorted([*key, digest] for key, digest in changed.items()))[:12]
    return range_requests(jobs.study.panel.ids, wanted, job, lambda first, last: f"{version}:{first}-{last}", {}, config)


def _measurements(jobs: StudyJobs, products: Products) -> list[RunRequest]:
    """Measure what was measured with an earlier adapter; the results follow as after a re-evaluation."""
    study = jobs.study
    wanted: dict[AssetKey, set[str]] = {}
    adapters: list[list[object]] = []
    for seed, cells, scores in zip(study.seeds, jobs.cells, jobs.scores, strict=True):
        stale = {
            persona
            for persona, of_seed in moving(study)
            if of_seed == seed and products.state(products.latest_eval_cells(study, persona, seed)) == "stale"
        }
        wanted |= {cells: stale, scores: stale}
        measured = products.adapter if products.swapped else products.merged_model
        there = ((persona, products.store.manifest(measured(persona, seed).path)) for persona in sorted(stale))
        adapters += [[persona, seed, manifest.data_version] for persona, manifest in there if manifest is not None]
    version = sha256_json(adapters)[:12]
    requests = range_requests(
        study.panel.ids,
        wanted,
        jobs.measuring.name,
        lambda first, last: f"{version}:{first}-{last}",
        {TAG: f"{jobs.name}:adapters-{version}"},
    )
    return [request.with_replaced_attrs(tags={**request.tags, RUNS_TAG: str(len(requests))}) for request in requests]
