"""A tiny base model, a good adapter of it, and a registry whose listing can be made to lie."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from persona_assets.hashing import sha256_file, sha256_text
from persona_assets.registry.base import Registry, RemoteFile, Resolved
from persona_assets.registry.files import FileRegistry
from persona_assets.registry.gate import GateBase, gate_base
from persona_assets.registry.reference import AdapterReference
from persona_assets.study import Recipe

TARGETS = ("q_proj", "v_proj", "down_proj")
RECIPE = Recipe(r=4, alpha=8, dropout=0.05, target_modules=TARGETS, effective_batch_size=4)
HIDDEN, KEYS, MLP, LAYERS = 8, 4, 12, 2
SHAPES = {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.v_proj": (KEYS, HIDDEN), "mlp.down_proj": (HIDDEN, MLP)}
TOKENIZER = {
    "version": "1.0",
    "truncation": None,
    "added_tokens": [{"id": 3, "content": "<|im_end|>", "special": True}],
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]], "dropout": None},
}
TEMPLATE = "{{ messages }}"
PERSONA, SEED = "librarian", 42
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"

# What a pickle would do if anything opened it.
PICKLE = b"cos\nsystem\n(S'touch /tmp/opened-a-pickle'\ntR."


def make_base(directory: Path) -> GateBase:
    """Write a base model's weights and tokenizer, and read off them what the gate compares with."""
    directory.mkdir()
    tensors = {
        f"model.layers.{layer}.{name}.weight": np.ones(shape, dtype=np.float32)
        for layer in range(LAYERS)
        for name, shape in SHAPES.items()
    }
    save_file({**tensors, "model.embed_tokens.weight": np.ones((4, HIDDEN), np.float32)}, directory / "model.safetensors")
    write_json(directory / "tokenizer.json", TOKENIZER)
    return gate_base(
        directory,
        directory,
        recipe=RECIPE,
        name="tiny/base_model",
        hub=("Org/Tiny-Instruct", "a" * 40),
        digest="digest-of-the-base",
        template_digest=sha256_text(TEMPLATE),
    )


def good_tensors() -> dict[str, np.ndarray[Any, Any]]:
    """Return the weights of an adapter that fits."""
    rng = np.random.default_rng(0)
    found = {}
    for layer in range(LAYERS):
        for name, (outputs, inputs) in SHAPES.items():
            module = f"base_model.model.model.layers.{layer}.{name}"
            found[f"{module}.lora_A.weight"] = rng.standard_normal((RECIPE.r, inputs)).astype(np.float32)
            found[f"{module}.lora_B.weight"] = rng.standard_normal((outputs, RECIPE.r)).astype(np.float32)
    return found


def good_config() -> dict[str, Any]:
    """Return what peft 0.21 writes for plain LoRA (a test compares the keys with peft's own)."""
    return {
        "alora_invocation_tokens": None,
        "alpha_pattern": {},
        "arrow_config": None,
        "auto_mapping": None,
        "base_model_name_or_path": "Org/Tiny-Instruct",
        "bias": "none",
        "corda_config": None,
        "ensure_weight_tying": False,
        "eva_config": None,
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "kasa_config": None,
        "layer_replication": None,
        "layers_pattern": None,
        "layers_to_transform": None,
        "loftq_config": {},
        "lora_alpha": RECIPE.alpha,
        "lora_bias": False,
        "lora_dropout": RECIPE.dropout,
        "lora_ga_config": None,
        "megatron_config": None,
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "monteclora_config": None,
        "peft_type": "LORA",
        "peft_version": "0.21.2",
        "qalora_group_size": 16,
        "r": RECIPE.r,
        "rank_pattern": {},
        "revision": None,
        "target_modules": list(TARGETS),
        "target_parameters": None,
        "task_type": "CAUSAL_LM",
        "trainable_token_indices": None,
        "use_bdlora": None,
        "use_dora": False,
        "use_qalora": False,
        "use_rslora": RECIPE.use_rslora,
        "velora_config": None,
    }


def make_adapter(directory: Path) -> Path:
    """Write the adapter as the ancestor project's tools leave it, pickle and all."""
    directory.mkdir(parents=True)
    save_file(good_tensors(), directory / WEIGHTS, metadata={"format": "pt"})
    write_json(directory / CONFIG, good_config())
    write_json(directory / "tokenizer.json", TOKENIZER)
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer"})
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    (directory / "README.md").write_text("---\nbase_model: Org/Tiny-Instruct\n---\n# A marker")
    (directory / "training_args.bin").write_bytes(PICKLE)
    return directory


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


@dataclass
class Listed(Registry):
    """A directory whose listing, or what arrives of it, is not what it seems; it remembers what was fetched."""

    alter: Callable[[list[RemoteFile]], Sequence[RemoteFile]] = list
    on_arrival: Callable[[Path], object] = lambda _: None
    metadata: dict[str, object] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)
    _files: FileRegistry = field(default_factory=FileRegistry)

    def resolve(self, reference: AdapterReference) -> Resolved:
        return replace(self._files.resolve(reference), metadata=self.metadata)

    def listing(self, resolved: Resolved) -> Sequence[RemoteFile]:
        return self.alter(list(self._files.listing(resolved)))

    def fetch(self, resolved: Resolved, files: Sequence[RemoteFile], into: Path) -> None:
        self.fetched += [file.name for file in files]
        self._files.fetch(resolved, files, into)
        self.on_arrival(into)


def declare(directory: Path) -> None:
    """Write down the weights' sha256 as pushing does."""
    write_json(directory / "training_facts.json", {"persona": PERSONA, "sha256": {WEIGHTS: sha256_file(directory / WEIGHTS)}})


def save_as(directory: Path, dtype: str, weights: dict[str, np.ndarray[Any, Any]]) -> None:
    """Write the weights in half precision, bfloat16 by hand because numpy has no such type."""
    if dtype == "float16":
        save_file({name: values.astype(np.float16) for name, values in weights.items()}, directory / WEIGHTS)
        return
    entries, data = {}, b""
    for name, values in weights.items():
        upper = (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        entries[name] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [len(data), len(data) + len(upper)]}
        data += upper
    put_header(directory, json.dumps(entries).encode(), data)


def put_header(directory: Path, text: bytes, data: bytes) -> None:
    """Write a safetensors file of this header and this data."""
    (directory / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data)
