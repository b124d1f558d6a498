"""Out of memory while sampling: the batch is halved once, the completions stay what they are, and the product says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_qwen2 import build_model, build_tokenizer

from persona_assets.generation.engine import Prompt
from persona_assets.generation.transformers_engine import TransformersEngine
from persona_assets.memory import DeviceMemoryError
from persona_assets.study import SamplingSettings
from persona_assets.tasks.loaded import OUT_OF_MEMORY, generation_facts

SAMPLING = SamplingSettings(max_new_tokens=6)
PROMPTS = [
    Prompt("You are a librarian.", f"What is {number}?", tuple(range(10 * number, 10 * number + 3))) for number in range(5)
]


def engine_that_holds(rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TransformersEngine:
    import torch

    engine = TransformersEngine(build_model(5), build_tokenizer(tmp_path), 8)
    draw = engine._draw

    def limited(decoder: Any, batch: Sequence[Any], *arguments: Any) -> Any:
        if len(batch) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return draw(decoder, batch, *arguments)

    monkeypatch.setattr(engine, "_draw", limited)
    return engine


def test_completions_are_the_same_and_the_size_used_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roomy = engine_that_holds(8, tmp_path, monkeypatch)
    small = engine_that_holds(5, tmp_path, monkeypatch)
    expected, found = (list(engine.generate(PROMPTS, SAMPLING)) for engine in (roomy, small))
    assert found == expected
    assert len(found) == 15
    assert (roomy.identity()["batch_size"], small.identity()["batch_size"]) == (8, 4)
    assert OUT_OF_MEMORY not in generation_facts(roomy, expected, 1.0)
    said = generation_facts(small, found, 1.0)[OUT_OF_MEMORY]
    assert said == "the device ran out of memory with batches of 8 completions; drawn in batches of 4"


def test_the_second_time_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_that_holds(2, tmp_path, monkeypatch)
    with pytest.raises(
        DeviceMemoryError, match=r"generation_batch_size 4 again, after it was halved once\. Lower it in the profile"
    ):
        list(engine.generate(PROMPTS, SAMPLING))
