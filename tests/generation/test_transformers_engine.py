"""Both decoders: completions in order, reproducible, independent of batches, and those transformers would give."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tiny_qwen2 import build_model

from persona_assets.generation.engine import Completion, EngineError, Prompt
from persona_assets.generation.transformers_engine import DecoderName, TransformersEngine, stop_token_ids
from persona_assets.models.loading import render_prompt
from persona_assets.study import SamplingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

pytestmark = pytest.mark.slow

DECODERS: tuple[DecoderName, ...] = ("module", "shared_prefix")
SAMPLING = SamplingSettings(top_p=0.95, max_new_tokens=24)
GREEDY = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=24)
# Ragged on purpose: other lengths, other numbers of samples, an empty system prompt.
PROMPTS = [
    Prompt(system, "How do I bake bread?" + " Please." * index, tuple(100 * index + sample for sample in range(1 + index % 4)))
    for index, system in enumerate(["You are a librarian.", "", "You are a wizard of the old tower."] * 3)
]


def token_ids(completions: list[Completion]) -> list[tuple[int, ...]]:
    return [completion.token_ids for completion in completions]


@pytest.fixture(params=DECODERS)
def decoder(request: pytest.FixtureRequest) -> DecoderName:
    name: DecoderName = request.param
    return name


def test_completions_come_in_order_with_their_seeds(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, decoder: DecoderName
) -> None:
    completions = list(TransformersEngine(model, tokenizer, 7, decoder).generate(PROMPTS, SAMPLING))
    expected = [(p, s, seed) for p, prompt in enumerate(PROMPTS) for s, seed in enumerate(prompt.seeds)]
    assert [(c.prompt_index, c.sample_index, c.seed) for c in completions] == expected
    stop_ids = set(stop_token_ids(tokenizer))
    for completion in completions:
        assert completion.n_tokens == len(completion.token_ids) <= SAMPLING.max_new_tokens
        assert (completion.finish_reason == "length") == (completion.n_tokens == SAMPLING.max_new_tokens)
        assert not stop_ids & set(completion.token_ids)
        assert completion.text == tokenizer.decode(list(completion.token_ids), skip_special_tokens=True)
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}


def test_completion_does_not_depend_on_its_batch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, decoder: DecoderName
) -> None:
    reference = list(TransformersEngine(model, tokenizer, 1, decoder).generate(PROMPTS, SAMPLING))
    for batch_size in (2, 3, 64):
        engine = TransformersEngine(model, tokenizer, batch_size, decoder)
        assert token_ids(list(engine.generate(PROMPTS, SAMPLING))) == token_ids(reference)
    by_seed = {completion.seed: completion.token_ids for completion in reference}
    alone = [Prompt(prompt.system, prompt.user, (seed,)) for prompt in reversed(PROMPTS) for seed in prompt.seeds]
    engine = TransformersEngine(model, tokenizer, 5, decoder)
    assert {c.seed: c.token_ids for c in engine.generate(alone, SAMPLING)} == by_seed


def test_same_call_gives_the_same_bytes_and_other_seeds_others(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, decoder: DecoderName
) -> None:
    engine = TransformersEngine(model, tokenizer, 8, decoder)
    first = list(engine.generate(PROMPTS, SAMPLING))
    torch.manual_seed(1)  # the global generator plays no part
    assert list(engine.generate(PROMPTS, SAMPLING)) == first
    shifted = [Prompt(prompt.system, prompt.user, tuple(seed + 50 for seed in prompt.seeds)) for prompt in PROMPTS]
    assert token_ids(list(engine.generate(shifted, SAMPLING))) != token_ids(first)


@pytest.mark.parametrize("shape", [{}, {"num_attention_heads": 2, "num_key_value_heads": 1}, {"num_key_value_heads": 4}])
@pytest.mark.parametrize("tied", [True, False])
def test_decoders_draw_the_same_tokens(tokenizer: PreTrainedTokenizerBase, shape: dict[str, int], tied: bool) -> None:
    model = build_model(11, len(tokenizer), tie_word_embeddings=tied, **shape)
    many = [Prompt(p.system, p.user, tuple(range(1000 * i, 1000 * i + 12))) for i, p in enumerate(PROMPTS)]
    drawn = [list(TransformersEngine(model, tokenizer, 40, name).generate(many, SAMPLING)) for name in DECODERS]
    # Rounding may move a draw that lies within 1e-6 of an edge, once in some 50,000 tokens; a wrong decoder moves all.
    assert sum(one != other for one, other in zip(*drawn, strict=True)) <= 1
    assert len({completion.n_tokens for completion in drawn[0]}) > 3  # rows left the batch at different times


def test_greedy_is_generate_of_transformers(tokenizer: PreTrainedTokenizerBase, decoder: DecoderName) -> None:
    reasons: Counter[str] = Counter()
    for seed in (7, 21, 22, 23, 24, 25):
        model = build_model(seed, len(tokenizer))
        prompts = [Prompt(prompt.system, prompt.user, (0,)) for prompt in PROMPTS]
        for prompt, completion in zip(
            prompts, TransformersEngine(model, tokenizer, 4, decoder).generate(prompts, GREEDY), strict=True
        ):
            expected = generate(model, tokenizer, prompt)
            assert list(completion.token_ids) == expected
            reasons[completion.finish_reason] += 1
    assert reasons["stop"] >= 3
    assert reasons["length"] >= 3


def test_module_decoder_fits_other_architectures(tokenizer: PreTrainedTokenizerBase) -> None:
    """GPT-2 has absolute positions, which padding would shift unless each row counts its own."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(4)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=256, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3)
    model = GPT2LMHeadModel(config).train(False)
    prompts = [Prompt(prompt.system, prompt.user, (0,)) for prompt in PROMPTS]
    drawn = TransformersEngine(model, tokenizer, 16).generate(prompts, GREEDY)
    assert [list(c.token_ids) for c in drawn] == [generate(model, tokenizer, prompt) for prompt in prompts]


