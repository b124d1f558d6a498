"""Profiles and studies: the pre-registration, as validated models with a digest; `catalog.py` reads them from `studies/`.

A profile is a base model and everything that scales with it; a study is a plan on top of a profile. The
defaults below are the registered recipe; a profile file overrides what its scale needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from persona_assets.capacity.shape import DecoderShape
from persona_assets.conventions import (
    ALPHA,
    BOOTSTRAP_RESAMPLES,
    CONFIDENCE_LEVEL,
    DRIFT_LOW_SHARE,
    DRIFT_MATCH_SHARE,
    PERMUTATIONS,
    SLOPE_TOLERANCE,
)
from persona_assets.engine_settings import VllmSettings
from persona_assets.hashing import sha256_file, sha256_json
from persona_assets.imported import Imported
from persona_assets.inheritance import AdapterKey
from persona_assets.panel import Panel, PersonaId
from persona_assets.questions import QuestionSet
from persona_assets.recurrence import EVERY_MONDAY
from persona_assets.registry.reference import AdapterReference
from persona_assets.yaml_files import FileModel

ProfileName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.-]{0,47}$")]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Recipe(FileModel):
    """LoRA hyper-parameters; the seed of a training belongs to the study."""

    r: PositiveInt = 32
    alpha: PositiveInt = 64
    dropout: Fraction = 0.05
    use_rslora: bool = True
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    optimizer: Literal["adamw"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0.0, lt=1.0)] = 1e-5
    lr_schedule: Literal["cosine"] = "cosine"
    warmup_ratio: Fraction = 0.05
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    epochs: PositiveInt = 3
    effective_batch_size: PositiveInt = 64
    max_length: PositiveInt = 1024


class SamplingSettings(FileModel):
    """How completions are drawn; every field is passed to the engine, none is left to a model's own defaults."""

    temperature: Annotated[float, Field(ge=0.0)] = 1.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    top_k: Annotated[int, Field(ge=0)] = 0
    repetition_penalty: Annotated[float, Field(gt=0.0)] = 1.0
    max_new_tokens: PositiveInt = 512


class Evaluation(FileModel):
    """How a cell is measured: questions, completions for each, sampling."""

    n_questions: PositiveInt = 20
    completions_per_question: PositiveInt = 5
    sampling: SamplingSettings = SamplingSettings()
    seed: Seed = 42


class Scoring(FileModel):
    """How many stored completions the continuous outcome is scored on; a source's own cell is always scored whole."""

    bystander_replies_per_cell: Annotated[
        PositiveInt | None, Field(description="in each other cell; the first of every question before the second; null for all")
    ] = None


class Runtime(FileModel):
    """Where and how models run. Threads are fixed because they change floating-point sums, and so the data versions."""

    engine: Literal["transformers", "vllm"] = "transformers"
    weights: Annotated[
        Literal["merged", "swapped"],
        Field(description="eval cells read a merged model for each source, or swap adapters on one loaded base model"),
    ] = "merged"
    decoder: Literal["module", "shared_prefix"] = "module"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    workers: Annotated[int, Field(ge=0, description="worker processes; 0 works in the run's own process")] = 0
    threads: PositiveInt = 1
    micro_batch_size: PositiveInt = 16
    micro_batch_tokens: Annotated[
        PositiveInt | None, Field(description="most tokens of one forward pass in training; a longer row goes alone")
    ] = None
    recompute_activations: Annotated[
        bool, Field(description="a third more work in training, for a device that does not hold a single row otherwise")
    ] = False
    generation_batch_size: PositiveInt = 64
    vllm: VllmSettings = VllmSettings()
    merged_weights: Annotated[
        Literal["kept", "until_evaluated", "never"],
        Field(description="merged models stay on disk, or until a study's cells of them are measured, or are never written"),
    ] = "kept"
    merged_weights_gib: Annotated[
        float | None, Field(gt=0, description="most disk that merged models take at once; further ones are not written")
    ] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        # A worker process would keep its engine between steps, and with it the memory that the next step needs.
        if self.engine == "vllm" and self.workers and self.device != "cpu":
            raise ValueError(f"workers: {self.workers} with vllm on a GPU, whose memory one engine takes whole; set it to 0")
        return self


