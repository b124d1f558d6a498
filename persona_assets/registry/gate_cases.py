"""Why an adapter is refused: every case the gate knows, in the order in which it looks. `docs/adapter-gate.md` lists the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from persona_assets import strict_json
from persona_assets.errors import PersonaAssetsError

GATE_VERSION = "1"
"""Raise it when the gate refuses more: what passed before is then pulled, and judged, again."""

LISTING = {
    "name-parent": "a file name with `..` in it",
    "name-absolute": "an absolute file name, or one with a backslash or a drive letter",
    "name-control": "a file name with control or other unprintable characters, or one that is empty",
    "name-twice": "two files whose names are the same, or differ in upper and lower case only",
    "link": "a symbolic link, a reference to a place elsewhere, or anything else that is not a file of its own",
    "python": "Python code (`*.py`)",
    "name-unknown": "a file that is neither on the list of what is fetched nor on the list of what is left",
    "pickled-weights": "weights that are there only as a pickle",
    "file-missing": "`adapter_config.json` or `adapter_model.safetensors` is missing",
    "size-unknown": "a file whose size the registry does not say",
    "size-cap": "a file larger than its cap; that of the weights is what rank 256 on every expected module would take",
}
ARRIVAL = {
    "arrived-other": "something arrived that was not asked for, or a link in place of a file",
    "size-weights": "weights whose size, as listed, is not what the configuration and the base model's shapes give",
    "declared-digest": "a file whose sha256 is not the one that came with it from where it was pushed",
}
CONFIG = {
    "config-json": "`adapter_config.json` is not a JSON object in UTF-8 with finite numbers, or repeats a key",
    "config-key": "a key that plain LoRA of peft 0.21 does not have",
    "peft-type": "`peft_type` is not LORA",
    "task-type": "`task_type` is neither CAUSAL_LM nor null",
    "base-name": "`base_model_name_or_path` is not exactly the base model",
    "base-revision": "`revision` is another one than the base model's",
    "bias": "`bias` is not none",
    "dora": "`use_dora`",
    "modules-to-save": "`modules_to_save`",
    "layer-replication": "`layer_replication`",
    "token-indices": "`trainable_token_indices`",
    "megatron": "`megatron_config`, or a `megatron_core` of its own",
    "auto-mapping": "`auto_mapping`",
    "initialisation": "`init_lora_weights` of a kind that changes base weights (pissa, olora, loftq, ...)",
    "variant": "any other variant of LoRA: a field that must be empty is not",
    "target-form": "`target_modules` is not a list of names (a pattern, `all-linear`, nothing)",
    "target-names": "`target_modules` names a module that the recipe does not train",
    "rank": "`r` is not a whole number from 1 to 256",
    "numbers": "`lora_alpha`, `lora_dropout` or `use_rslora` is not what it must be",
}
WEIGHTS = {
    "header-bounds": "a safetensors header longer than the file or than 4 MiB",
    "header-json": "a safetensors header that is not a JSON object of tensors, or repeats a name",
    "tensor-type": "a tensor that is not float32, float16 or bfloat16",
    "tensor-bytes": "a tensor whose bytes are not those of its shape",
    "tensor-gap": "tensors that overlap, leave a gap, or lie outside of the file",
    "trailing-bytes": "bytes behind the last tensor",
    "base-layer": "a tensor `base_layer.weight`, which would overwrite weights of the base model",
    "tensor-extra": "a tensor that is not `lora_A` or `lora_B` of a module named in `target_modules`",
    "tensor-missing": "a `lora_A` or `lora_B` that is missing or has another name",
    "tensor-shape": "a tensor whose shape is not what the base model's own weights need",
    "not-finite": "a weight that is NaN or infinite",
    "zero": "every `lora_B` is zero, so that the adapter does nothing",
}
COMPANIONS = {
    "tokenizer-json": "`tokenizer.json` or `tokenizer_config.json` is not a JSON object",
    "tokenizer-size": "`tokenizer.json` has another vocabulary size than the base model's",
    "tokenizer-digest": "`tokenizer.json` is not the base model's",
    "auto-map": "`auto_map` in `tokenizer_config.json`: code that loading would run",
    "facts-json": "training facts that are not a JSON object with finite numbers",
    "facts-origin": "training facts that name another persona or training seed",
    "facts-base": "training facts that name another base model, or another digest of it",
}
CASES: Mapping[str, str] = {**LISTING, **ARRIVAL, **CONFIG, **WEIGHTS, **COMPANIONS}
"""What is refused, by a short name."""

_MAX_SHOWN = 120


class GateError(PersonaAssetsError):
    """An adapter that the gate refused.

    Attributes:
        case: which of `CASES`.
        file: the file it is about.
    """

    def __init__(self, case: str, file: str, reason: str) -> None:
        """Say what is wrong with which file; the name of the file is shown escaped, since it can be hostile."""
        assert case in CASES, case
        self.case = case
        self.file = file
        shown = file if file.isprintable() and file else ascii(file)
        super().__init__(f"The adapter is refused: {shown[:_MAX_SHOWN]}: {reason} [{case}]")


def read_object(path: Path, case: str) -> dict[str, object]:
    """Read a JSON object strictly: UTF-8, finite numbers, no key twice.

    Raises:
        GateError: it is not one.
    """
    try:
        return parse_object(path.read_bytes())
    except ValueError as error:
        raise GateError(case, path.name, f"{error}.") from error


def parse_object(content: bytes) -> dict[str, object]:
    """Parse a JSON object strictly.

    Raises:
        ValueError: it is not one; the message says why.
    """
    found = strict_json.parse(content)
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")  # the caller catches one kind
    return found
