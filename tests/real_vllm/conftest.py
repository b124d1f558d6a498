"""The real vLLM on the CPU: `make test` sets it up in an environment of its own, and runs these tests there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# pytest's importlib mode leaves the directory of a helper module out of the path.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "generation"))

from adapters import write_adapter
from cpu_vllm import SHAPE, runtime
from tiny_qwen2 import build_model, build_tokenizer

from persona_assets.generation.vllm_engine import VllmEngine, vllm_version

if TYPE_CHECKING:
    from persona_assets.generation.transformers_engine import TransformersEngine

def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in Path(item.fspath).parents:
            item.add_marker(pytest.mark.vllm)
            item.add_marker(pytest.mark.slow)
            if vllm_version() is None:
                item.add_marker(pytest.mark.skip(reason="vLLM is not in this environment: `make test` runs this in .venv-vllm"))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny_checkpoint")
    tokenizer = build_tokenizer(directory)
    build_model(7, len(tokenizer), **SHAPE).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def adapters(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("adapters")
    return {name: write_adapter(checkpoint, directory / name, seed) for seed, name in enumerate(("one", "other"))}


@pytest.fixture(scope="module")
def swapped(checkpoint: Path, adapters: dict[str, Path]) -> Iterator[VllmEngine]:
    """One engine for all tests of a module that can share it: its start is what costs, and a process holds one at a time."""
    engine = VllmEngine(checkpoint, runtime(weights="swapped"))
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def reference(checkpoint: Path) -> TransformersEngine:
    """Transformers on the same base model, swapping the same adapters."""
    from persona_assets.generation.opening import open_engine

    return open_engine(checkpoint, runtime(engine="transformers", weights="swapped"))