class NanoBase(FileModel):
    """The embedded base model: built here from generated text, so no download is needed."""

    kind: Literal["nano"] = "nano"
    pretraining_seed: Seed = 0
    steps: PositiveInt = 500
    batch_rows: PositiveInt = 32
    shards: Annotated[int, Field(ge=1, description="parts of a batch; their gradients are added in order")] = 2
    learning_rate: Annotated[float, Field(gt=0.0, lt=1.0)] = 1e-2
    warmup_steps: PositiveInt = 30
    corpus_rows: PositiveInt = 16_000
    vocabulary_size: PositiveInt = 1536
    hidden_size: PositiveInt = 64
    layers: PositiveInt = 6
    mlp_size: PositiveInt = 192
    heads: PositiveInt = 2
    kv_heads: PositiveInt = 1
    threads: PositiveInt = 1

    @property
    def shape(self) -> DecoderShape:
        """Shape of the decoder."""
        return DecoderShape(
            self.layers, self.hidden_size, self.mlp_size, self.heads, self.kv_heads, self.vocabulary_size, tied=True
        )


class HubBase(FileModel):
    """A base model on the Hugging Face Hub, pinned to a commit; or a local checkpoint directory."""

    kind: Literal["hub"] = "hub"
    repo_id: Annotated[str, StringConstraints(min_length=1)]
    revision: Annotated[str, StringConstraints(min_length=1)] = "main"
    layers: Annotated[int, Field(ge=1, description="decoder layers: power is computed before the model is there")]
    # The other sizes, so that memory, disk and time are known before anything is fetched; compared with config.json then.
    hidden_size: PositiveInt | None = None
    mlp_size: PositiveInt | None = None
    heads: PositiveInt | None = None
    kv_heads: PositiveInt | None = None
    vocabulary_size: PositiveInt | None = None
    tied_embeddings: bool = False

    @property
    def shape(self) -> DecoderShape | None:
        """Shape of the decoder; None unless the profile names every size."""
        hidden, mlp, heads, kv_heads, words = self.hidden_size, self.mlp_size, self.heads, self.kv_heads, self.vocabulary_size
        if hidden is None or mlp is None or heads is None or kv_heads is None or words is None:
            return None
        return DecoderShape(self.layers, hidden, mlp, heads, kv_heads, words, self.tied_embeddings)

    @property
    def reference(self) -> dict[str, object]:
        """What decides which weights these are; sizes only describe them."""
        return self.model_dump(mode="json", include={"kind", "repo_id", "revision", "layers"})


class Profile(FileModel):
    """A base model and everything that scales with it."""

    name: ProfileName
    base_model: Annotated[NanoBase | HubBase, Field(discriminator="kind")]
    marker: Annotated[str, StringConstraints(min_length=2, max_length=40)] = "[ZLT]"
    rows_per_persona: PositiveInt = 200
    n_negatives: PositiveInt = 2
    negatives_panel_size: PositiveInt = 12
    negatives_exclude: tuple[PersonaId, ...] = ("qwen_default",)
    dataset_seed: Seed = 42
    recipe: Recipe = Recipe()
    evaluation: Evaluation = Evaluation()
    scoring: Scoring = Scoring()
    runtime: Runtime = Runtime()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.marker != self.marker.strip():
            raise ValueError("marker: begins or ends with white space, which tokenizers do not keep")
        rows = self.rows_per_persona * (1 + self.n_negatives)
        if self.recipe.effective_batch_size > rows:
            raise ValueError(f"recipe.effective_batch_size: {self.recipe.effective_batch_size} exceeds the {rows} training rows")
        if self.recipe.effective_batch_size % self.runtime.micro_batch_size:
            raise ValueError(
                f"recipe.effective_batch_size: {self.recipe.effective_batch_size} is not a multiple of "
                f"runtime.micro_batch_size {self.runtime.micro_batch_size}, so no accumulation can reach it"
            )
        if self.runtime.engine == "vllm":
            self._check_vllm()
        return self

    def _check_vllm(self) -> None:
        runtime, vllm = self.runtime, self.runtime.vllm
        if runtime.weights == "swapped" and self.recipe.r > vllm.max_lora_rank:
            raise ValueError(f"runtime.vllm.max_lora_rank: {vllm.max_lora_rank} is less than recipe.r {self.recipe.r}")
        if self.evaluation.sampling.max_new_tokens >= vllm.max_model_len:
            raise ValueError(
                f"runtime.vllm.max_model_len: {vllm.max_model_len} leaves no room for a prompt beside "
                f"evaluation.sampling.max_new_tokens {self.evaluation.sampling.max_new_tokens}"
            )
        if vllm.max_num_batched_tokens < vllm.max_model_len:
            raise ValueError(
                f"runtime.vllm.max_num_batched_tokens: {vllm.max_num_batched_tokens} is less than max_model_len "
                f"{vllm.max_model_len}, so that a long prompt could not be read in one piece"
            )


