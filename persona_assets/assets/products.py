"""Which product each asset writes: its place, what its fingerprint covers and which products it reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from persona_assets.catalog import Catalog
from persona_assets.dataset import NEGATIVES_ALGORITHM, draw_negatives, negative_candidates
from persona_assets.hashing import sha256_json
from persona_assets.registry.gate_cases import GATE_VERSION
from persona_assets.store import Product, State, Store
from persona_assets.study import NanoBase, Study
from resources.lake import Lake

# Raise a producer's version when its results change: what it made before is then stale.
VERSIONS = {
    "base_model": "1",
    "training_answers": "1",
    "training_dataset": "1",
    "adapter": "1",
    "merged_model": "1",
    "layer_centroids": "1",
    "base_cells": "1",
    "engine_parity": "1",
    "eval_cells": "1",
    "marker_scores": "1",
    "source_rates": "2",
    "geometry": "1",
    "regressions": "3",
    "off_diagonal": "1",
    "power": "1",
    "attenuation": "1",
    "gates": "2",
    "inherited_drift": "2",
    "remeasurement_drift": "1",
    "retest": "1",
    "figures": "3",
    "clean_result": "2",
    "overview": "1",
    "warehouse": "1",
    "publication": "1",
}


_PARITY_SOURCES = 2


def seeded(asset: str, seed: int, catalog: Catalog) -> str:
    """Name of an asset that exists once per training seed; the profile's first seed has the plain name."""
    return asset if seed == catalog.seeds[0] else f"{asset}_seed{seed}"


