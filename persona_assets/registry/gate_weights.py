"""The gate's reading of adapter_model.safetensors: first the header against the base model's own shapes, then every number."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from persona_assets.adapter_files import WEIGHTS_FILE
from persona_assets.registry.gate_cases import GateError, parse_object
from persona_assets.registry.gate_config import LoraSettings
from persona_assets.registry.gate_listing import HEADER_CAP, MAX_RANK

_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_TYPES = {"F32": 4, "F16": 2, "BF16": 2}
_PREFIX = "base_model.model."
_LORA_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<matrix>[AB])\.weight")

Linears = Mapping[str, tuple[int, int]]
"""(outputs, inputs) of each linear layer of the base model that an adapter may change, by the layer's name."""


@dataclass(frozen=True)
class Tensor:
    """One entry of a safetensors header; `begin` and `end` count from the first byte behind the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def base_linears(checkpoint: Path, targets: Collection[str]) -> dict[str, tuple[int, int]]:
    """Read the shapes of the base model's linear layers off the headers of its own weights.

    Args:
        checkpoint: its directory.
        targets: last names of the layers that an adapter may change.
    """
    found: dict[str, tuple[int, int]] = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(_LENGTH_BYTES))
            header = json.loads(opened.read(length))
        for name, entry in header.items():
            module, _, last = name.rpartition(".")
            if last == "weight" and module.rpartition(".")[2] in targets and len(entry["shape"]) == 2:
                found[module] = (int(entry["shape"][0]), int(entry["shape"][1]))
    return dict(sorted(found.items()))


def weights_cap(linears: Linears) -> int:
    """Return the largest size of an adapter's weights: the largest rank on every layer, in float32."""
    return HEADER_CAP + 4 * MAX_RANK * sum(outputs + inputs for outputs, inputs in linears.values())


def needed_tensors(linears: Linears, settings: LoraSettings) -> dict[str, tuple[int, int]]:
    """Return the name and shape of every tensor that an adapter of these settings has."""
    needed: dict[str, tuple[int, int]] = {}
    for module, (outputs, inputs) in linears.items():
        if module.rpartition(".")[2] in settings.target_modules:
            needed[f"{_PREFIX}{module}.lora_A.weight"] = (settings.r, inputs)
            needed[f"{_PREFIX}{module}.lora_B.weight"] = (outputs, settings.r)
    return needed


def check_weights_size(size: int, needed: Mapping[str, tuple[int, int]]) -> None:
    """Compare the listed size of the weights with what configuration and base model give, before they are fetched.

    Raises:
        GateError: it cannot be the weights of such an adapter.
    """
    numbers = sum(rows * columns for rows, columns in needed.values())
    smallest, largest = 2 * numbers, 4 * numbers + HEADER_CAP
    if not smallest < size <= largest:
        raise GateError(
            "size-weights",
            WEIGHTS_FILE,
            f"it has {size} bytes, and {len(needed)} tensors of {numbers} numbers take {smallest} to {largest}.",
        )


def check_weights(path: Path, needed: Mapping[str, tuple[int, int]]) -> None:
    """Judge the weights: the header's form, the tensors' names and shapes, then every number.

    Args:
        path: the file.
        needed: shape of every tensor that must be there, and no other.

    Raises:
        GateError: the first thing that is not as it must be.
    """
    tensors, data_begin = _read_header(path)
    _check_layout(tensors, path.stat().st_size - data_begin)
    _check_names(tensors, needed)
    for name, shape in needed.items():
        if tensors[name].shape != shape:
            raise _refused("tensor-shape", f"{name} has the shape {list(tensors[name].shape)}, the base needs {list(shape)}")
    _check_numbers(path, tensors, data_begin)


def _read_header(path: Path) -> tuple[dict[str, Tensor], int]:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_LENGTH_BYTES)
        length = struct.unpack("<Q", head)[0] if len(head) == _LENGTH_BYTES else -1
        if not 2 <= length <= min(HEADER_CAP, size - _LENGTH_BYTES):
            raise _refused("header-bounds", f"its header is said to have {length} bytes, and the file has {size}")
        content = file.read(length)
    try:
        entries = parse_object(content)
    except ValueError as error:
        raise _refused("header-json", f"the header is no list of tensors: {error}") from error
    entries.pop(_METADATA, None)
    return {name: _tensor(name, entry) for name, entry in entries.items()}, _LENGTH_BYTES + length


