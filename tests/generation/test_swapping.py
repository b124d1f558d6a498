"""Adapters swapped on one loaded model give the completions of the merged checkpoints, and leave no trace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from adapters import write_adapter
from tiny_qwen2 import build_model

from persona_assets.generation.engine import Completion, EngineError, Prompt
from persona_assets.generation.opening import open_engine
from persona_assets.generation.transformers_engine import DecoderName, TransformersEngine
from persona_assets.models.loading import load_model, load_tokenizer
from persona_assets.models.merging import merge_adapter
from persona_assets.study import Runtime, SamplingSettings

pytestmark = pytest.mark.slow

SAMPLING = SamplingSettings(max_new_tokens=16)
PROMPTS = [Prompt(f"You are persona {n}.", "How do I bake bread?", (10 * n, 10 * n + 1, 10 * n + 2)) for n in range(6)]
PROBES = (("You are a librarian.", "What do you read?"),)


@pytest.fixture(scope="module")
def adapters(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("adapters")
    return {name: write_adapter(checkpoint, directory / name, seed) for seed, name in enumerate(("one", "other"))}


@pytest.fixture(scope="module")
def merged(checkpoint: Path, adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("merged")
    for name, adapter in adapters.items():
        merge_adapter(checkpoint, adapter, directory / name, probe_prompts=PROBES)
    return {name: directory / name for name in adapters}


def runtime(**changes: str) -> Runtime:
    return Runtime.model_validate({"device": "cpu", "dtype": "float32", "generation_batch_size": 7, **changes})


def completions(checkpoint: Path, adapter: Path | None = None, **changes: str) -> list[Completion]:
    return list(open_engine(checkpoint, runtime(**changes)).generate(PROMPTS, SAMPLING, adapter))


@pytest.mark.parametrize("decoder", ["module", "shared_prefix"])
def test_swapped_completions_are_those_of_the_merged_checkpoints(
    checkpoint: Path, adapters: dict[str, Path], merged: dict[str, Path], decoder: DecoderName
) -> None:
    expected = {name: completions(path, decoder=decoder) for name, path in merged.items()}
    base = completions(checkpoint, decoder=decoder)
    assert expected["one"] != expected["other"]
    assert base not in expected.values()
    engine = open_engine(checkpoint, runtime(decoder=decoder, weights="swapped"))
    for name in ("one", "other", None, "one"):
        drawn = list(engine.generate(PROMPTS, SAMPLING, None if name is None else adapters[name]))
        assert drawn == (base if name is None else expected[name])


def test_swapping_leaves_the_weights_as_they_were(checkpoint: Path, adapters: dict[str, Path]) -> None:
    model = load_model(checkpoint, device="cpu", dtype="float32")
    engine = TransformersEngine(model, load_tokenizer(checkpoint), 8, weights="swapped")
    next(engine.generate(PROMPTS, SAMPLING, adapters["one"]))  # a generation that is given up half way
    list(engine.generate(PROMPTS, SAMPLING, adapters["other"]))
    untouched = load_model(checkpoint, device="cpu", dtype="float32")
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in untouched.named_parameters()]
    for name, parameter in untouched.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name


def test_two_generations_cannot_share_the_weights(checkpoint: Path, adapters: dict[str, Path]) -> None:
    engine = open_engine(checkpoint, runtime(weights="swapped"))
    first = engine.generate(PROMPTS, SAMPLING, adapters["one"])
    next(first)
    with pytest.raises(EngineError, match="still in force"):
        next(engine.generate(PROMPTS, SAMPLING, adapters["other"]))
    with pytest.raises(EngineError, match="still in force"):
        next(engine.generate(PROMPTS, SAMPLING))
    assert len(list(first)) == len(PROMPTS) * 3 - 1


def test_an_adapter_of_another_base_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    build_model(3, hidden_size=64).save_pretrained(tmp_path / "other_base")
    adapter = write_adapter(tmp_path / "other_base", tmp_path / "adapter", 0)
    engine = open_engine(checkpoint, runtime(weights="swapped"))
    with pytest.raises(EngineError, match="does not fit the base model"):
        next(engine.generate(PROMPTS, SAMPLING, adapter))
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["use_rslora"] is True


def test_identity_says_that_weights_are_swapped(checkpoint: Path) -> None:
    assert open_engine(checkpoint, runtime(weights="swapped")).identity()["weights"] == "swapped"
    assert open_engine(checkpoint, runtime()).identity()["weights"] == "merged"
