"""What a study will take, stage by stage, from speeds that were measured; what was not measured is said, never made up.

A speed comes from the products that the lake holds already (what this machine did), else from a throughput table (what a
benchmark measured on some device). Beside it stands the least time that the device of the table allows at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from persona_assets.capacity.needs import asset_needs, scored_replies
from persona_assets.capacity.shape import DecoderShape
from persona_assets.capacity.table import Measured, Stage, ThroughputTable
from persona_assets.study import Profile, Study

_CHARACTERS_PER_TOKEN = 4.0
_TEMPLATE_TOKENS = 15


@dataclass(frozen=True)
class MeasuredHere:
    """What the lake's products of one asset say: sums over those that recorded it."""

    keys: int
    tokens: int
    seconds: float
    bytes: int
    mean_tokens: float | None
    replies: int = 0  # that were scored


@dataclass(frozen=True)
class Keys:
    """How many keys of an asset a study needs, and how many of them are not in the lake."""

    total: int
    missing: int


@dataclass(frozen=True)
class StageEstimate:
    """One stage of one study.

    Attributes:
        study: whose stage; None for the work that studies share.
        asset: producer's name.
        keys: how many keys it has.
        missing: how many of them are not in the lake.
        tokens: tokens to process for the missing keys; None where it is not counted in tokens.
        speed: tokens per second; None when it was not measured.
        source: where the speed comes from; why there is none.
        device_seconds: time on the device; None when the speed was not measured.
        wall_seconds: the same shared by the worker processes that work side by side.
        least_seconds: what the device of the table needs at least; None without a table.
        disk: bytes added to lake and cache.
    """

    study: str | None
    asset: str
    keys: int
    missing: int
    tokens: int | None
    speed: float | None
    source: str
    device_seconds: float | None
    wall_seconds: float | None
    least_seconds: float | None
    disk: int


@dataclass(frozen=True)
class Estimate:
    """A study with its ancestors.

    Attributes:
        stages: in the order in which they run.
        answer_tokens: mean tokens of an answer that the times are for.
        assumptions: what was taken for granted, in sentences.
    """

    stages: tuple[StageEstimate, ...]
    answer_tokens: float
    assumptions: tuple[str, ...]

    @property
    def not_measured(self) -> tuple[str, ...]:
        """Assets with work to do whose speed is unknown."""
        return tuple(dict.fromkeys(row.asset for row in self.stages if row.missing and row.device_seconds is None))

    def total(self, field: str) -> float:
        """Sum of a field over the stages that have it."""
        return float(sum(getattr(row, field) or 0 for row in self.stages))


def estimate(
    study: Study,
    needed: Mapping[tuple[str | None, str], Keys],
    here: Mapping[str, MeasuredHere],
    table: ThroughputTable | None,
    answer_tokens: float | None = None,
) -> Estimate:
    """Estimate a study and the ancestors that it needs.

    Args:
        study: what is to be run.
        needed: keys by study (None for shared work) and asset; adapters that come from a registry are those of `PULLED`.
        here: what the lake's products say of each asset.
        table: speeds on a device, of a model of the same shape.
        answer_tokens: mean tokens of an answer; by default what was measured here, else half of the limit.
    """
    profile = study.profile
    assumptions: list[str] = []
    measured = next((here[asset].mean_tokens for asset in _GENERATING if asset in here), None)
    limit = profile.evaluation.sampling.max_new_tokens
    if answer_tokens is None and measured is None:
        answer_tokens = limit / 2
        assumptions.append(
            f"Length of an answer not measured: {answer_tokens:.0f} tokens assumed, half of max_new_tokens; it can be twice that."
        )
    tokens_each = answer_tokens if answer_tokens is not None else measured
    assert tokens_each is not None
    work = _Work(study, profile, tokens_each, here, table)
    if table is not None and not (table_fits(table, profile.base_model.shape)):
        assumptions.append(f"The table is of a model of another shape, measured on {table.device}: it is not used.")
    elif table is not None:
        assumptions.append(f"Speeds of the table were measured on {table.device}, {table.made_on}; another device has others.")
    assumptions.append("Starting, loading models, writing products and the analysis on the CPU come on top of these times.")
    stages = [work.stage(each, asset, keys) for (each, asset), keys in needed.items()]
    return Estimate(tuple(stages), tokens_each, tuple(assumptions))


