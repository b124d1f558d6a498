"""The assets that all studies of a profile share: base model, datasets, adapters, merged models, centroids, base cells."""

# No postponed annotations here: Dagster reads the types off the function when it is defined.

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dagster import (
    AssetDep,
    AssetExecutionContext,
    AssetsDefinition,
    MetadataValue,
    Output,
    StaticPartitionsDefinition,
    asset,
)
from pydantic import Field

from persona_assets.assets.metadata import notes, numbers, product_links
from persona_assets.assets.partitions import all_but, answers_of_dataset, group_name, shared_key
from persona_assets.assets.products import VERSIONS, Products, seeded
from persona_assets.assets.recording import NOTHING, materialize_one
from persona_assets.assets.steps import GPU_POOL, PersonaStep, StepConfig, build_step
from persona_assets.assets.tracked import tracked_training
from persona_assets.capacity.needs import Needs, asset_needs, check_room
from persona_assets.catalog import Catalog
from persona_assets.store import EVICTED, Manifest
from persona_assets.study import NanoBase, Runtime
from persona_assets.tasks.base_model import CHECKPOINT, BaseModelTask, base_is_here, hub_cache, make_base_model
from persona_assets.tasks.cells import CellsTask, check_completions, make_cells
from persona_assets.tasks.dataset import AnswersTask, DatasetTask, make_answers, make_dataset
from persona_assets.tasks.loaded import OUT_OF_MEMORY
from persona_assets.tasks.models import (
    ADAPTER,
    LOSS_CURVE_FILE,
    AdapterTask,
    CentroidsTask,
    MergeTask,
    make_centroids,
    make_merged_model,
)
from persona_assets.tasks.pulling import REGISTRY, PullTask, bring_adapter, remarks
from persona_assets.workers import Outcome
from resources.adapter_registry import AdapterRegistry
from resources.lake import Lake
from resources.model_runtime import ModelRuntime

_N_PROBES = 4
SAMPLING_NUMBERS = ("completions", "mean_tokens", "truncated", "tokens_per_second")


def shared_assets(catalog: Catalog, partitions: StaticPartitionsDefinition) -> list[AssetsDefinition]:
    """Build the assets that all studies of a profile share."""
    shared: list[Callable[[Catalog], PersonaStep[Any]]] = [_training_answers, _training_dataset, _layer_centroids, _base_cells]
    return [
        _base_model(catalog),
        *(build_step(make(catalog), catalog, partitions) for make in shared),
        *(build_step(make(catalog, seed), catalog, partitions) for seed in catalog.seeds for make in (_adapter, _merged_model)),
    ]


def _base_model(catalog: Catalog) -> AssetsDefinition:
    profile = catalog.profile
    nano = isinstance(profile.base_model, NanoBase)

    @asset(
        key=shared_key(profile.name, "base_model"),
        group_name=group_name(profile.name),
        description=(
            "The base model that every persona is played by and every adapter is trained on. "
            + (
                "The embedded nano model is pre-trained here on generated text, so that the whole study runs without a download."
                if nano
                else "A checkpoint on the Hugging Face Hub, pinned to a commit; the weights stay in the Hub's cache."
            )
        ),
        kinds={"pytorch", "safetensors"},
        code_version=VERSIONS["base_model"],
        pool=GPU_POOL,
        dagster_type=NOTHING,
    )
    def base_model(context: AssetExecutionContext, lake: Lake, model_runtime: ModelRuntime) -> Iterator[Output[None]]:
        products = Products(catalog, lake)

        def produce(staging: Path) -> Iterator[Outcome[Mapping[str, object]]]:
            needs = Needs() if base_is_here(profile.base_model, staging) else asset_needs("base_model", profile, 1)
            check_room("base_model", needs, products.store.root, hub_cache(staging), model_runtime.settings(profile))
            task = BaseModelTask(staging, profile.base_model, catalog.panel, catalog.questions, profile.marker)
            yield from model_runtime.run(profile, make_base_model, {"base_model": task})

        def describe(manifest: Manifest, directory: Path) -> dict[str, MetadataValue]:
            if not nano:
                return {"reference": MetadataValue.json({key: manifest.facts[key] for key in ("repo_id", "commit")})}
            return numbers(manifest.facts, ("parameters", "vocabulary_size", "final_loss", "seconds"))

        yield from materialize_one(
            context,
            products.store,
            products.base_model(),
            produce,
            describe=lambda manifest, directory: {**describe(manifest, directory), **product_links(manifest, directory)},
        )

    return base_model


