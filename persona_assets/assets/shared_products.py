"""Which product each shared asset writes: its place, what its fingerprint covers and which products it reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

from persona_assets.assets.producers import product_of
from persona_assets.catalog import Catalog
from persona_assets.dataset import NEGATIVES_ALGORITHM, draw_negatives, negative_candidates
from persona_assets.hashing import sha256_json
from persona_assets.registry.gate_cases import GATE_VERSION
from persona_assets.store import Product, State, Store
from persona_assets.study import NanoBase, Study
from resources.lake import Lake

_PARITY_SOURCES = 2

MethodT = TypeVar("MethodT", bound=Callable[..., Any])


def once(method: MethodT) -> MethodT:
    """Let an object compute what a method gives once for each of its arguments: it follows from the study files alone.

    The products of a study of 48 personas name each other ten thousand times.
    """

    @wraps(method)
    def remembered(self: Any, *key: Any, **named: Any) -> Any:
        known = vars(self).setdefault("_known", {})
        place = (method.__name__, *key, *sorted(named.items()))
        if place not in known:
            known[place] = method(self, *key, **named)
        return known[place]

    return remembered  # type: ignore[return-value]


@dataclass(frozen=True)
class SharedProducts:
    """The products that all studies of one profile share."""

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
        return product_of(self.base_path, "base_model", parameters)

    @once
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

    @once
    def training_answers(self, persona: str) -> Product:
        """A persona's own answers to the training questions, sampled from the base model."""
        profile = self.catalog.profile
        return product_of(
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

    @once
    def training_dataset(self, persona: str) -> Product:
        """A source persona's chat rows."""
        profile = self.catalog.profile
        negatives = self.negatives(persona)
        return product_of(
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

    @once
    def adapter(self, persona: str, seed: int) -> Product:
        """A source persona's LoRA adapter under one training seed: trained here, or pulled from a registry."""
        profile = self.catalog.profile
        reference = self.catalog.inherited_adapters.get((persona, seed))
        if reference is not None:
            return product_of(
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
        return product_of(
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

    @once
    def merged_model(self, persona: str, seed: int) -> Product:
        """Base weights plus one adapter."""
        return product_of(
            self.lake.by_seed(self.profile, "merged_model", seed, persona),
            "merged_model",
            {"dtype": self.catalog.profile.runtime.dtype},
            self.base_path,
            self.adapter(persona, seed).path,
        )

    @once
    def layer_centroids(self, persona: str) -> Product:
        """A persona's centroid at every layer of the base model, and the vectors it averages."""
        profile = self.catalog.profile
        return product_of(
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

    @once
    def base_cells(self, persona: str) -> Product:
        """The base model's completions under one eval persona."""
        return product_of(
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
        return product_of(
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

    @property
    def swapped(self) -> bool:
        """Whether eval cells read base and adapter, so that no merged model is needed."""
        return self.catalog.profile.runtime.weights == "swapped"

    def state(self, product: Product) -> State:
        """State of a product."""
        return self.store.state(product)

    @once
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

    @once
    def _measurement(self) -> dict[str, object]:
        profile = self.catalog.profile
        return {
            "marker": profile.marker,
            "questions": sha256_json(list(self.evaluation_questions)),
            "evaluation": profile.evaluation.model_dump(mode="json"),
            **self._generation(),
        }


def parity_personas(catalog: Catalog) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sources whose cells are drawn in every way, and further eval personas: the first of the panel, and the anchor."""
    anchor = catalog.panel.anchor
    sources = tuple(persona for persona in catalog.panel.ids if persona != anchor)[:_PARITY_SOURCES]
    return sources, (anchor,)
