"""Draw the same cells in every way there is here, and compare: merged, swapped, transformers, vLLM."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from persona_assets.hashing import derive_seed
from persona_assets.panel import Persona
from persona_assets.progress import LOGGER
from persona_assets.study import Evaluation, Runtime
from persona_assets.tasks.base_model import base_checkpoint
from persona_assets.tasks.loaded import Facts, release_models, runtime_device
from persona_assets.tasks.models import ADAPTER

if TYPE_CHECKING:
    from persona_assets.generation.engine import Engine
    from persona_assets.statistics.engine_parity import Cell, Way

TABLE_FILE = "engine_parity.parquet"
Draw = Callable[[Runtime], "Mapping[tuple[str, str], Cell]"]


@dataclass(frozen=True)
class EngineParityTask:
    """Compare the ways of drawing completions on a few sources' cells.

    Attributes:
        out_dir: where the table goes.
        base_dir: the product `base_model`.
        adapters: the product `adapter` of each source.
        sources: those sources; each is drawn under all of them and under `others`.
        others: further eval personas.
        questions: asked in every cell.
        evaluation: completions per question, sampling, seed.
        marker: the implanted string.
        probes: (system, user) messages that a merge is verified on.
        runtime: the profile's; engine and weights are set for each way.
    """

    out_dir: Path
    base_dir: Path
    adapters: Mapping[str, Path]
    sources: tuple[Persona, ...]
    others: tuple[Persona, ...]
    questions: tuple[str, ...]
    evaluation: Evaluation
    marker: str
    probes: tuple[tuple[str, str], ...]
    runtime: Runtime


def compare_engines(task: EngineParityTask) -> Facts:
    """Write the table `engine_parity`; ways that this machine does not have are named in it."""
    from persona_assets.generation.vllm_engine import vllm_version
    from persona_assets.statistics.engine_parity import Way, engine_parity, judge_parity

    release_models()
    swapped, merged = partial(_swapped_cells, task), partial(_merged_cells, task)
    ways: list[tuple[str, str, str, Draw]] = [
        ("transformers, merged", "engine", "transformers", merged),
        ("transformers, swapped", "engine", "transformers", swapped),
        ("adapter left off", "control", "transformers", partial(swapped, adapter_of=lambda _: None)),
        ("adapter of another source", "control", "transformers", partial(swapped, adapter_of=partial(_next_source, task))),
        ("vLLM, swapped", "engine", "vllm", swapped),
        ("vLLM, merged", "engine", "vllm", merged),
    ]
    missing = {} if vllm_version() else {name: "vLLM is not installed here" for name, _, engine, _ in ways if engine == "vllm"}
    drawn: list[Way] = []
    for name, role, engine, draw in ways:
        if name not in missing:
            LOGGER.info("engine_parity: %s", name)
            cells = draw(Runtime.model_validate(task.runtime.model_dump() | {"engine": engine}))
            drawn.append(Way(name, "engine" if role == "engine" else "control", cells))
    table = engine_parity(drawn[0], drawn[1:], missing, task.runtime.dtype)
    table.write_parquet(task.out_dir / TABLE_FILE)
    return {"sentence": judge_parity(table).sentence, "vllm_version": vllm_version()}


def _next_source(task: EngineParityTask, source: str) -> str:
    names = [persona.id for persona in task.sources]
    return names[(names.index(source) + 1) % len(names)]


def _swapped_cells(
    task: EngineParityTask, runtime: Runtime, adapter_of: Callable[[str], str | None] = lambda source: source
) -> Mapping[tuple[str, str], Cell]:
    """Draw with the adapters on one engine; `adapter_of` names the source whose adapter is put in force."""
    cells: dict[tuple[str, str], Cell] = {}
    with _opened(base_checkpoint(task.base_dir), runtime.model_copy(update={"weights": "swapped"})) as engine:
        for source in task.sources:
            other = adapter_of(source.id)
            cells |= _draw(task, engine, source.id, None if other is None else task.adapters[other] / ADAPTER)
    return cells


def _merged_cells(task: EngineParityTask, runtime: Runtime) -> Mapping[tuple[str, str], Cell]:
    """Draw from merged checkpoints, made here one at a time and thrown away: their files are wanted for nothing else."""
    from persona_assets.models.merging import merge_adapter

    cells: dict[tuple[str, str], Cell] = {}
    for source in task.sources:
        with tempfile.TemporaryDirectory(dir=task.out_dir) as scratch:
            checkpoint = Path(scratch) / "checkpoint"
            merge_adapter(
                base_checkpoint(task.base_dir),
                task.adapters[source.id] / ADAPTER,
                checkpoint,
                probe_prompts=task.probes,
                dtype=runtime.dtype,
                device=runtime_device(runtime),
            )
            with _opened(checkpoint, runtime.model_copy(update={"weights": "merged"})) as engine:
                cells |= _draw(task, engine, source.id, None)
    return cells


@contextmanager
def _opened(checkpoint: Path, runtime: Runtime) -> Iterator[Engine]:
    from persona_assets.generation.opening import open_engine

    engine = open_engine(checkpoint, runtime)
    try:
        yield engine
    finally:
        engine.close()


def _draw(task: EngineParityTask, engine: Engine, source: str, adapter: Path | None) -> dict[tuple[str, str], Cell]:
    from persona_assets.generation.engine import Prompt
    from persona_assets.generation.marker import marker_hit
    from persona_assets.statistics.engine_parity import Cell

    samples = task.evaluation.completions_per_question
    sampling = task.evaluation.sampling
    greedy = sampling.model_copy(update={"temperature": 0.0})
    cells = {}
    for persona in (*task.sources, *task.others):
        prompts = [
            Prompt(
                persona.prompt,
                question,
                tuple(
                    derive_seed("engine_parity", task.evaluation.seed, source, persona.id, index, sample)
                    for sample in range(samples)
                ),
            )
            for index, question in enumerate(task.questions)
        ]
        first = [Prompt(prompt.system, prompt.user, prompt.seeds[:1]) for prompt in prompts]
        drawn = list(engine.generate(prompts, sampling, adapter))
        cells[source, persona.id] = Cell(
            greedy=tuple(completion.token_ids for completion in engine.generate(first, greedy, adapter)),
            hits=sum(marker_hit(completion.text, task.marker) for completion in drawn),
            n=len(drawn),
        )
    return cells