@dataclass(frozen=True)
class Products:
    """The products of one profile and its studies."""

    catalog: Catalog
    lake: Lake

    @property
    def profile(self) -> str:
        """The profile's name."""
        return self.catalog.profile.name

    @property
    def store(self) -> Store:
        """The lake's store."""
        return self.lake.store

    @property
    def base_path(self) -> str:
        """Place of the base model."""
        return self.lake.base_model(self.profile)

    def base_model(self) -> Product:
        """The base model's checkpoint, or its pinned reference."""
        base = self.catalog.profile.base_model
        if isinstance(base, NanoBase):
            from persona_assets.models.nano import nano_inputs

            parameters = nano_inputs(self.catalog.panel, self.catalog.questions, base)
        else:
            parameters = base.reference
        return _product(self.base_path, "base_model", parameters)

    def negatives(self, source: str) -> tuple[str, ...]:
        """The personas whose rows a source's training dataset holds without the marker."""
        profile, panel = self.catalog.profile, self.catalog.panel
        candidates = negative_candidates(
            panel.ids[: profile.negatives_panel_size], source, panel.anchor, profile.negatives_exclude
        )
        return draw_negatives(source, candidates, profile.n_negatives, profile.dataset_seed)

    def trained_here(self, persona: str, seeds: Sequence[int]) -> bool:
        """Say whether a persona's adapter of any of these training seeds is trained here, not pulled from a registry."""
        return any((persona, seed) not in self.catalog.inherited_adapters for seed in seeds)

    def training_personas(self, study: Study) -> tuple[list[str], list[str]]:
        """Personas of a study whose training answers are needed, and those whose adapters are trained here, in panel order.

        An adapter that is pulled needs no training data; only the answers of those that are negatives of others.
        """
        trained = [persona for persona in study.panel.ids if self.trained_here(persona, study.seeds)]
        answering = {persona for source in trained for persona in (source, *self.negatives(source))}
        return [persona for persona in study.panel.ids if persona in answering], trained

    def known_negatives(self, source: str, seeds: Sequence[int]) -> tuple[str, ...] | None:
        """The trained negatives of a source's adapters; None when they are not known.

        Those of a pulled adapter are what came with it says, and never guessed; seeds that disagree leave them unknown.
        """
        found: set[tuple[str, ...] | None] = set()
        for seed in seeds:
            if (source, seed) not in self.catalog.inherited_adapters:
                found.add(self.negatives(source))
                continue
            manifest = self.store.manifest(self.adapter(source, seed).path)
            told = None if manifest is None else manifest.facts.get("negatives")
            found.add(tuple(sorted(map(str, told))) if isinstance(told, list) else None)
        return found.pop() if len(found) == 1 else None

    @property
    def training_questions(self) -> tuple[str, ...]:
        """The questions that every persona's training answers belong to."""
        return self.catalog.questions.training[: self.catalog.profile.rows_per_persona]

    def training_answers(self, persona: str) -> Product:
        """A persona's own answers to the training questions, sampled from the base model."""
        profile = self.catalog.profile
        return _product(
            self.lake.by_persona(self.profile, "training_answers", persona),
            "training_answers",
            {
                "prompt": self.catalog.panel[persona].prompt,
                "questions": sha256_json(list(self.training_questions)),
                "sampling": profile.evaluation.sampling.model_dump(mode="json"),
                "seed": profile.dataset_seed,
                **self._generation(),
            },
            self.base_path,
        )

    def training_dataset(self, persona: str) -> Product:
        """A source persona's chat rows."""
        profile = self.catalog.profile
        negatives = self.negatives(persona)
        return _product(
            self.lake.by_persona(self.profile, "training_dataset", persona),
            "training_dataset",
            {
                "marker": profile.marker,
                "source": persona,
                "negatives": list(negatives),
                "negatives_algorithm": NEGATIVES_ALGORITHM,
                "prompts": {name: self.catalog.panel[name].prompt for name in (persona, *negatives)},
                "rows_per_persona": profile.rows_per_persona,
                "seed": profile.dataset_seed,
            },
            self.base_path,
            *(self.training_answers(name).path for name in (persona, *negatives)),
        )

    def adapter(self, persona: str, seed: int) -> Product:
        """A source persona's LoRA adapter under one training seed: trained here, or pulled from a registry."""
        profile = self.catalog.profile
        reference = self.catalog.inherited_adapters.get((persona, seed))
        if reference is not None:
            return _product(
                self.lake.by_seed(self.profile, "adapter", seed, persona),
                "adapter",
                {
                    "reference": str(reference),
                    "seed": seed,
                    "target_modules": sorted(profile.recipe.target_modules),
                    "gate": GATE_VERSION,
                },
                self.base_path,
            )
        return _product(
            self.lake.by_seed(self.profile, "adapter", seed, persona),
            "adapter",
            {
                "recipe": profile.recipe.model_dump(mode="json"),
                "seed": seed,
                "dtype": profile.runtime.dtype,
                "micro_batch_size": profile.runtime.micro_batch_size,
                **profile.runtime.model_dump(include={"micro_batch_tokens"}, exclude_none=True),
                "threads": profile.runtime.threads,
            },
            self.base_path,
            self.training_dataset(persona).path,
        )

    def merged_model(self, persona: str, seed: int) -> Product:
        """Base weights plus one adapter."""
        return _product(
            self.lake.by_seed(self.profile, "merged_model", seed, persona),
            "merged_model",
            {"dtype": self.catalog.profile.runtime.dtype},
            self.base_path,
            self.adapter(persona, seed).path,
        )

    def layer_centroids(self, persona: str) -> Product:
        """A persona's centroid at every layer of the base model, and the vectors it averages."""
        profile = self.catalog.profile
        return _product(
            self.lake.by_persona(self.profile, "layer_centroids", persona),
            "layer_centroids",
            {
                "prompt": self.catalog.panel[persona].prompt,
                "questions": sha256_json(list(self.evaluation_questions)),
                "dtype": profile.runtime.dtype,
                "threads": profile.runtime.threads,
            },
            self.base_path,
        )

    @property
    def evaluation_questions(self) -> tuple[str, ...]:
        """The questions that cells are measured on."""
        return self.catalog.questions.evaluation[: self.catalog.profile.evaluation.n_questions]

    def base_cells(self, persona: str) -> Product:
        """The base model's completions under one eval persona."""
        return _product(
            self.lake.by_persona(self.profile, "base_cells", persona),
            "base_cells",
            {"prompt": self.catalog.panel[persona].prompt, **self._measurement()},
            self.base_path,
        )

    def engine_parity(self) -> Product:
        """The comparison of engines; another vLLM, or none, makes it another product."""
        from persona_assets.generation.vllm_engine import vllm_version

        sources, others = parity_personas(self.catalog)
        runtime = self.catalog.profile.runtime
        return _product(
            self.lake.engine_parity(self.profile),
            "engine_parity",
            {
                "sources": list(sources),
                "eval_personas": {persona: self.catalog.panel[persona].prompt for persona in (*sources, *others)},
                "vllm_version": vllm_version(),
                "vllm": runtime.vllm.fingerprint(),
                **self._measurement(),
            },
            self.base_path,
            *(self.adapter(source, self.catalog.seeds[0]).path for source in sources),
        )

    def eval_cells(self, study: Study, source: str, seed: int, measurement: int) -> Product:
        """One measurement of a source's row of cells."""
        return _product(
            self.lake.measurement(self.profile, study.name, seed, source, measurement),
            "eval_cells",
            {
                "study": study.name,
                "measurement": measurement,
                "eval_personas": {persona.id: persona.prompt for persona in study.panel},
                "weights": self.catalog.profile.runtime.weights,
                **self._measurement(),
            },
            self.base_path,
            (self.adapter if self.swapped else self.merged_model)(source, seed).path,
        )

    @property
    def swapped(self) -> bool:
        """Whether eval cells read base and adapter, so that no merged model is needed."""
        return self.catalog.profile.runtime.weights == "swapped"

    def latest_eval_cells(self, study: Study, source: str, seed: int) -> Product:
        """The latest measurement there is, or the first one to be made."""
        number = self.lake.latest_measurement(self.profile, study.name, seed, source)
        return self.eval_cells(study, source, seed, max(number, 1))

    def next_eval_cells(self, study: Study, source: str, seed: int, *, again: bool) -> Product:
        """The measurement a run has to make: the latest one while it is current, else one more."""
        latest = self.latest_eval_cells(study, source, seed)
        number = self.lake.latest_measurement(self.profile, study.name, seed, source)
        if number == 0 or (self.state(latest) == "current" and not again):
            return latest
        return self.eval_cells(study, source, seed, number + 1)

    def measured_cells(self, study: Study) -> tuple[Product, ...]:
        """Every measurement of the study that is in the lake, by seed, source and number."""
        return tuple(
            self.eval_cells(study, source, seed, number)
            for seed in study.seeds
            for source in study.panel.ids
            for number in self.lake.measurement_numbers(self.profile, study.name, seed, source)
        )

    def marker_scores(self, study: Study, source: str, seed: int, measurement: int) -> Product:
        """Scores of the completions of one measurement."""
        profile = self.catalog.profile
        return _product(
            self.lake.marker_scores(self.profile, study.name, seed, source, measurement),
            "marker_scores",
            {
                "study": study.name,
                "measurement": measurement,
                "marker": profile.marker,
                "scoring": profile.scoring.model_dump(mode="json"),
                "dtype": profile.runtime.dtype,
                "threads": profile.runtime.threads,
            },
            self.base_path,
            self.adapter(source, seed).path,
            self.eval_cells(study, source, seed, measurement).path,
        )

    def latest_marker_scores(self, study: Study, source: str, seed: int) -> Product:
        """Scores of the latest measurement there is, or of the first one to be made."""
        number = self.lake.latest_measurement(self.profile, study.name, seed, source)
        return self.marker_scores(study, source, seed, max(number, 1))

    def scores_there(self, study: Study) -> tuple[Product, ...]:
        """Scores of the latest measurements that are in the lake: no table needs them, those that can use them do."""
        rows = (self.latest_marker_scores(study, source, seed) for seed in study.seeds for source in study.panel.ids)
        return tuple(product for product in rows if self.store.manifest(product.path) is not None)

    def imported_path(self, study: Study) -> str:
        """Place of what was imported of an earlier study."""
        return self.lake.imported(self.profile, study.name)

    def source_rates(self, study: Study) -> Product:
        """Tables `cells`, `source_rates`, `source_scores` and `measurements`."""
        if study.imported is not None:
            return self._tables(study, "source_rates", {}, self.imported_path(study))
        return self._tables(
            study,
            "source_rates",
            {
                "negatives": {
                    source: None if negatives is None else list(negatives)
                    for source in study.panel.ids
                    for negatives in [self.known_negatives(source, study.seeds)]
                },
                "cohorts": {source: study.cohort(source) for source in study.panel.ids},
                "categories": dict(study.panel.categories),
            },
            self.base_path,
            *(self.latest_eval_cells(study, source, seed).path for seed in study.seeds for source in study.panel.ids),
            *(self.base_cells(persona).path for persona in study.panel.ids),
            *(product.path for product in self.scores_there(study)),
        )

    def geometry(self, study: Study) -> Product:
        """Tables `geometry` and `pairwise_cosines`."""
        if study.imported is not None:
            return self._tables(study, "geometry", {}, self.imported_path(study))
        return self._tables(
            study,
            "geometry",
            {"panel": list(study.panel.ids), "anchor": study.panel.anchor, "frozen_panel": list(frozen_panel(study))},
            *(self.layer_centroids(persona).path for persona in study.panel.ids),
        )

    def power(self, study: Study) -> Product:
        """Table `power`: from the study file alone."""
        return self._tables(
            study,
            "power",
            {
                "categories": dict(study.panel.categories),
                "cohorts": {persona: study.cohort(persona) for persona in study.panel.ids},
                "layers": layer_count(study),
            },
        )

    def regressions(self, study: Study) -> Product:
        """Tables `regressions` and `probe`."""
        if study.imported is not None:
            return self._tables(study, "regressions", {}, self.source_rates(study).path, self.geometry(study).path)
        return self._tables(
            study,
            "regressions",
            {"prompts": {persona.id: persona.prompt for persona in study.panel}},
            self.base_path,
            self.source_rates(study).path,
            self.geometry(study).path,
            *(self.layer_centroids(persona).path for persona in study.panel.ids),
        )

    def off_diagonal(self, study: Study) -> Product:
        """Table `off_diagonal`."""
        return self._tables(study, "off_diagonal", {}, self.source_rates(study).path, self.geometry(study).path)

    def attenuation(self, study: Study) -> Product:
        """Table `attenuation`: of the study and its ancestors."""
        lineage = (*reversed(study.ancestors), study)
        return self._tables(
            study,
            "attenuation",
            {"lineage": [each.name for each in lineage]},
            *(product(each).path for each in lineage if analysed(each) for product in (self.source_rates, self.geometry)),
        )

    def inherited_drift(self, study: Study) -> Product:
        """Tables `inherited_drift` and `drift_tests`; a study without a parent has nothing to compare with."""
        parent = () if study.parent is None else (self.source_rates(study.parent).path,)
        return self._tables(study, "inherited_drift", {}, self.source_rates(study).path, *parent)

    def remeasurement_drift(self, study: Study) -> Product:
        """Tables `remeasurement_drift`, `remeasurement_tests` and `measurement_history`: of every measurement there is."""
        return self._tables(study, "remeasurement_drift", {}, *(cells.path for cells in self.measured_cells(study)))

    def last_two(self, study: Study) -> dict[tuple[str, int], tuple[int, int]]:
        """Numbers of the last two measurements by source and seed, for those measured at least twice."""
        numbers = {
            (source, seed): self.lake.measurement_numbers(self.profile, study.name, seed, source)
            for seed in study.seeds
            for source in study.panel.ids
        }
        return {row: (found[-2], found[-1]) for row, found in numbers.items() if len(found) > 1}

    def retest(self, study: Study) -> Product:
        """Table `retest`: of the last two measurements and of their scores, where there are any."""
        pairs = [(*row, number) for row, pair in self.last_two(study).items() for number in pair]
        scores = [self.marker_scores(study, *each) for each in pairs]
        return self._tables(
            study,
            "retest",
            {},
            *(self.eval_cells(study, *each).path for each in pairs),
            *(product.path for product in scores if self.store.manifest(product.path) is not None),
        )

    def gates(self, study: Study) -> Product:
        """Tables `gates` and `outcome`."""
        return self._tables(
            study,
            "gates",
            {"excluded": [persona.id for persona in study.panel if persona.exclude_from_within_category]},
            *(product(study).path for product in (self.source_rates, self.geometry, self.regressions)),
            *(product(study).path for product in (self.inherited_drift, self.remeasurement_drift)),
        )

    def figures(self, study: Study) -> Product:
        """Every picture of the study."""
        return _product(
            self.lake.figures(self.profile, study.name),
            "figures",
            {"study": study.name, "study_digest": study.digest},
            *(path for each in (study, *study.ancestors) for path in self.table_paths(each)),
        )

    def clean_result(self, study: Study) -> Product:
        """The write-up of the study."""
        parameters: dict[str, object] = {"study": study.name, "study_digest": study.digest}
        place, figures = self.lake.clean_result(self.profile, study.name), self.figures(study).path
        if study.imported is not None:
            inputs = (self.imported_path(study), *self.table_paths(study), figures)
            return _product(place, "clean_result", parameters, *inputs)
        return _product(
            place,
            "clean_result",
            parameters,
            self.base_path,
            *self.table_paths(study),
            figures,
            *(self.latest_eval_cells(study, source, seed).path for seed in study.seeds for source in study.panel.ids),
        )

    def overview(self, study: Study) -> Product:
        """The one page that says where the study stands and what came out."""
        written = self.clean_result(study)
        return _product(
            self.lake.overview(self.profile, study.name), "overview", dict(written.parameters), *written.inputs, written.path
        )

    def publication(self, study: Study, destination: str) -> Product:
        """The record of what of the study was published where."""
        return _product(
            self.lake.publication(self.profile, study.name),
            "publication",
            {"study": study.name, "study_digest": study.digest, "destination": destination},
            *(self.adapter(persona, seed).path for seed in study.seeds for persona in study.panel.ids),
            *self.measured_paths(study),
            *(self.base_cells(persona).path for persona in study.panel.ids),
            *self.table_paths(study),
            self.figures(study).path,
            self.clean_result(study).path,
        )

    def measured_paths(self, study: Study) -> tuple[str, ...]:
        """Paths of every measurement of a study, the earlier ones included; where there is none, of the first one to be made."""
        return tuple(
            self.lake.measurement(self.profile, study.name, seed, source, number)
            for seed in study.seeds
            for source in study.panel.ids
            for number in range(1, max(self.lake.latest_measurement(self.profile, study.name, seed, source), 1) + 1)
        )

    def table_paths(self, study: Study) -> tuple[str, ...]:
        """Paths of all tables of a study."""
        return tuple(TABLE_PRODUCTS[name](self, study).path for name in table_names(study))

    def state(self, product: Product) -> State:
        """State of a product."""
        return self.store.state(product)

    def _tables(self, study: Study, asset: str, parameters: dict[str, object], *inputs: str) -> Product:
        return _product(
            self.lake.tables(self.profile, study.name, asset),
            asset,
            {"study": study.name, "study_digest": study.digest, "analysis": study.analysis.model_dump(mode="json"), **parameters},
            *inputs,
        )

    def _generation(self) -> dict[str, object]:
        runtime = self.catalog.profile.runtime
        return {
            "engine": runtime.engine,
            "decoder": runtime.decoder,
            "dtype": runtime.dtype,
            "threads": runtime.threads,
            **({"vllm": runtime.vllm.fingerprint()} if runtime.engine == "vllm" else {}),
            "generation_batch_size": runtime.generation_batch_size,
        }

    def _measurement(self) -> dict[str, object]:
        profile = self.catalog.profile
        return {
            "marker": profile.marker,
            "questions": sha256_json(list(self.evaluation_questions)),
            "evaluation": profile.evaluation.model_dump(mode="json"),
            **self._generation(),
        }


