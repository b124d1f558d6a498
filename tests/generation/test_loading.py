"""Loading a checkpoint says what is wrong with it; prompts are rendered with an explicit system message."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_qwen2 import build_model

from persona_assets.hashing import sha256_text
from persona_assets.models.loading import (
    CheckpointError,
    chat_template_digest,
    free,
    load_model,
    load_tokenizer,
    render_prompt,
    resolve_device,
    resolve_dtype,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """Return a copy of the checkpoint, to be damaged."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def load(directory: Path) -> PreTrainedModel:
    return load_model(directory, device="cpu", dtype="float32")


def test_loaded_model_is_the_saved_one(model: PreTrainedModel) -> None:
    original = build_model(7)
    assert not model.training
    for name, parameter in original.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name


def test_attention_is_eager_for_tiny_models_on_a_cpu_else_sdpa(checkpoint: Path, tmp_path: Path) -> None:
    assert load(checkpoint).config._attn_implementation == "eager"
    build_model(1, hidden_size=512, num_hidden_layers=1, intermediate_size=16).save_pretrained(tmp_path)
    assert load(tmp_path).config._attn_implementation == "sdpa"
    assert load_model(checkpoint, device="cpu", dtype="float32", attention="sdpa").config._attn_implementation == "sdpa"


def test_dtype_is_the_one_asked_for(checkpoint: Path) -> None:
    assert load_model(checkpoint, device="auto", dtype="bfloat16").dtype == torch.bfloat16
    assert resolve_dtype(torch.float16) is torch.float16
    for bad in ("int32", "float23", "nn"):
        with pytest.raises(CheckpointError, match="no floating type"):
            resolve_dtype(bad)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(CheckpointError, match="no GPU here"):
        resolve_device("cuda")
    with pytest.raises(CheckpointError, match="'gpu' is no device"):
        resolve_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")


def remove(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def truncate(directory: Path) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def drop_tensor(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def add_tensor(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    tensors["model.layers.1.mlp.extra.weight"] = torch.zeros(2)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def reshape(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(2, 2)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def shard_missing(directory: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def index_broken(directory: Path) -> None:
    (directory / "model.safetensors.index.json").write_text("{")


def index_outside(directory: Path) -> None:
    (directory / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x.safetensors"}}')


def needs_code(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnLM"}}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "own.py").write_text("raise SystemExit('code of the checkpoint was run')")


def pickled_only(directory: Path) -> None:
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (shutil.rmtree, "no such checkpoint directory"),
        (remove("config.json"), "config.json is missing"),
        (remove("model.safetensors"), "model.safetensors missing"),
        (pickled_only, "pickled weights are not read"),
        (truncate, "cannot be loaded"),
        (drop_tensor, "missing_keys.*up_proj"),
        (add_tensor, "unexpected_keys.*extra"),
        (reshape, "up_proj"),
        (shard_missing, "model-00001-of-00002.safetensors missing"),
        (index_broken, "not a safetensors index"),
        (index_outside, "outside the checkpoint"),
        (needs_code, "cannot be loaded"),
    ],
)
def test_damaged_checkpoint_is_refused(copy: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(copy)
    with pytest.raises(CheckpointError, match=reason) as raised:
        load(copy)
    assert str(copy) in str(raised.value)


def test_missing_or_broken_tokenizer_is_refused(copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="tokenizer cannot be loaded"):
        load_tokenizer(copy)
    (copy / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer.json is missing"):
        load_tokenizer(copy)


@pytest.mark.parametrize("system", ["You are a librarian.", ""])
def test_prompt_has_an_explicit_system_message(tokenizer: PreTrainedTokenizerBase, system: str) -> None:
    text = tokenizer.decode(render_prompt(tokenizer, system, "Why?"))
    expected = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert text == expected


def test_qwen_default_system_prompt_does_not_slip_in(copy: Path) -> None:
    template = (
        "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% else %}You are Qwen.{% endif %}"
        "|{{ messages[-1]['content'] }}"
    )
    (copy / "chat_template.jinja").write_text(template)
    tokenizer = load_tokenizer(copy)
    assert tokenizer.decode(render_prompt(tokenizer, "", "Why?")) == "|Why?"
    assert chat_template_digest(tokenizer) == sha256_text(template)


def test_tokenizer_without_chat_template_is_refused(copy: Path) -> None:
    (copy / "chat_template.jinja").unlink()
    tokenizer = load_tokenizer(copy)
    for use in (chat_template_digest, lambda t: render_prompt(t, "a", "b")):
        with pytest.raises(CheckpointError, match="chat template"):
            use(tokenizer)


def test_free_gives_the_memory_back(checkpoint: Path) -> None:
    model = load(checkpoint)
    free(model)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
