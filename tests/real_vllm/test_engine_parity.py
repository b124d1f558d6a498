"""The comparison of engines with the real vLLM: it passes when all is well, and names the way that has a wrong adapter."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from cpu_vllm import runtime

from persona_assets.generation.vllm_engine import VllmEngine
from persona_assets.models.merging import merge_adapter
from persona_assets.panel import Persona
from persona_assets.statistics.engine_parity import judge_parity
from persona_assets.study import Evaluation, SamplingSettings
from persona_assets.tasks.engine_parity import TABLE_FILE, EngineParityTask, compare_engines

SOURCES = tuple(
    Persona(id=name, category="occupational", prompt=f"You are a {name}.") for name in ("librarian", "pirate")
)
PROBES = (("You are a librarian.", "What do you read?"),)


@pytest.fixture
def task(checkpoint: Path, adapters: dict[str, Path], tmp_path: Path) -> EngineParityTask:
    """The tiny model's cells; a letter that its adapters say more or less often stands for the marker."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "checkpoint").symlink_to(checkpoint)
    products = {}
    for source, adapter in zip(SOURCES, adapters.values(), strict=True):
        products[source.id] = tmp_path / source.id
        products[source.id].mkdir()
        (products[source.id] / "adapter").symlink_to(adapter)
    out = tmp_path / "out"
    out.mkdir()
    return EngineParityTask(
        out_dir=out,
        base_dir=base,
        adapters=products,
        sources=SOURCES,
        others=(),
        questions=("How do I bake bread?", "Why is the sky blue?", "What is a ship?"),
        evaluation=Evaluation(n_questions=3, completions_per_question=20, sampling=SamplingSettings(max_new_tokens=12)),
        marker="x",
        probes=PROBES,
        runtime=runtime(engine="vllm"),
    )


def compare(task: EngineParityTask) -> pl.DataFrame:
    compare_engines(task)
    return pl.read_parquet(task.out_dir / TABLE_FILE)


def differing(table: pl.DataFrame) -> set[str]:
    return set(table.filter(pl.col("role") == "engine", ~pl.col("agrees"))["way"])


def test_every_way_gives_the_same_completions(task: EngineParityTask) -> None:
    table = compare(task)
    verdict = judge_parity(table)
    assert verdict.passed, verdict.sentence
    engines = table.filter(pl.col("role") == "engine")
    assert set(engines["way"]) == {"transformers, swapped", "vLLM, swapped", "vLLM, merged"}
    assert engines["agrees"].all()
    assert verdict.numbers["not_compared"] == 0


def test_vllm_with_two_adapters_mixed_up_is_caught(task: EngineParityTask, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (directory / "adapter" for directory in task.adapters.values())
    request = VllmEngine._request
    mixed = {first: second, second: first}
    monkeypatch.setattr(VllmEngine, "_request", lambda engine, adapter: request(engine, mixed[adapter]))
    table = compare(task)
    assert differing(table) == {"vLLM, swapped"}
    assert not judge_parity(table).passed
    assert "vLLM, swapped differs" in judge_parity(table).sentence


def test_vllm_with_its_adapter_left_off_is_caught(task: EngineParityTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VllmEngine, "_request", lambda engine, adapter: None)
    table = compare(task)
    assert differing(table) == {"vLLM, swapped"}
    assert not judge_parity(table).passed


def test_engine_is_closed_before_the_next_one_opens(checkpoint: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    """Merged weights: a start for each checkpoint, in the slot that tasks share, and threads that can be set afterwards."""
    import torch

    from persona_assets.tasks.loaded import release_models, runtime_engine

    before = torch.set_num_threads
    opened = []
    for name, adapter in adapters.items():
        merge_adapter(checkpoint, adapter, tmp_path / name, probe_prompts=PROBES)
        engine = runtime_engine(tmp_path / name, runtime(), slot="merged")
        assert isinstance(engine, VllmEngine)
        assert all(other._llm is None for other in opened)
        opened.append(engine)
    release_models()
    assert opened[-1]._llm is None
    assert torch.set_num_threads is before
