"""Merging: what is written acts like base plus adapter, and an adapter of another base is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from persona_assets.models.loading import chat_template_digest, load_model, load_tokenizer, render_prompt
from persona_assets.models.merging import AdapterMerger, MergeError, merge_adapter

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

PROBES = (("You are a librarian.", "What do you read?"), ("You are a pirate.", "Where is the gold?"))
TARGETS = ["q_proj", "v_proj", "down_proj"]


def _tokenizer() -> PreTrainedTokenizerBase:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    bpe.train_from_iterator(
        ["You are a librarian"],
        trainers.BpeTrainer(vocab_size=280, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=template
    )


def _checkpoint(directory: Path, **changes: object) -> Path:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = _tokenizer()
    settings: dict[str, object] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = Qwen2ForCausalLM(Qwen2Config(**(settings | changes)))  # type: ignore[arg-type]
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _adapter(directory: Path, base: Path, seed: int, **changes: object) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model

    settings = {"r": 4, "lora_alpha": 8, "use_rslora": True, "target_modules": TARGETS, "task_type": "CAUSAL_LM"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_peft_model(
            load_model(base, device="cpu", dtype="float32"),
            LoraConfig(**(settings | changes)),  # type: ignore[arg-type]
        )
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    return _adapter(tmp_path_factory.mktemp("adapter"), base, seed=2)


@pytest.fixture(scope="module")
def merger(base: Path) -> AdapterMerger:
    return AdapterMerger(base, probe_prompts=PROBES)


def _digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


def _logits(model: torch.nn.Module, checkpoint: Path, question: str) -> torch.Tensor:
    import torch

    ids = render_prompt(load_tokenizer(checkpoint), "You are a sailor.", question)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits
    assert isinstance(logits, torch.Tensor)
    return logits


def test_the_written_checkpoint_acts_like_base_plus_adapter(
    base: Path, adapter: Path, merger: AdapterMerger, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel

    report = merger.merge(adapter, tmp_path / "merged")
    plain = load_model(base, device="cpu", dtype="float32")
    before = _logits(plain, base, "Which wind is best?")
    adapted = PeftModel.from_pretrained(plain, str(adapter)).eval()
    expected = _logits(adapted, base, "Which wind is best?")  # a question the merger did not probe
    found = _logits(load_model(tmp_path / "merged", device="cpu", dtype="float32"), base, "Which wind is best?")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert (before - expected).abs().max() > 0.5

    prompts = [render_prompt(load_tokenizer(base), *probe) for probe in PROBES]
    assert report.n_positions == sum(map(len, prompts))
    assert report.n_merged_modules == 2 * len(TARGETS)
    assert report.max_abs_difference <= report.allowed_difference < report.adapter_effect
    assert report.argmax_agreement == 1.0


def test_only_the_targeted_weights_differ_from_the_base(base: Path, adapter: Path, merger: AdapterMerger, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    merger.merge(adapter, tmp_path)
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    tensors = load_file(adapter / "adapter_model.safetensors")
    assert sorted(before) == sorted(after)
    for name, weight in before.items():
        stem = "base_model.model." + name.removesuffix(".weight")
        if f"{stem}.lora_A.weight" in tensors:
            delta = 8 / 4**0.5 * tensors[f"{stem}.lora_B.weight"] @ tensors[f"{stem}.lora_A.weight"]  # rsLoRA
            torch.testing.assert_close(after[name], weight + delta, rtol=0, atol=1e-6)
            assert not torch.equal(after[name], weight)
        else:
            assert torch.equal(after[name], weight), name


def test_tokenizer_and_chat_template_are_the_bases(base: Path, adapter: Path, merger: AdapterMerger, tmp_path: Path) -> None:
    merger.merge(adapter, tmp_path)
    before, after = _digests(base), _digests(tmp_path)
    shared = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"}
    assert shared <= set(after)
    assert {name: after[name] for name in shared} == {name: before[name] for name in shared}
    assert chat_template_digest(load_tokenizer(tmp_path)) == chat_template_digest(load_tokenizer(base))


def test_merges_do_not_see_each_other_and_give_the_same_bytes_anywhere(
    base: Path, adapter: Path, merger: AdapterMerger, tmp_path: Path
) -> None:
    other = _adapter(tmp_path / "other", base, seed=3)
    merger.merge(other, tmp_path / "first")
    merger.merge(adapter, tmp_path / "second")
    report = merge_adapter(base, adapter, tmp_path / "a" / "third", probe_prompts=PROBES)
    assert _digests(tmp_path / "second") == _digests(tmp_path / "a" / "third")
    assert _digests(tmp_path / "first") != _digests(tmp_path / "second")
    assert merger.merge(adapter, tmp_path / "fourth") == report


def test_the_base_in_memory_stays_as_it_was(base: Path, adapter: Path, merger: AdapterMerger, tmp_path: Path) -> None:
    import torch

    merger.merge(adapter, tmp_path)
    untouched = dict(load_model(base, device="cpu", dtype="float32").named_parameters())
    held = dict(merger._base.named_parameters())
    assert list(held) == list(untouched)
    assert all(torch.equal(held[name], untouched[name]) for name in untouched)


def test_half_precision_is_merged_within_its_own_tolerance(base: Path, adapter: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    report = merge_adapter(base, adapter, tmp_path, probe_prompts=PROBES, dtype="bfloat16")
    assert 0 < report.max_abs_difference < report.allowed_difference < report.adapter_effect
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}


def _rewrite(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(directory / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, directory / "adapter_model.safetensors")

    return damage


def _configure(**changes: object) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        path = directory / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")

    return damage


A_KEY = "base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight"
BASE_KEY = "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight"


def _base_layer(tensors: dict[str, torch.Tensor]) -> None:
    import torch

    tensors[BASE_KEY] = torch.zeros(32, 32)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_rewrite(lambda tensors: tensors.pop(A_KEY)), rf"{A_KEY} is missing \(1 such tensors\)"),
        (_rewrite(_base_layer), rf"{BASE_KEY} is not expected"),
        (_rewrite(lambda t: t.update({A_KEY: t[A_KEY][:, :16].clone()})), rf"{A_KEY} has shape \[4, 16\], .*\[4, 32\]"),
        (_rewrite(lambda t: t.update({A_KEY: t[A_KEY] * float("nan")})), "not finite"),
        (_configure(r=8), r"lora_A.weight has shape \[4, 32\], the base needs \[8, 32\]"),
        (_configure(target_modules=["q_proj"]), "is not expected"),
        (_configure(target_modules=["fc_9"]), "no linear layer named fc_9"),
        (_configure(target_modules="all-linear"), "target_modules a list"),
        (_configure(peft_type="IA3"), "peft_type is not LORA"),
        (lambda directory: (directory / "adapter_model.safetensors").unlink(), "not a readable adapter"),
        (lambda directory: (directory / "adapter_config.json").write_text("{"), "not a readable adapter"),
        (lambda directory: (directory / "adapter_model.safetensors").write_bytes(b"x" * 99), "not a readable adapter"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_before_anything_is_written(
    damage: Callable[[Path], None], message: str, adapter: Path, merger: AdapterMerger, tmp_path: Path
) -> None:
    shutil.copytree(adapter, tmp_path / "damaged")
    damage(tmp_path / "damaged")
    with pytest.raises(MergeError, match=message):
        merger.merge(tmp_path / "damaged", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 3}, r"layers\.2\..* is not expected"),
        ({"num_hidden_layers": 1}, r"layers\.1\..* is missing"),
        ({"intermediate_size": 64}, "has shape"),
    ],
)
def test_an_adapter_of_another_base_is_refused(
    changes: dict[str, object], message: str, merger: AdapterMerger, tmp_path: Path
) -> None:
    stranger = _adapter(tmp_path / "adapter", _checkpoint(tmp_path / "base", **changes), seed=4)
    with pytest.raises(MergeError, match=message):
        merger.merge(stranger, tmp_path / "merged")


def test_a_merge_that_goes_wrong_is_found_on_the_written_files(
    adapter: Path, merger: AdapterMerger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners.lora import Linear

    right = Linear.get_delta_weight
    # A merge with another scale than the forward pass, which is how a forgotten rsLoRA shows.
    monkeypatch.setattr(Linear, "get_delta_weight", lambda layer, name: right(layer, name) / 2)
    with pytest.raises(MergeError, match="does not act like base plus adapter: logits differ by up to"):
        merger.merge(adapter, tmp_path / "merged")


def test_what_cannot_be_verified_or_overwritten_is_refused(
    base: Path, adapter: Path, merger: AdapterMerger, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    with pytest.raises(MergeError, match="full: is not empty"):
        merger.merge(adapter, tmp_path / "full")
    with pytest.raises(MergeError, match="none was given"):
        AdapterMerger(base, probe_prompts=())
    with pytest.raises(MergeError, match="dtype: no merge tolerance for 'float64'"):
        AdapterMerger(base, probe_prompts=PROBES, dtype="float64")