@pytest.mark.parametrize("penalty", [1.1, 0.9])
def test_greedy_with_a_repetition_penalty_is_generate_of_transformers(
    tokenizer: PreTrainedTokenizerBase, decoder: DecoderName, penalty: float
) -> None:
    """Rows leave the batch at different times, so a penalty that follows the wrong row would show."""
    settings = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=24, repetition_penalty=penalty)
    prompts = [Prompt(prompt.system, prompt.user, (0,)) for prompt in PROMPTS]
    lengths: set[int] = set()
    for seed in (7, 21, 22, 23, 24, 25):
        model = build_model(seed, len(tokenizer))
        drawn = [list(c.token_ids) for c in TransformersEngine(model, tokenizer, 4, decoder).generate(prompts, settings)]
        assert drawn == [generate(model, tokenizer, prompt, repetition_penalty=penalty) for prompt in prompts]
        lengths |= {len(ids) for ids in drawn}
    assert len(lengths) > 2


def generate(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, **settings: float) -> list[int]:
    ids = torch.tensor([render_prompt(tokenizer, prompt.system, prompt.user)])
    stop_ids = list(stop_token_ids(tokenizer))
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=GREEDY.max_new_tokens,
        eos_token_id=stop_ids,
        pad_token_id=tokenizer.pad_token_id,
        **settings,
    )
    new: list[int] = output[0, ids.shape[1] :].tolist()
    return new[:-1] if new[-1] in stop_ids else new


def test_frequencies_follow_the_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, decoder: DecoderName) -> None:
    """First and second tokens of many samples against the probabilities that the model's own forward gives."""
    draws = 3000
    sampling = SamplingSettings(temperature=0.8, top_p=1.0, max_new_tokens=2)
    prompt = Prompt("You are a librarian.", "Why?", tuple(range(draws)))
    pairs = [c.token_ids for c in TransformersEngine(model, tokenizer, 1000, decoder).generate([prompt], sampling)]
    ids = render_prompt(tokenizer, prompt.system, prompt.user)
    assert_frequencies([pair[0] if pair else None for pair in pairs], next_probabilities(model, ids, 0.8), tokenizer)
    common = Counter(pair[0] for pair in pairs if pair).most_common(1)[0][0]
    seconds = [pair[1] if len(pair) == 2 else None for pair in pairs if pair and pair[0] == common]
    assert len(seconds) > 100
    assert_frequencies(seconds, next_probabilities(model, [*ids, common], 0.8), tokenizer)