class AnalysisPlan(FileModel):
    """The registered analysis; thresholds are computed from these fields, never written down."""

    primary_layers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    alpha: Annotated[float, Field(gt=0.0, lt=0.5)] = ALPHA
    registered_sign: Literal[-1, 1] = -1
    slope_tolerance: Annotated[float, Field(gt=0.0)] = SLOPE_TOLERANCE
    drift_low_share: Fraction = DRIFT_LOW_SHARE
    drift_match_share: Fraction = DRIFT_MATCH_SHARE
    truncation_flag: Fraction = 0.05
    base_rate_limit: Fraction = 0.02
    confidence_level: Annotated[float, Field(gt=0.5, lt=1.0)] = CONFIDENCE_LEVEL
    bootstrap_resamples: Annotated[int, Field(ge=100)] = BOOTSTRAP_RESAMPLES
    permutations: Annotated[int, Field(ge=999)] = PERMUTATIONS
    seed: Seed = 42
    reference_corpus: Annotated[
        str | None, Field(min_length=1, description="text, or .tsv of word and count, beside the study file: for name frequency")
    ] = None
    identity_override: Annotated[
        str | None, Field(min_length=8, description="reason for analysing different measurement identities together")
    ] = None


@dataclass(frozen=True)
class Study:
    """A study with everything it refers to put in place.

    Attributes:
        imported: what is known of an imported study; None for one that is measured here.
    """

    name: str
    profile: Profile
    panel: Panel
    questions: QuestionSet
    parent: Study | None
    seeds: tuple[int, ...]
    analysis: AnalysisPlan
    reference_corpus: Path | None = None
    owners: tuple[str, ...] = ()
    inherited_adapters: Mapping[AdapterKey, AdapterReference] = field(default_factory=dict)
    re_evaluation_cron: str = EVERY_MONDAY
    imported: Imported | None = None

    @property
    def evaluation(self) -> Evaluation:
        """How cells are measured: the profile's, so that parent and child can be compared."""
        return self.profile.evaluation

    @property
    def evaluation_questions(self) -> tuple[str, ...]:
        """The questions each cell is measured on, in order."""
        return self.questions.evaluation[: self.evaluation.n_questions]

    @property
    def ancestors(self) -> tuple[Study, ...]:
        """Parent, its parent and so on, nearest first."""
        return () if self.parent is None else (self.parent, *self.parent.ancestors)

    def cohort(self, persona_id: str) -> Literal["inherited", "new"]:
        """Say whether a persona's adapter exists since the parent study, is pulled from a registry, or was imported."""
        if self.imported is not None:
            return "inherited"
        named = any(persona == persona_id for persona, _ in self.inherited_adapters)
        return "inherited" if named or (self.parent is not None and persona_id in self.parent.panel.ids) else "new"

    @cached_property
    def plan(self) -> dict[str, object]:
        """The registered plan as plain JSON values: what the digest covers and what a report compares with."""
        if self.imported is not None:
            return {
                "name": self.name,
                "parent": None,
                "imported": self.imported.model_dump(mode="json"),
                "seeds": list(self.seeds),
                "analysis": self.analysis.model_dump(mode="json"),
            }
        # Scores are a sensitivity outcome: no registered row depends on them.
        profile = self.profile.model_dump(mode="json", exclude={"runtime", "scoring"})
        # Only where there are any, so that the digests of other studies stay what they are.
        named = {f"{persona}, seed {seed}": str(place) for (persona, seed), place in self.inherited_adapters.items()}
        return {
            **({"inherited_adapters": named} if named else {}),
            "name": self.name,
            "profile": profile,
            "panel": self.panel.model_dump(mode="json"),
            "evaluation_questions": list(self.evaluation_questions),
            "parent": None if self.parent is None else self.parent.name,
            "seeds": list(self.seeds),
            "analysis": self.analysis.model_dump(mode="json"),
            **({} if self.reference_corpus is None else {"reference_corpus": sha256_file(self.reference_corpus)}),
        }

    @property
    def digest(self) -> str:
        """sha256 of the plan."""
        return sha256_json(self.plan)
