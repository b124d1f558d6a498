"""The continuous outcome of a study: every source's stored replies, scored under its adapter and under the base model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dagster import AssetDep, AssetsDefinition, MetadataValue, StaticPartitionsDefinition

from persona_assets.assets.adapters import adapter_digest
from persona_assets.assets.cells import measurement_number
from persona_assets.assets.metadata import numbers
from persona_assets.assets.partitions import group_name, same_persona, seeded, shared_key, study_key
from persona_assets.assets.products import Products
from persona_assets.assets.steps import PersonaStep, StepConfig, build_step
from persona_assets.catalog import Catalog
from persona_assets.errors import LakeError
from persona_assets.store import Manifest
from persona_assets.study import Runtime, Study
from persona_assets.tasks.marker_scores import MarkerScoresTask, check_scores, make_marker_scores

_OUTCOMES = ("own_marker_log_prob", "own_marker_margin")


def marker_scores(study: Study, catalog: Catalog, seed: int, partitions: StaticPartitionsDefinition) -> AssetsDefinition:
    """Build a study's `marker_scores` for one training seed."""
    profile = catalog.profile

    def task(products: Products, source: str, out_dir: Path, runtime: Runtime, _: StepConfig) -> MarkerScoresTask:
        store = products.store
        cells = store.verified(products.latest_eval_cells(study, source, seed).path)
        adapter = store.verified(products.adapter(source, seed).path)
        check_drawn_with(cells, adapter_digest(adapter), store.verified(products.base_path).data_version)
        prompts = cells.parameters["eval_personas"]
        assert isinstance(prompts, Mapping)
        return MarkerScoresTask(
            out_dir=out_dir,
            base_dir=store.directory(products.base_path),
            adapter=store.directory(adapter.path),
            completions=store.directory(cells.path),
            source=source,
            prompts=dict(prompts),
            marker=profile.marker,
            bystander_replies=profile.scoring.bystander_replies_per_cell,
            runtime=runtime,
        )

    def describe(manifest: Manifest, _: Path) -> Mapping[str, MetadataValue]:
        scored = [name for name in _OUTCOMES if manifest.facts[name] is not None]
        return {
            **numbers(manifest.facts, (*scored, "scored", "truncated", "too_long", "tokenised_otherwise", "replies_per_second")),
            "measurement": MetadataValue.int(measurement_number(manifest)),
        }

    return build_step(
        PersonaStep(
            key=study_key(profile.name, study.name, seeded("marker_scores", seed, catalog)),
            group=group_name(profile.name, study.name),
            producer="marker_scores",
            description=(
                "The continuous outcome: log probability of the marker at the end of each stored reply, and of the end of the "
                "turn at the same place, under the source persona's adapter and under the base model, by one forward pass "
                "each. Nothing is sampled."
            ),
            kinds=frozenset({"pytorch", "parquet"}),
            panel=study.panel,
            deps=[
                AssetDep(shared_key(profile.name, "base_model")),
                AssetDep(
                    shared_key(profile.name, seeded("adapter", seed, catalog)),
                    partition_mapping=same_persona(catalog.panel, study.panel),
                ),
                AssetDep(study_key(profile.name, study.name, seeded("eval_cells", seed, catalog))),
            ],
            product=lambda products, source, _: products.latest_marker_scores(study, source, seed),
            task=task,
            function=make_marker_scores,
            describe=describe,
            check=lambda _: check_scores,
            owners=study.owners,
        ),
        catalog,
        partitions,
    )


def check_drawn_with(cells: Manifest, adapter: str, base: str) -> None:
    """Check that completions were drawn with the adapter and the base model that are to score them.

    Raises:
        LakeError: they were drawn with others: scores of another model's replies would look like any others.
    """
    identity = cells.facts["identity"]
    assert isinstance(identity, Mapping)
    for what, now, then in (("adapter", adapter, identity["adapter_digest"]), ("base model", base, identity["base_digest"])):
        if now != then:
            raise LakeError(
                f"{cells.path}: its completions were drawn with another {what} ({str(then)[:12]}…) than there is now "
                f"({now[:12]}…). Materialize eval_cells, which measures again, then score."
            )