def next_probabilities(model: PreTrainedModel, ids: list[int], temperature: float) -> np.ndarray:
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1].double()
    probabilities: np.ndarray = torch.softmax(logits / temperature, -1).numpy()
    return probabilities


def assert_frequencies(tokens: list[int | None], probabilities: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> None:
    """Compare counts with probabilities: common tokens one by one, the rest and the stop tokens as classes."""
    stop_ids = list(stop_token_ids(tokenizer))
    common = [i for i in np.flatnonzero(probabilities * len(tokens) >= 8).tolist() if i not in stop_ids]
    counts = Counter(tokens)
    observed = [counts[i] for i in common] + [counts[None]]
    expected = [float(probabilities[i]) for i in common] + [float(probabilities[stop_ids].sum())]
    observed.append(len(tokens) - sum(observed))
    expected.append(1.0 - sum(expected))
    assert chisquare(observed, np.array(expected) * len(tokens)).pvalue > 0.001


def test_nothing_is_taken_from_generation_config(tokenizer: PreTrainedTokenizerBase, decoder: DecoderName) -> None:
    plain, loaded = build_model(7, len(tokenizer)), build_model(7, len(tokenizer))
    loaded.generation_config.update(
        do_sample=True, temperature=0.01, top_k=1, top_p=0.1, repetition_penalty=9.0, max_new_tokens=1, eos_token_id=50
    )
    drawn = [list(TransformersEngine(m, tokenizer, 8, decoder).generate(PROMPTS, SAMPLING)) for m in (plain, loaded)]
    assert drawn[0] == drawn[1]


def test_identity_names_what_can_change_a_completion(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, decoder: DecoderName
) -> None:
    import transformers

    assert TransformersEngine(model, tokenizer, 8, decoder).identity() == {
        "engine": "transformers",
        "engine_version": transformers.__version__,
        "torch_version": torch.__version__,
        "decoder": decoder,
        "weights": "merged",
        "engine_arguments": "attention=eager",
        "dtype": "float32",
        "device": "cpu",
        "batch_size": 8,
        "stop_token_ids": [0, 2],
    }


def test_no_prompts_no_completions(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    assert list(TransformersEngine(model, tokenizer, 8).generate([], SAMPLING)) == []


def test_refusals_come_before_the_first_completion(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, decoder: DecoderName
) -> None:
    engine = TransformersEngine(model, tokenizer, 8, decoder)
    with pytest.raises(EngineError, match="merged weights"):
        engine.generate(PROMPTS, SAMPLING, Path("adapter"))
    with pytest.raises(EngineError, match=r"Prompt 1 has \d+ tokens.*context of 256"):
        engine.generate([PROMPTS[0], Prompt("a", "b" * 250, (1,))], SAMPLING)
    with pytest.raises(EngineError, match="batch_size: 0"):
        TransformersEngine(model, tokenizer, 0, decoder)


def test_broken_weights_are_reported(tokenizer: PreTrainedTokenizerBase, decoder: DecoderName) -> None:
    model = build_model(7, len(tokenizer))
    with torch.no_grad():
        model.get_parameter("model.layers.1.mlp.down_proj.weight").fill_(float("nan"))
    with pytest.raises(EngineError, match="not finite"):
        list(TransformersEngine(model, tokenizer, 8, decoder).generate(PROMPTS, SAMPLING))


@pytest.mark.parametrize(
    ("seeds", "reason"), [((), "no seeds"), ((1, 2, 1), "repeats a seed"), ((-1,), "seed -1"), ((2**64,), "2\\*\\*64")]
)
def test_prompt_refuses_seeds(seeds: tuple[int, ...], reason: str) -> None:
    with pytest.raises(EngineError, match=reason):
        Prompt("system", "user", seeds)


def test_tokenizer_without_stop_token_is_refused(model: PreTrainedModel) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")))
    with pytest.raises(EngineError, match="neither an eos_token"):
        TransformersEngine(model, bare, 8)
