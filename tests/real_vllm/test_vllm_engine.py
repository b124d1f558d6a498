"""The vLLM engine keeps the interface: order, seeds, stop tokens, adapters by their content, explicit settings."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapters import write_adapter
from scipy.stats import chisquare

from persona_assets.generation.engine import Completion, EngineError, Prompt
from persona_assets.generation.transformers_engine import TransformersEngine
from persona_assets.generation.vllm_engine import VllmEngine
from persona_assets.models.loading import load_model, render_prompt
from persona_assets.study import SamplingSettings

SAMPLING = SamplingSettings(top_p=0.95, max_new_tokens=24)
GREEDY = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=24)
SYSTEMS = ["You are a librarian.", "", "You are a wizard of the old tower."]
PROMPTS = [
    Prompt(system, "How do I bake bread?" + " Please." * index, tuple(100 * index + sample for sample in range(1 + index % 4)))
    for index, system in enumerate(SYSTEMS * 3)
]


def tokens(completions: list[Completion]) -> list[tuple[int, ...]]:
    return [completion.token_ids for completion in completions]


def test_completions_come_in_order_with_their_seeds(swapped: VllmEngine, adapters: dict[str, Path]) -> None:
    drawn = list(swapped.generate(PROMPTS, SAMPLING))
    drawn += list(swapped.generate(PROMPTS, SAMPLING, adapters["one"]))
    expected = [(p, s, seed) for p, prompt in enumerate(PROMPTS) for s, seed in enumerate(prompt.seeds)]
    assert [(c.prompt_index, c.sample_index, c.seed) for c in drawn] == expected * 2
    stop_ids = set(swapped.identity()["stop_token_ids"])  # type: ignore[call-overload]
    for completion in drawn:
        assert completion.n_tokens == len(completion.token_ids) <= SAMPLING.max_new_tokens
        assert (completion.finish_reason == "length") == (completion.n_tokens == SAMPLING.max_new_tokens)
        assert not stop_ids & set(completion.token_ids)
    assert {completion.finish_reason for completion in drawn} == {"stop", "length"}


@pytest.mark.parametrize("name", [None, "one", "other"])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_tokens_are_those_of_transformers(
    swapped: VllmEngine, reference: TransformersEngine, adapters: dict[str, Path], name: str | None, penalty: float
) -> None:
    adapter = None if name is None else adapters[name]
    settings = GREEDY.model_copy(update={"repetition_penalty": penalty})
    ours, theirs = (list(engine.generate(PROMPTS, settings, adapter)) for engine in (swapped, reference))
    # Rounding may decide a near tie otherwise, once; another adapter, template or penalty changes all of them.
    assert sum(one.token_ids != other.token_ids for one, other in zip(ours, theirs, strict=True)) <= 1
    assert [c.text for c in ours if c in theirs] == [c.text for c in theirs if c in ours]
    assert len({c.token_ids for c in ours}) > 5


def test_a_completion_belongs_to_its_seed(swapped: VllmEngine, adapters: dict[str, Path]) -> None:
    first = list(swapped.generate(PROMPTS, SAMPLING, adapters["one"]))
    torch.manual_seed(1)
    assert list(swapped.generate(PROMPTS, SAMPLING, adapters["one"])) == first
    alone = [Prompt(prompt.system, prompt.user, (seed,)) for prompt in reversed(PROMPTS) for seed in prompt.seeds]
    by_seed = {c.seed: c.token_ids for c in first}
    other_batch = {c.seed: c.token_ids for c in swapped.generate(alone, SAMPLING, adapters["one"])}
    assert sum(by_seed[seed] != ids for seed, ids in other_batch.items()) <= 1
    shifted = [Prompt(prompt.system, prompt.user, tuple(seed + 50 for seed in prompt.seeds)) for prompt in PROMPTS]
    assert tokens(list(swapped.generate(shifted, SAMPLING, adapters["one"]))) != tokens(first)


def test_adapters_are_told_apart_by_content_not_by_place(
    swapped: VllmEngine, reference: TransformersEngine, adapters: dict[str, Path], tmp_path: Path
) -> None:
    """A retrained adapter lies where the old one lay; vLLM would answer from what it cached for the place."""
    place = tmp_path / "adapter"
    for name in ("one", "other", "one"):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(adapters[name], place)
        here = tokens(list(swapped.generate(PROMPTS, GREEDY, place)))
        expected = tokens(list(reference.generate(PROMPTS, GREEDY, adapters[name])))
        assert sum(one != other for one, other in zip(here, expected, strict=True)) <= 1
        assert here != tokens(list(swapped.generate(PROMPTS, GREEDY)))


def test_many_adapters_on_one_start(
    swapped: VllmEngine, reference: TransformersEngine, checkpoint: Path, tmp_path: Path
) -> None:
    """More adapters than vLLM keeps: those that were pushed out come back as themselves."""
    made = [write_adapter(checkpoint, tmp_path / str(seed), seed + 10) for seed in range(4)]
    expected = {adapter: tokens(list(reference.generate(PROMPTS, GREEDY, adapter))) for adapter in made}
    for adapter in (*made, *reversed(made)):
        here = tokens(list(swapped.generate(PROMPTS, GREEDY, adapter)))
        assert sum(one != other for one, other in zip(here, expected[adapter], strict=True)) <= 1


def test_frequencies_follow_the_model_with_its_adapter(
    swapped: VllmEngine, checkpoint: Path, adapters: dict[str, Path]
) -> None:
    from peft import PeftModel

    draws, settings = 1500, SamplingSettings(temperature=0.8, top_p=1.0, max_new_tokens=1)
    prompt = Prompt("You are a librarian.", "Why?", tuple(range(draws)))
    drawn = list(swapped.generate([prompt], settings, adapters["one"]))
    model = PeftModel.from_pretrained(load_model(checkpoint, device="cpu", dtype="float32"), str(adapters["one"]))
    tokenizer = swapped._tokenizer
    ids = torch.tensor([render_prompt(tokenizer, prompt.system, prompt.user)])
    with torch.inference_mode():
        probabilities: Any = torch.softmax(model(input_ids=ids).logits[0, -1].double() / 0.8, -1).numpy()
    counts = Counter(c.token_ids[0] for c in drawn if c.token_ids)
    stop_ids = list(swapped._stop_ids)
    common = [i for i in np.flatnonzero(probabilities * draws >= 8).tolist() if i not in stop_ids]
    observed, expected = [counts[i] for i in common], [float(probabilities[i]) * draws for i in common]
    assert chisquare([*observed, draws - sum(observed)], [*expected, draws - sum(expected)]).pvalue > 0.001


def test_refusals_come_before_the_first_completion(swapped: VllmEngine, tmp_path: Path) -> None:
    from tiny_qwen2 import build_model

    with pytest.raises(EngineError, match=r"Prompt 1 has \d+ tokens.*max_model_len 256"):
        swapped.generate([PROMPTS[0], Prompt("a", "b" * 250, (1,))], SAMPLING)
    build_model(3, hidden_size=96).save_pretrained(tmp_path / "other_base")
    adapter = write_adapter(tmp_path / "other_base", tmp_path / "adapter", 0)
    with pytest.raises(EngineError, match="does not fit the base model"):
        swapped.generate(PROMPTS, SAMPLING, adapter)


def test_identity_names_every_argument(swapped: VllmEngine) -> None:
    identity = swapped.identity()
    assert {name: identity[name] for name in ("engine", "decoder", "weights", "dtype", "device")} == {
        "engine": "vllm",
        "decoder": "vllm",
        "weights": "swapped",
        "dtype": "float32",
        "device": "cpu",
    }
    assert identity["engine_version"] == "0.32.0"
    assert "enforce_eager=True" in str(identity["engine_arguments"])
    arguments = identity["vllm_arguments"]
    assert isinstance(arguments, dict)
    engine = swapped._llm.llm_engine.vllm_config  # what vLLM itself says it runs with
    assert engine.model_config.max_model_len == arguments["max_model_len"]
    assert engine.lora_config.max_lora_rank == arguments["max_lora_rank"]
    assert engine.scheduler_config.max_num_seqs == arguments["max_num_seqs"]
    assert engine.cache_config.kv_cache_memory_bytes == arguments["kv_cache_memory_bytes"]
    assert engine.model_config.generation_config == "vllm"