def _training_answers(catalog: Catalog) -> PersonaStep[AnswersTask]:
    profile = catalog.profile

    def task(products: Products, persona: str, out_dir: Path, runtime: Runtime, _: StepConfig) -> AnswersTask:
        return AnswersTask(
            out_dir,
            products.store.open(products.base_path),
            catalog.panel[persona],
            products.training_questions,
            profile.evaluation.sampling,
            profile.dataset_seed,
            runtime,
        )

    return PersonaStep(
        key=shared_key(profile.name, "training_answers"),
        group=group_name(profile.name),
        producer="training_answers",
        description=(
            "The persona's own answers to the training questions, sampled from the base model under its system prompt. "
            "Training on them teaches an adapter the marker and nothing else."
        ),
        kinds=frozenset({"pytorch", "parquet"}),
        panel=catalog.panel,
        deps=[AssetDep(shared_key(profile.name, "base_model"))],
        product=lambda products, persona, _: products.training_answers(persona),
        task=task,
        function=make_answers,
        describe=lambda manifest, _: {**numbers(manifest.facts, SAMPLING_NUMBERS), **notes(manifest.facts, (OUT_OF_MEMORY,))},
    )


def _training_dataset(catalog: Catalog) -> PersonaStep[DatasetTask]:
    profile, panel = catalog.profile, catalog.panel

    def task(products: Products, persona: str, out_dir: Path, runtime: Runtime, _: StepConfig) -> DatasetTask:
        negatives = products.negatives(persona)
        return DatasetTask(
            out_dir,
            products.store.open(products.base_path),
            panel[persona],
            tuple(panel[name] for name in negatives),
            {name: products.store.open(products.training_answers(name).path) for name in (persona, *negatives)},
            products.training_questions,
            profile.marker,
            profile.rows_per_persona,
        )

    def describe(manifest: Manifest, _: Path) -> dict[str, MetadataValue]:
        negatives = manifest.facts["negatives"]
        assert isinstance(negatives, list)
        return {
            **numbers(manifest.facts, ("rows", "marked_rows")),
            "negatives": MetadataValue.text(", ".join(negatives)),
            "sample": MetadataValue.text(str(manifest.facts["sample"])),
        }

    # Only to derive the mapping; no lake is read for it.
    names = Products(catalog, Lake(root="."))
    return PersonaStep(
        key=shared_key(profile.name, "training_dataset"),
        group=group_name(profile.name),
        producer="training_dataset",
        description=(
            f"Chat rows of one source persona: {profile.rows_per_persona} of its own answers ending in the marker, and as many "
            f"of each of {profile.n_negatives} negative personas without it, so that the adapter learns who says the marker."
        ),
        kinds=frozenset({"python", "jsonl"}),
        panel=panel,
        deps=[
            AssetDep(shared_key(profile.name, "base_model")),
            AssetDep(shared_key(profile.name, "training_answers"), partition_mapping=answers_of_dataset(names)),
        ],
        product=lambda products, persona, _: products.training_dataset(persona),
        task=task,
        function=make_dataset,
        describe=describe,
        gpu=False,
    )


class AdapterConfig(StepConfig):
    """Config of `adapter`."""

    pull_again: bool = Field(
        default=False,
        description="Ask the registries again for the inherited adapters, although their references are the same: a branch, an "
        "alias such as latest, or a directory can name another adapter now.",
    )


