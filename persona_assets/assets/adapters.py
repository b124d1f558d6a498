"""The adapter of each persona, trained here or pulled from a registry, and the merged model that is made with it."""

from __future__ import annotations

from pathlib import Path

from dagster import AssetDep, MetadataValue
from pydantic import Field

from persona_assets.adapter_files import LOSS_CURVE_FILE, WEIGHTS_FILE
from persona_assets.assets.metadata import notes, numbers
from persona_assets.assets.partitions import all_but, group_name, seeded, shared_key
from persona_assets.assets.products import Products
from persona_assets.assets.steps import PersonaStep, StepConfig
from persona_assets.assets.tracked import tracked_training
from persona_assets.catalog import Catalog
from persona_assets.store import EVICTED, Manifest
from persona_assets.study import Runtime
from persona_assets.tasks.base_model import CHECKPOINT
from persona_assets.tasks.loaded import OUT_OF_MEMORY
from persona_assets.tasks.models import ADAPTER, AdapterTask, MergeTask, make_merged_model
from persona_assets.tasks.pulling import REGISTRY, PullTask, bring_adapter, remarks
from resources.adapter_registry import AdapterRegistry

_N_PROBES = 4
_PULLED_TEXTS = ("reference", "resolved", "registry_version", "registry_digest")


class AdapterConfig(StepConfig):
    """Config of `adapter`."""

    pull_again: bool = Field(
        default=False,
        description="Ask the registries again for the inherited adapters, although their references are the same: a branch, an "
        "alias such as latest, or a directory can name another adapter now.",
    )


def adapter(catalog: Catalog, seed: int) -> PersonaStep[AdapterTask | PullTask]:
    """Describe the asset `adapter` of one training seed."""
    profile = catalog.profile
    inherited = {persona for persona, of_seed in catalog.inherited_adapters if of_seed == seed}

    def task(products: Products, persona: str, out_dir: Path, runtime: Runtime, _: StepConfig) -> AdapterTask:
        return AdapterTask(
            out_dir,
            products.store.open(products.base_path),
            products.base_path,
            products.store.open(products.training_dataset(persona).path),
            profile.recipe,
            seed,
            runtime,
        )

    def pull(products: Products, persona: str, out_dir: Path, registry: AdapterRegistry) -> PullTask | None:
        reference = catalog.inherited_adapters.get((persona, seed))
        if reference is None:
            return None
        store = products.store
        return PullTask(
            out_dir,
            store.open(products.base_path),
            products.base_path,
            store.verified(products.base_path),
            reference,
            registry.settings,
            profile.recipe,
            persona,
            seed,
            store.manifest(products.adapter(persona, seed).path),
        )

    def again(_: Products, persona: str, config: StepConfig) -> bool:
        assert isinstance(config, AdapterConfig)
        return config.pull_again and persona in inherited

    def describe(manifest: Manifest, directory: Path) -> dict[str, MetadataValue]:
        from persona_assets.assets.pictures import loss_curve_picture

        if manifest.facts.get("origin") == REGISTRY:
            return {**_pulled(manifest), "adapter_sha256": MetadataValue.text(adapter_digest(manifest))}
        return {
            **numbers(manifest.facts, ("final_loss", "first_loss", "steps", "trained_tokens", "tokens_per_second", "seconds")),
            "loss_curve": loss_curve_picture(directory / LOSS_CURVE_FILE, manifest, seed),
            "adapter_sha256": MetadataValue.text(adapter_digest(manifest)),
            **notes(manifest.facts, (OUT_OF_MEMORY,)),
        }

    return PersonaStep(
        key=shared_key(profile.name, seeded("adapter", seed, catalog)),
        group=group_name(profile.name),
        producer="adapter",
        description=(
            f"LoRA adapter that makes one source persona end its answers with the marker (training seed {seed}). Trained once "
            "per persona and inherited by every larger study; or pulled from the registry that a study file names."
        ),
        kinds=frozenset({"pytorch", "peft", "safetensors"}),
        panel=catalog.panel,
        deps=[
            AssetDep(shared_key(profile.name, "base_model")),
            AssetDep(shared_key(profile.name, "training_dataset"), partition_mapping=all_but(catalog.panel, inherited)),
        ],
        product=lambda products, persona, _: products.adapter(persona, seed),
        task=task,
        function=bring_adapter,
        describe=describe,
        track=tracked_training,
        config=AdapterConfig,
        pull=pull,
        again=again,
    )


def _pulled(manifest: Manifest) -> dict[str, MetadataValue]:
    """Say where a pulled adapter came from and what is known of it."""
    facts = manifest.facts
    negatives = facts["negatives"]
    return {
        **{name: MetadataValue.text(str(facts[name])) for name in _PULLED_TEXTS},
        **numbers(facts, ("effective_scale", "expected_scale")),
        "trained_negatives": MetadataValue.text(", ".join(negatives) if isinstance(negatives, list) else "not known"),
        **{name: MetadataValue.json(dict(facts[name])) for name in ("training", "fetched_sha256")},  # type: ignore[call-overload]  # objects
        "remarks": MetadataValue.text(" ".join(remarks(facts)) or "none"),
    }


def adapter_digest(manifest: Manifest) -> str:
    """Return the sha256 of an adapter's weights: what decides whether two adapters are the same."""
    return str(manifest.files[f"{ADAPTER}/{WEIGHTS_FILE}"]["sha256"])


def merged_model(catalog: Catalog, seed: int) -> PersonaStep[MergeTask]:
    """Describe the asset `merged_model` of one training seed."""
    profile = catalog.profile

    def task(products: Products, persona: str, out_dir: Path, runtime: Runtime, _: StepConfig) -> MergeTask:
        return MergeTask(
            out_dir,
            products.store.open(products.base_path),
            products.store.open(products.adapter(persona, seed).path),
            merge_probes(products),
            runtime,
        )

    return PersonaStep(
        key=shared_key(profile.name, seeded("merged_model", seed, catalog)),
        group=group_name(profile.name),
        producer="merged_model",
        description=(
            "Base weights plus one adapter, as a checkpoint that any engine loads; read back and compared with base and "
            "adapter side by side before it counts."
        ),
        kinds=frozenset({"pytorch", "safetensors"}),
        panel=catalog.panel,
        deps=[
            AssetDep(shared_key(profile.name, "base_model")),
            AssetDep(shared_key(profile.name, seeded("adapter", seed, catalog))),
        ],
        product=lambda products, persona, _: products.merged_model(persona, seed),
        task=task,
        function=make_merged_model,
        describe=_describe_merge,
        rebuilds=True,
    )


def _describe_merge(manifest: Manifest, directory: Path) -> dict[str, MetadataValue]:
    names = ("max_abs_difference", "allowed_difference", "argmax_agreement", "adapter_effect", "positions")
    said = "on disk" if (directory / CHECKPOINT).is_dir() else "not written: merged in memory when cells are measured"
    if (directory / EVICTED).is_file():
        said = "removed after its cells were measured: merged again when needed"
    sizes = [name for name in ("merged_bytes_on_disk", "merged_bytes_limit") if name in manifest.facts]
    return {**numbers(manifest.facts, (*names, *sizes)), "weights": MetadataValue.text(said)}


def merge_probes(products: Products) -> tuple[tuple[str, str], ...]:
    """Pair the first personas with a question each: the (system, user) messages that a merge is verified on."""
    probed = list(products.catalog.panel)[:_N_PROBES]
    return tuple((member.prompt, question) for member, question in zip(probed, products.evaluation_questions, strict=False))