def _tensor(name: str, entry: object) -> Tensor:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _refused("header-json", f"the header's entry {_shown(name)} does not describe a tensor")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _whole_numbers(shape) or not _whole_numbers(offsets) or len(offsets) != 2:
        raise _refused("header-json", f"the header's entry {_shown(name)} has no shape or offsets of whole numbers")
    if entry["dtype"] not in _TYPES:
        raise _refused("tensor-type", f"{_shown(name)} is of type {_shown(entry['dtype'])}, expected {', '.join(_TYPES)}")
    return Tensor(entry["dtype"], tuple(shape), *offsets)


def _check_layout(tensors: Mapping[str, Tensor], data_bytes: int) -> None:
    position = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != position or tensor.end < tensor.begin or tensor.end > data_bytes:
            raise _refused(
                "tensor-gap",
                f"{_shown(name)} lies at {tensor.begin} to {tensor.end} of {data_bytes} bytes, expected to begin at {position}",
            )
        if tensor.end - tensor.begin != math.prod(tensor.shape) * _TYPES[tensor.dtype]:
            raise _refused(
                "tensor-bytes",
                f"{_shown(name)} has {tensor.end - tensor.begin} bytes, not those of {tensor.dtype} {list(tensor.shape)}",
            )
        position = tensor.end
    if position != data_bytes:
        raise _refused("trailing-bytes", f"{data_bytes - position} bytes lie behind the last tensor")


def _check_names(tensors: Mapping[str, Tensor], needed: Mapping[str, tuple[int, int]]) -> None:
    extra = sorted(set(tensors) - set(needed))
    overwriting = next((name for name in extra if "base_layer" in name), None)
    if overwriting is not None:
        raise _refused("base-layer", f"{_shown(overwriting)} would overwrite weights of the base model")
    missing = [name for name in needed if name not in tensors]
    if missing:
        beside = f"; there is {_shown(extra[0])}, which is not needed" if extra else ""
        pair = _other_of_pair(missing[0])
        alone = f", and its other half {pair} is there" if pair in tensors else ""
        raise _refused("tensor-missing", f"{missing[0]} is missing{alone}{beside} ({len(missing)} of {len(needed)} missing)")
    if extra:
        raise _refused("tensor-extra", f"{_shown(extra[0])} belongs to no layer of target_modules ({len(extra)} such tensors)")


def _other_of_pair(name: str) -> str:
    found = _LORA_NAME.fullmatch(name)
    assert found is not None
    return f"{_PREFIX}{found['module']}.lora_{'B' if found['matrix'] == 'A' else 'A'}.weight"


def _check_numbers(path: Path, tensors: Mapping[str, Tensor], data_begin: int) -> None:
    content = np.memmap(path, dtype=np.uint8, mode="r", offset=data_begin)
    any_effect = False
    for name, tensor in tensors.items():
        finite, nonzero = _look_at(content[tensor.begin : tensor.end], tensor.dtype)
        if not finite:
            raise _refused("not-finite", f"{name} holds NaN or an infinity")
        any_effect |= nonzero and ".lora_B." in name
    if not any_effect:
        raise _refused("zero", "every lora_B is zero: the adapter does nothing")


def _look_at(raw: np.ndarray[Any, np.dtype[np.uint8]], dtype: str) -> tuple[bool, bool]:
    """Say whether all numbers are finite and whether any is not zero."""
    if dtype == "BF16":  # numpy has no such type: the upper half of a float32
        values = (np.frombuffer(raw.tobytes(), dtype="<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(raw.tobytes(), dtype="<f4" if dtype == "F32" else "<f2")
    return bool(np.isfinite(values).all()), bool(values.any())


def _whole_numbers(values: object) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 for value in values
    )


def _refused(case: str, reason: str) -> GateError:
    return GateError(case, WEIGHTS_FILE, f"{reason}.")


def _shown(value: object) -> str:
    text = ascii(value).strip("'")
    return text if len(text) <= 160 else f"{text[:160]}..."