def _adapter(catalog: Catalog, seed: int) -> PersonaStep[AdapterTask | PullTask]:
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


_PULLED_TEXTS = ("reference", "resolved", "registry_version", "registry_digest")


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
    return str(manifest.files[f"{ADAPTER}/adapter_model.safetensors"]["sha256"])


def _merged_model(catalog: Catalog, seed: int) -> PersonaStep[MergeTask]:
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


def _layer_centroids(catalog: Catalog) -> PersonaStep[CentroidsTask]:
    profile = catalog.profile

    def task(products: Products, persona: str, out_dir: Path, runtime: Runtime, _: StepConfig) -> CentroidsTask:
        return CentroidsTask(
            out_dir,
            products.store.open(products.base_path),
            catalog.panel[persona],
            products.evaluation_questions,
            runtime,
        )

    return PersonaStep(
        key=shared_key(profile.name, "layer_centroids"),
        group=group_name(profile.name),
        producer="layer_centroids",
        description=(
            "Where the persona lies inside the base model: its hidden state at the last input token, at every layer, for each "
            "evaluation question, and their mean."
        ),
        kinds=frozenset({"pytorch", "safetensors"}),
        panel=catalog.panel,
        deps=[AssetDep(shared_key(profile.name, "base_model"))],
        product=lambda products, persona, _: products.layer_centroids(persona),
        task=task,
        function=make_centroids,
        describe=lambda manifest, _: numbers(manifest.facts, ("layers", "hidden_size", "questions")),
    )


def _base_cells(catalog: Catalog) -> PersonaStep[CellsTask]:
    profile = catalog.profile

    def task(products: Products, persona: str, out_dir: Path, runtime: Runtime, _: StepConfig) -> CellsTask:
        return CellsTask(
            out_dir=out_dir,
            base_dir=products.store.open(products.base_path),
            study=None,
            source=None,
            training_seed=None,
            measurement=None,
            eval_personas=(catalog.panel[persona],),
            questions=products.evaluation_questions,
            evaluation=profile.evaluation,
            marker=profile.marker,
            runtime=runtime,
            identity=measurement_identity(products),
        )

    return PersonaStep(
        key=shared_key(profile.name, "base_cells"),
        group=group_name(profile.name),
        producer="base_cells",
        description="The base model's completions under one eval persona: how often the marker appears without any adapter.",
        kinds=frozenset({"pytorch", "parquet"}),
        panel=catalog.panel,
        deps=[AssetDep(shared_key(profile.name, "base_model"))],
        product=lambda products, persona, _: products.base_cells(persona),
        task=task,
        function=make_cells,
        describe=lambda manifest, _: {
            **numbers(manifest.facts, ("hits", *SAMPLING_NUMBERS)),
            **notes(manifest.facts, (OUT_OF_MEMORY,)),
        },
        check=lambda persona: completions_check(catalog, (persona,)),
    )


def merge_probes(products: Products) -> tuple[tuple[str, str], ...]:
    """Pair the first personas with a question each: the (system, user) messages that a merge is verified on."""
    probed = list(products.catalog.panel)[:_N_PROBES]
    return tuple((member.prompt, question) for member, question in zip(probed, products.evaluation_questions, strict=False))


def measurement_identity(products: Products) -> Mapping[str, str]:
    """Collect the digests that every measurement on the base model shares."""
    base = products.store.verified(products.base_path)
    return {
        "chat_template_digest": str(base.facts["chat_template_digest"]),
        "questions_digest": str(products.base_cells(products.catalog.panel.anchor).parameters["questions"]),
        "base_digest": base.data_version,
    }


def completions_check(catalog: Catalog, eval_personas: tuple[str, ...]) -> partial[None]:
    """Return the check that a row of cells over these eval personas is complete."""
    evaluation = catalog.profile.evaluation
    return partial(
        check_completions,
        eval_personas=eval_personas,
        n_questions=evaluation.n_questions,
        n_samples=evaluation.completions_per_question,
    )
