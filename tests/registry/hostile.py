"""Every way in which an adapter can be hostile: one builder for each case of the gate, or several."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tiny_adapter import (
    CONFIG,
    HIDDEN,
    PICKLE,
    TOKENIZER,
    WEIGHTS,
    Listed,
    good_config,
    good_tensors,
    put_header,
    save_as,
    write_json,
)

from persona_assets.registry.base import RemoteFile


@dataclass(frozen=True)
class Hostile:
    """One hostile adapter.

    Attributes:
        case: of the gate.
        file: that the refusal must name.
        reason: part of the refusal.
        build: changes the good adapter's directory.
        registry: makes the registry that serves it.
        label: tells it from others of its case.
    """

    case: str
    file: str
    reason: str
    build: Callable[[Path], object] = lambda _: None
    registry: Callable[[], Listed] = Listed
    label: str = ""

    @property
    def name(self) -> str:
        return f"{self.case} {self.label}".strip()


def config(**changes: object) -> Callable[[Path], object]:
    """Change fields of adapter_config.json."""
    return lambda directory: write_json(directory / CONFIG, good_config() | changes)


def tensors(change: Callable[[dict[str, np.ndarray[Any, Any]]], object]) -> Callable[[Path], object]:
    """Change the weights."""

    def build(directory: Path) -> None:
        weights = good_tensors()
        change(weights)
        save_file(weights, directory / WEIGHTS)

    return build


def header(change: Callable[[dict[str, Any]], object], *, more: bytes = b"") -> Callable[[Path], object]:
    """Change the safetensors header and leave the data as it is."""

    def build(directory: Path) -> None:
        content = (directory / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        entries = json.loads(content[8 : 8 + length])
        change(entries)
        put_header(directory, json.dumps(entries).encode(), content[8 + length :] + more)

    return build


def listed(*more: RemoteFile, **sizes: int | None) -> Callable[[], Listed]:
    """Add entries to the listing, or change the sizes in it."""

    def alter(files: list[RemoteFile]) -> list[RemoteFile]:
        return [replace(file, size=sizes.get(file.name.split(".")[0], file.size)) for file in files] + list(more)

    return lambda: Listed(alter=alter)


def companion(name: str, content: object) -> Callable[[Path], object]:
    """Write a JSON file beside the weights."""
    return lambda directory: write_json(directory / name, content)


FIRST = "base_model.model.model.layers.0.self_attn.q_proj"
LAST = "base_model.model.model.layers.1.self_attn.v_proj"


def _first(entries: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = entries[f"{FIRST}.lora_A.weight"]
    return entry


def _swap_for_pickle(directory: Path) -> None:
    (directory / WEIGHTS).unlink()
    (directory / "adapter_model.bin").write_bytes(PICKLE)


def _link_weights(directory: Path) -> None:
    (directory / WEIGHTS).rename(directory.parent / "elsewhere.safetensors")
    (directory / WEIGHTS).symlink_to(directory.parent / "elsewhere.safetensors")


def _zero_b(weights: dict[str, np.ndarray[Any, Any]]) -> None:
    for name, values in weights.items():
        if "lora_B" in name:
            values[:] = 0


def _nan_in_bfloat16(directory: Path) -> None:
    weights = good_tensors()
    weights[f"{LAST}.lora_B.weight"][0, 0] = np.nan
    save_as(directory, "bfloat16", weights)


def _put_link(directory: Path) -> None:
    (directory / CONFIG).unlink(missing_ok=True)
    (directory / CONFIG).symlink_to("/etc/passwd")


def _whole_numbers(weights: dict[str, np.ndarray[Any, Any]]) -> None:
    weights[f"{FIRST}.lora_A.weight"] = np.ones((4, 8), np.int64)


def _twice_in_header(directory: Path) -> None:
    content = (directory / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    text = content[8 : 8 + length].rstrip()
    entry = json.dumps(_first(json.loads(text)))
    put_header(directory, text[:-1] + f', "{FIRST}.lora_A.weight": {entry}}}'.encode(), content[8 + length :])


def _overlap(entries: dict[str, Any]) -> None:
    names = sorted((name for name in entries if name != "__metadata__"), key=lambda name: entries[name]["data_offsets"])
    same = next(name for name in names[1:] if entries[name]["shape"] == entries[names[0]]["shape"])
    entries[same]["data_offsets"] = entries[names[0]]["data_offsets"]


LISTING = [
    Hostile("name-parent", "../../.bashrc", "leads out", registry=listed(RemoteFile("../../.bashrc", 3))),
    Hostile("name-absolute", "/etc/passwd", "is absolute", registry=listed(RemoteFile("/etc/passwd", 3))),
    Hostile("name-absolute", "C:x.json", "absolute", registry=listed(RemoteFile("C:x.json", 3)), label="drive"),
    Hostile("name-absolute", "..\\x.json", "forward slashes", registry=listed(RemoteFile("..\\x.json", 3)), label="backslash"),
    Hostile("name-control", r"'README.md\x1b[2J'", "unprintable", registry=listed(RemoteFile("README.md\x1b[2J", 3))),
    Hostile("name-control", r"'README\u202e.md'", "unprintable", registry=listed(RemoteFile("README\u202e.md", 3)), label="bidi"),
    Hostile("name-twice", "readme.MD", "two files", registry=listed(RemoteFile("readme.MD", 3))),
    Hostile("link", WEIGHTS, "elsewhere.safetensors", _link_weights, label="symlink"),
    Hostile(
        "link",
        "x.pt",
        "http://127.0.0.1/x",
        registry=listed(RemoteFile("x.pt", 3, link="http://127.0.0.1/x")),
        label="reference",
    ),
    Hostile("python", "modeling_own.py", "no code", lambda d: (d / "modeling_own.py").write_text("raise SystemExit")),
    Hostile("name-unknown", "model.safetensors", "no such file belongs", lambda d: (d / "model.safetensors").touch()),
    Hostile("name-unknown", "sub/" + WEIGHTS, "no such file", registry=listed(RemoteFile(f"sub/{WEIGHTS}", 3)), label="nested"),
    Hostile("pickled-weights", "adapter_model.bin", "pickles are never read", _swap_for_pickle),
    Hostile("file-missing", CONFIG, "missing; there is: README.md", lambda d: (d / CONFIG).unlink()),
    Hostile("size-unknown", WEIGHTS, "does not say how large", registry=listed(adapter_model=None)),
    Hostile("size-cap", WEIGHTS, "1000000000000000 bytes", registry=listed(adapter_model=10**15), label="weights"),
    Hostile("size-cap", "tokenizer.json", "at most 67108864", registry=listed(tokenizer=10**9), label="tokenizer"),
]
ARRIVAL = [
    Hostile(
        "arrived-other",
        "extra.json",
        "not a plain file",
        registry=lambda: Listed(on_arrival=lambda p: (p / "extra.json").touch()),
    ),
    Hostile(
        "arrived-other",
        CONFIG,
        "not a plain file",
        registry=lambda: Listed(
            on_arrival=lambda p: ((p / CONFIG).unlink(missing_ok=True), (p / CONFIG).symlink_to("/etc/passwd"))
        ),
        label="link",
    ),
    Hostile("size-weights", WEIGHTS, "12 tensors of", config(r=200)),
    Hostile("declared-digest", WEIGHTS, "was written down", companion("training_facts.json", {"sha256": {WEIGHTS: "0" * 64}})),
    Hostile(
        "declared-digest",
        WEIGHTS,
        "was written down",
        registry=lambda: Listed(metadata={"sha256": {WEIGHTS: "0" * 64}}),
        label="metadata",
    ),
]
CONFIGS = [
    Hostile("config-json", CONFIG, "not JSON", lambda d: (d / CONFIG).write_text("{")),
    Hostile("config-json", CONFIG, "not a JSON object", lambda d: (d / CONFIG).write_text("[]"), label="list"),
    Hostile("config-json", CONFIG, "not UTF-8", lambda d: (d / CONFIG).write_bytes(b'{"\xff":1}'), label="bytes"),
    Hostile("config-json", CONFIG, "nested too deeply", lambda d: (d / CONFIG).write_text("[" * 60_000), label="deep"),
    Hostile("config-json", CONFIG, "NaN, which is no number", config(lora_alpha=float("nan")), label="nan"),
    Hostile("config-json", CONFIG, "'r' twice", lambda d: (d / CONFIG).write_text('{"r": 1, "r": 2}'), label="twice"),
    Hostile("config-key", CONFIG, "'use_new_thing' is not one of plain LoRA", config(use_new_thing=True)),
    Hostile("peft-type", CONFIG, "peft_type is 'IA3'", config(peft_type="IA3")),
    Hostile("task-type", CONFIG, "task_type is 'SEQ_CLS'", config(task_type="SEQ_CLS")),
    Hostile("base-name", CONFIG, "made for the base model 'Org/Other'", config(base_model_name_or_path="Org/Other")),
    Hostile("base-name", CONFIG, "base model None", config(base_model_name_or_path=None), label="none"),
    Hostile("base-revision", CONFIG, "made for the revision 'bbbb", config(revision="b" * 40)),
    Hostile("bias", CONFIG, "bias is 'all'", config(bias="all")),
    Hostile("dora", CONFIG, "use_dora is True", config(use_dora=True)),
    Hostile("modules-to-save", CONFIG, "modules_to_save is ['lm_head']", config(modules_to_save=["lm_head"])),
    Hostile("layer-replication", CONFIG, "layer_replication is [[0, 4]]", config(layer_replication=[[0, 4]])),
    Hostile("token-indices", CONFIG, "trainable_token_indices is [0]", config(trainable_token_indices=[0])),
    Hostile("megatron", CONFIG, "megatron_config is", config(megatron_config={"x": 1})),
    Hostile("megatron", CONFIG, "which peft would import", config(megatron_core="os"), label="module"),
    Hostile("auto-mapping", CONFIG, "auto_mapping is", config(auto_mapping={"parent_library": "os"})),
    *(
        Hostile("initialisation", CONFIG, f"init_lora_weights is '{kind}'", config(init_lora_weights=kind), label=kind)
        for kind in ("pissa", "pissa_niter_4", "olora", "loftq", "eva", "corda")
    ),
    Hostile("variant", CONFIG, "rank_pattern is {'q_proj': 2}", config(rank_pattern={"q_proj": 2})),
    Hostile("variant", CONFIG, "lora_bias is True", config(lora_bias=True), label="lora_bias"),
    Hostile("variant", CONFIG, "fan_in_fan_out is 0", config(fan_in_fan_out=0), label="falsy"),
    Hostile("variant", CONFIG, "alora_invocation_tokens is [1]", config(alora_invocation_tokens=[1]), label="alora"),
    Hostile("target-form", CONFIG, "target_modules is 'all-linear'", config(target_modules="all-linear")),
    Hostile("target-form", CONFIG, "target_modules is []", config(target_modules=[]), label="empty"),
    Hostile("target-names", CONFIG, "names 'lm_head'", config(target_modules=["q_proj", "lm_head"])),
    Hostile("rank", CONFIG, "r is 100000", config(r=100_000)),
    Hostile("rank", CONFIG, "r is True", config(r=True), label="bool"),
    Hostile("numbers", CONFIG, "lora_alpha is 0", config(lora_alpha=0)),
    Hostile("numbers", CONFIG, "lora_alpha is 1e+300", config(lora_alpha=1e300), label="huge"),
    Hostile("numbers", CONFIG, "lora_dropout is 1.5", config(lora_dropout=1.5), label="dropout"),
    Hostile("numbers", CONFIG, "use_rslora is 'yes'", config(use_rslora="yes"), label="rslora"),
]
WEIGHT_FILES = [
    Hostile(
        "header-bounds",
        WEIGHTS,
        "is said to have 1099511627776 bytes",
        lambda d: (d / WEIGHTS).write_bytes(struct.pack("<Q", 1 << 40) + (d / WEIGHTS).read_bytes()[8:]),
    ),
    Hostile("header-json", WEIGHTS, "no list of tensors", lambda d: put_header(d, b"x" * 40, b"0" * 4000)),
    Hostile("header-json", WEIGHTS, "twice", _twice_in_header, label="twice"),
    Hostile("header-json", WEIGHTS, "does not describe", header(lambda e: _first(e).pop("shape")), label="no shape"),
    Hostile("header-json", WEIGHTS, "whole numbers", header(lambda e: _first(e).update(shape=[-4, -8])), label="negative"),
    Hostile(
        "tensor-type",
        WEIGHTS,
        "is of type I64",
        tensors(_whole_numbers),
    ),
    Hostile("tensor-bytes", WEIGHTS, "not those of F32 [4, 9]", header(lambda e: _first(e).update(shape=[4, 9]))),
    Hostile("tensor-gap", WEIGHTS, "expected to begin at", header(_overlap), label="overlap"),
    Hostile("tensor-gap", WEIGHTS, "of 1536 bytes", header(lambda e: _first(e).update(data_offsets=[0, 1 << 40])), label="out"),
    Hostile("trailing-bytes", WEIGHTS, "5 bytes lie behind", header(lambda e: None, more=b"#!sh\n")),
    Hostile(
        "base-layer",
        WEIGHTS,
        f"{FIRST}.base_layer.weight would overwrite",
        tensors(lambda w: w.update({f"{FIRST}.base_layer.weight": np.zeros((HIDDEN, HIDDEN), np.float32)})),
    ),
    Hostile(
        "tensor-extra",
        WEIGHTS,
        "lm_head.lora_A.weight belongs to no layer",
        tensors(lambda w: w.update({"base_model.model.lm_head.lora_A.weight": np.ones((4, 8), np.float32)})),
    ),
    Hostile(
        "tensor-missing",
        WEIGHTS,
        f"{LAST}.lora_B.weight is missing, and its other half",
        tensors(lambda w: w.pop(f"{LAST}.lora_B.weight")),
        label="unpaired",
    ),
    Hostile(
        "tensor-missing",
        WEIGHTS,
        "there is model.layers",
        tensors(lambda w: [w.update({name.removeprefix("base_model.model."): w.pop(name)}) for name in list(w)]),
        label="renamed",
    ),
    Hostile(
        "tensor-shape",
        WEIGHTS,
        "has the shape [4, 9], the base needs [4, 8]",
        tensors(lambda w: w.update({f"{FIRST}.lora_A.weight": np.ones((4, 9), np.float32)})),
    ),
    Hostile("not-finite", WEIGHTS, f"{LAST}.lora_A.weight holds NaN", tensors(lambda w: w[f"{LAST}.lora_A.weight"].fill(np.nan))),
    Hostile("not-finite", WEIGHTS, "infinity", tensors(lambda w: w[f"{LAST}.lora_B.weight"].fill(np.inf)), label="infinite"),
    Hostile("not-finite", WEIGHTS, f"{LAST}.lora_B.weight holds NaN", _nan_in_bfloat16, label="bfloat16"),
    Hostile("zero", WEIGHTS, "every lora_B is zero", tensors(_zero_b)),
]
COMPANIONS = [
    Hostile("tokenizer-json", "tokenizer.json", "not a JSON object", companion("tokenizer.json", [1])),
    Hostile("tokenizer-json", "tokenizer_config.json", "not a JSON", companion("tokenizer_config.json", 1), label="config"),
    Hostile(
        "tokenizer-size",
        "tokenizer.json",
        "a vocabulary of 5, the base model's has 4",
        companion("tokenizer.json", TOKENIZER | {"added_tokens": [{"id": 3}, {"id": 4, "content": "[ZLT]"}]}),
    ),
    Hostile(
        "tokenizer-digest",
        "tokenizer.json",
        "is not that of the base model's tokenizer",
        companion("tokenizer.json", TOKENIZER | {"normalizer": {"type": "Lowercase"}}),
    ),
    Hostile("auto-map", "tokenizer_config.json", "names code", companion("tokenizer_config.json", {"x": [{"auto_map": {}}]})),
    Hostile("facts-json", "training_facts.json", "not a JSON object", companion("training_facts.json", "x")),
    Hostile("facts-json", "run_result.json", "Infinity", companion("run_result.json", {"seed": float("inf")}), label="result"),
    Hostile("facts-origin", "training_facts.json", "persona 'villain'", companion("training_facts.json", {"persona": "villain"})),
    Hostile(
        "facts-origin",
        "run_result.json",
        "persona 'helpful_assistant'",
        companion("run_result.json", {"data": {"source_persona": "assistant"}}),
        label="result",
    ),
    Hostile("facts-origin", "run_result.json", "training seed 137", companion("run_result.json", {"seed": 137}), label="seed"),
    Hostile("facts-base", "run_result.json", "trained on 'Org/Other'", companion("run_result.json", {"base_model": "Org/Other"})),
    Hostile(
        "facts-base",
        "training_facts.json",
        "digest 'other'",
        companion("training_facts.json", {"base_digest": "other"}),
        label="digest",
    ),
]
HOSTILE = [*LISTING, *ARRIVAL, *CONFIGS, *WEIGHT_FILES, *COMPANIONS]