def table_fits(table: ThroughputTable, shape: DecoderShape | None) -> bool:
    """Say whether a table was measured on a model of this shape."""
    return shape is not None and all(table.shape[name] == getattr(shape, name) for name in table.shape)


class _Work:
    """Tokens, speeds and bytes of each asset of one profile."""

    def __init__(
        self,
        study: Study,
        profile: Profile,
        answer_tokens: float,
        here: Mapping[str, MeasuredHere],
        table: ThroughputTable | None,
    ) -> None:
        self.profile = profile
        self.studies = {each.name: each for each in (study, *study.ancestors)}
        self.answer_tokens = answer_tokens
        self.here = here
        self.table = table if table is not None and table_fits(table, profile.base_model.shape) else None
        prompts = [len(persona.prompt) for persona in study.panel]
        questions = [len(question) for question in study.evaluation_questions]
        characters = sum(prompts) / len(prompts) + sum(questions) / len(questions)
        self.prompt_tokens = characters / _CHARACTERS_PER_TOKEN + _TEMPLATE_TOKENS

    def stage(self, name: str | None, asset: str, keys: Keys) -> StageEstimate:
        eval_personas = len(self.studies[name].panel) if name is not None else 1
        missing = keys.missing
        tokens = self._tokens(asset, eval_personas)
        total = None if tokens is None else round(tokens * missing)
        made = "adapter" if asset == PULLED else asset
        needs = asset_needs(made, self.profile, missing, eval_personas, self.prompt_tokens)
        disk = needs.disk + needs.cache
        found = self.here.get(asset)
        replies = scored_replies(self.profile, eval_personas) * missing if asset == SCORES else 0
        if found is not None and found.replies:
            disk = round(found.bytes / found.replies * replies)
        elif found is not None and found.keys and asset not in _GENERATING:
            disk = round(found.bytes / found.keys * missing)
        elif found is not None and found.tokens:
            disk = round(found.bytes / found.tokens * (total or 0))
        seconds, speed, source = self._seconds(asset, missing, total, replies)
        workers = max(self.profile.runtime.workers, 1)
        return StageEstimate(
            study=name,
            asset=asset,
            keys=keys.total,
            missing=missing,
            tokens=total,
            speed=speed,
            source=source,
            device_seconds=seconds,
            wall_seconds=None if seconds is None else seconds / min(workers, max(missing, 1)),
            least_seconds=self._least(asset, total),
            disk=disk,
        )

    def _tokens(self, asset: str, eval_personas: int) -> float | None:
        profile, evaluation = self.profile, self.profile.evaluation
        cell = evaluation.n_questions * evaluation.completions_per_question
        rows = profile.rows_per_persona * (1 + profile.n_negatives)
        return {
            "training_answers": profile.rows_per_persona * self.answer_tokens,
            "adapter": rows * profile.recipe.epochs * (self.prompt_tokens + self.answer_tokens),
            "layer_centroids": evaluation.n_questions * self.prompt_tokens,
            "base_cells": cell * self.answer_tokens,
            "eval_cells": eval_personas * cell * self.answer_tokens,
            SCORES: self._scored_tokens(eval_personas),
        }.get(asset)

    def _scored_tokens(self, eval_personas: int) -> float:
        """Of a row of cells: each reply once and the prompt of each question once, by the trained and by the base model."""
        few, questions = self.profile.scoring.bystander_replies_per_cell, self.profile.evaluation.n_questions
        prompts = questions + (eval_personas - 1) * min(questions, questions if few is None else few)
        return 2 * (scored_replies(self.profile, eval_personas) * self.answer_tokens + prompts * self.prompt_tokens)

    def _seconds(
        self, asset: str, missing: int, tokens: int | None, replies: int
    ) -> tuple[float | None, float | None, str]:
        if missing == 0:
            return 0.0, None, "nothing to do"
        if asset == PULLED:  # what was trained at its place before says nothing
            return 0.0, None, "pulled: the download is not counted"
        found = self.here.get(asset)
        if found is not None and found.seconds > 0:
            said = f"measured here on {found.keys} of the lake's products"
            if asset in _GENERATING and found.tokens and tokens is not None:
                speed = found.tokens / found.seconds
                return tokens / speed, speed, said
            if found.replies:
                return found.seconds / found.replies * replies, None, said
            return found.seconds / found.keys * missing, None, said
        row = self._measured(asset)
        if row is not None and tokens is not None:
            assert self.table is not None
            return tokens / row.value, row.value, f"table: {self.table.device}, {self.table.made_on}"
        if asset == "training_dataset":
            return 0.0, None, "no model runs"
        return None, None, self._why_not(asset)

    def _measured(self, asset: str) -> Measured | None:
        kind = self._kind(asset)
        return None if self.table is None or kind is None else self.table.find(*kind, batch=self._batch(asset))

    def _kind(self, asset: str) -> tuple[Stage, str, str | None] | None:
        engine = self.profile.runtime.engine
        if asset in ("training_answers", "base_cells"):
            return "generation", engine, "merged"  # the base model alone is as fast as a merged one
        if asset == "eval_cells":
            runtime = self.profile.runtime
            # The transformers engine adds base and adapter up in memory where no merged model is written.
            in_memory = engine == "transformers" and runtime.merged_weights != "kept"
            return "generation", engine, "swapped" if in_memory else runtime.weights
        return {"adapter": ("training", "trainer", None), "layer_centroids": ("centroids", "transformers", None)}.get(asset)  # type: ignore[return-value]

    def _batch(self, asset: str) -> int | None:
        runtime = self.profile.runtime
        if asset == "adapter":
            return runtime.micro_batch_size
        return runtime.generation_batch_size if asset in _GENERATING else None

    def _why_not(self, asset: str) -> str:
        kind = self._kind(asset)
        if kind is not None and self.table is not None:
            for gap in self.table.not_measured:
                if (gap.stage, gap.engine, gap.weights) == kind:
                    return f"not measured: {gap.why}"
        return "not measured"

    def _least(self, asset: str, tokens: int | None) -> float | None:
        shape, kind = self.profile.base_model.shape, self._kind(asset)
        if self.table is None or shape is None or tokens is None:
            return None
        if asset == SCORES:  # no benchmark measures it; logits are computed for few of its tokens
            return tokens * shape.forward_operations(self.prompt_tokens) / self.table.matmul_rate
        if kind is None:
            return None
        row = self._measured(asset)
        if row is not None and row.roofline is not None:
            return tokens / row.roofline
        if kind[0] != "generation":
            return None
        rows = self.profile.runtime.generation_batch_size
        context = self.prompt_tokens + self.answer_tokens / 2
        step = shape.decoding_seconds(rows, context, self.table.dtype, self.table.bandwidth, self.table.matmul_rate)
        return tokens / rows * step


PULLED = "adapter (pulled)"
"""Adapters that a study inherits from registries: downloaded, not trained."""
SCORES = "marker_scores"
OF_STUDIES: Sequence[str] = ("eval_cells", SCORES)
"""The assets that each study has for itself and that take a model."""
_GENERATING = ("training_answers", "base_cells", "eval_cells")
SHARED_ASSETS: Sequence[str] = (
    "base_model",
    "training_answers",
    "training_dataset",
    "adapter",
    PULLED,
    "merged_model",
    "layer_centroids",
    "base_cells",
)
"""The assets that studies share, in the order in which they run."""
