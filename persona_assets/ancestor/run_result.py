"""run_result.json: one condition, as the training and evaluation scripts left it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from persona_assets.ancestor.names import by_persona, persona_id
from persona_assets.ancestor.reading import (
    AncestorError,
    Finite,
    Layout,
    Positive,
    Rate,
    WrittenBoolean,
    as_layout,
    count_of,
    read_json,
)

RUN_RESULT = "run_result.json"
MARKER = "marker"


class _Lora(Layout):
    r: Positive
    alpha: Positive
    target_modules: list[str]
    dropout: Finite
    use_rslora: WrittenBoolean


class _Training(Layout):
    method: str
    learning_rate: Finite
    lr_schedule: str
    warmup_ratio: Finite
    batch_size_effective: str  # says "64 (4 x 4 x 1)": kept as it stands, because the number is wrong
    epochs: Finite
    max_seq_length: Positive
    optimizer: str
    precision: str
    lora_config: _Lora


class _Kind(Layout):
    trait: str
    source_persona: str | None
    control: object = None


class _Header(Layout):
    data: _Kind


class _Data(_Kind):
    source: str
    train_size: Positive
    neg_set: str | None
    prompt_length: str


class _Evaluation(Layout):
    n_personas: Positive
    n_questions: Positive
    n_completions_per_question: Positive
    temperature: Finite


class _Compute(Layout):
    train_minutes: Finite


class _Marker(Layout):
    source_rate: Rate | None
    assistant_rate: Rate | None = None
    all_personas: dict[str, Rate]


class _Results(Layout):
    train_loss: Finite | None
    marker: _Marker


class _RunResult(Layout):
    seed: int
    base_model: str
    training: _Training
    data: _Data
    eval: _Evaluation
    compute: _Compute
    results: _Results


@dataclass(frozen=True)
class RunResult:
    """A condition's rates and the facts that came with them.

    Attributes:
        source: source persona.
        negatives: name of the set of negatives.
        length: name of the prompt length.
        seed: training seed.
        base_model: name of the base model.
        temperature: of the evaluation.
        n: completions of each cell.
        hits: by eval persona, the source's own included.
        training: the recipe as it stands in the file.
        train_loss: None where the run was evaluated only.
        train_minutes: likewise.
        notes: what a reader should know of the file.
    """

    source: str
    negatives: str
    length: str
    seed: int
    base_model: str
    temperature: float
    n: int
    hits: Mapping[str, int]
    training: Mapping[str, object]
    train_loss: float | None
    train_minutes: float | None
    notes: tuple[str, ...]


def why_skipped(path: Path) -> str | None:
    """Say why a run is not a source's marker run; None when it is one.

    Raises:
        AncestorError: the file does not say what kind of run it is.
    """
    data = as_layout(path, read_json(path), _Header).data
    if data.trait != MARKER:
        return f"the trait is {data.trait!r}: only the marker is imported"
    if data.source_persona is None and data.control not in (None, False, ""):
        return f"a control run ({data.control}) has no source persona, so it has no source rate"
    return None


def read_run_result(path: Path) -> RunResult:
    """Read the result of a source's marker run.

    Raises:
        AncestorError: a key is missing, a value is impossible, or the source's rate is nowhere.
    """
    found = as_layout(path, read_json(path), _RunResult)
    if found.data.source_persona is None:
        raise AncestorError(f"{path}: data.source_persona is null and data.control is not set: whose rates these are is unknown.")
    source = persona_id(found.data.source_persona, f"{path}: data.source_persona")
    n = found.eval.n_questions * found.eval.n_completions_per_question
    marker = found.results.marker
    rates = by_persona(marker.all_personas, f"{path}: results.marker.all_personas")
    notes = []
    if marker.assistant_rate is not None:
        _agree(path, "assistant_rate", marker.assistant_rate, rates, "helpful_assistant")
    if marker.source_rate is not None:
        _agree(path, "source_rate", marker.source_rate, rates, source)
        rates.setdefault(source, marker.source_rate)
    elif source not in rates:
        raise AncestorError(
            f"{path}: results.marker.source_rate is null and results.marker.all_personas has no {source}: "
            "there is no source rate."
        )
    else:
        notes.append(f"source_rate is null; the rate of {source} in all_personas is taken")
    if found.eval.n_personas != len(marker.all_personas):
        notes.append(f"says n_personas {found.eval.n_personas} and holds {len(marker.all_personas)}")
    only_evaluated = found.results.train_loss == 0.0 and found.compute.train_minutes == 0.0
    if only_evaluated:
        notes.append("train_loss 0.0 after 0.0 minutes: evaluated only, both are treated as missing")
    return RunResult(
        source=source,
        negatives=found.data.neg_set or "",
        length=found.data.prompt_length,
        seed=found.seed,
        base_model=found.base_model,
        temperature=found.eval.temperature,
        n=n,
        hits={persona: count_of(rate, n, f"{path}: {persona}") for persona, rate in rates.items()},
        training=found.training.model_dump(mode="json"),
        train_loss=None if only_evaluated else found.results.train_loss,
        train_minutes=None if only_evaluated else found.compute.train_minutes,
        notes=tuple(notes),
    )


def _agree(path: Path, name: str, rate: float, rates: Mapping[str, float], persona: str) -> None:
    if persona in rates and abs(rates[persona] - rate) > 1e-9:
        raise AncestorError(
            f"{path}: results.marker.{name} is {rate:g}, but all_personas gives {rates[persona]:g} for {persona}."
        )