TABLE_PRODUCTS: dict[str, Callable[[Products, Study], Product]] = {
    "power": Products.power,
    "source_rates": Products.source_rates,
    "geometry": Products.geometry,
    "regressions": Products.regressions,
    "off_diagonal": Products.off_diagonal,
    "inherited_drift": Products.inherited_drift,
    "remeasurement_drift": Products.remeasurement_drift,
    "retest": Products.retest,
    "gates": Products.gates,
    "attenuation": Products.attenuation,
}
"""The table assets of a study, in the order in which the story goes, with their products."""

SHOWN_PRODUCTS: dict[str, Callable[[Products, Study], Product]] = {
    "figures": Products.figures,
    "clean_result": Products.clean_result,
    "overview": Products.overview,
}
"""What a person looks at, made from the tables, in the order in which it is made."""


def table_names(study: Study) -> tuple[str, ...]:
    """Table assets that a study has: all of them, or those that its imported data support."""
    return tuple(TABLE_PRODUCTS) if study.imported is None else study.imported.tables


def analysed(study: Study) -> bool:
    """Whether a study has the correlations, gates and write-up: an import can hold too little for them."""
    return "regressions" in table_names(study)


def layer_count(study: Study) -> int:
    """Layers of a study's scan: those of the base model, or those that were imported."""
    return study.profile.base_model.layers if study.imported is None else len(study.imported.layers)


def parity_personas(catalog: Catalog) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sources whose cells are drawn in every way, and further eval personas: the first of the panel, and the anchor."""
    anchor = catalog.panel.anchor
    sources = tuple(persona for persona in catalog.panel.ids if persona != anchor)[:_PARITY_SOURCES]
    return sources, (anchor,)


def frozen_panel(study: Study) -> tuple[str, ...]:
    """The reference panel of frozen centring: that of the first study measured here, which never changes."""
    measured = [each for each in (study, *study.ancestors) if each.imported is None]
    return measured[-1].panel.ids


def _product(path: str, producer: str, parameters: dict[str, object], *inputs: str) -> Product:
    return Product(path=path, producer=producer, version=VERSIONS[producer], parameters=parameters, inputs=inputs)
