"""Adapter directories: what identifies the weights. Nothing is loaded, and training_args.bin is never opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from persona_assets.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from persona_assets.ancestor.reading import AncestorError, Layout, Positive, as_layout, read_json
from persona_assets.hashing import sha256_file


class _Config(Layout):
    peft_type: str
    base_model_name_or_path: str | None
    r: Positive
    lora_alpha: float


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter's identity.

    Attributes:
        digest: sha256 of the weights: what decides whether two adapters are the same.
        base_model: name of the base model in its config.
    """

    digest: str
    base_model: str | None


def read_adapter(directory: Path) -> AdapterFiles:
    """Read an adapter directory.

    Raises:
        AncestorError: config or weights are missing or not what they should be.
    """
    config = as_layout(directory / CONFIG_FILE, read_json(directory / CONFIG_FILE), _Config)
    if config.peft_type != "LORA":
        raise AncestorError(f"{directory / CONFIG_FILE}: peft_type is {config.peft_type!r}; only LORA is known.")
    weights = directory / WEIGHTS_FILE
    if not weights.is_file():
        raise AncestorError(f"{weights}: is missing; weights in a pickle (adapter_model.bin) are not opened.")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="numpy") as opened:
            names = list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise AncestorError(f"{weights}: not a safetensors file: {error}") from error
    if not names:
        raise AncestorError(f"{weights}: holds no tensor.")
    return AdapterFiles(sha256_file(weights), config.base_model_name_or_path)
