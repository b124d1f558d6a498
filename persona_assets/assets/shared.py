"""The assets that all studies of a profile share: base model, training answers and datasets, centroids, base cells.

Adapters and merged models, which exist once per training seed, are described in `adapters.py`.
"""

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

from persona_assets.assets.adapters import adapter, merged_model
from persona_assets.assets.metadata import notes, numbers, product_links
from persona_assets.assets.partitions import answers_of_dataset, group_name, shared_key
from persona_assets.assets.producers import VERSIONS
from persona_assets.assets.products import Products
from persona_assets.assets.recording import NOTHING, materialize_one
from persona_assets.assets.steps import GPU_POOL, PersonaStep, StepConfig, build_step
from persona_assets.capacity.needs import Needs, asset_needs, check_room
from persona_assets.catalog import Catalog
from persona_assets.store import Manifest
from persona_assets.study import NanoBase, Runtime
from persona_assets.tasks.base_model import BaseModelTask, base_is_here, hub_cache, make_base_model
from persona_assets.tasks.cells import CellsTask, check_completions, make_cells
from persona_assets.tasks.dataset import AnswersTask, DatasetTask, make_answers, make_dataset
from persona_assets.tasks.loaded import OUT_OF_MEMORY
from persona_assets.tasks.models import (
    CentroidsTask,
    make_centroids,
)
from persona_assets.workers import Outcome
from resources.lake import Lake
from resources.model_runtime import ModelRuntime

SAMPLING_NUMBERS = ("completions", "mean_tokens", "truncated", "tokens_per_second")


def shared_assets(catalog: Catalog, partitions: StaticPartitionsDefinition) -> list[AssetsDefinition]:
    """Build the assets that all studies of a profile share."""
    shared: list[Callable[[Catalog], PersonaStep[Any]]] = [_training_answers, _training_dataset, _layer_centroids, _base_cells]
    return [
        _base_model(catalog),
        *(build_step(make(catalog), catalog, partitions) for make in shared),
        *(build_step(make(catalog, seed), catalog, partitions) for seed in catalog.seeds for make in (adapter, merged_model)),
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
