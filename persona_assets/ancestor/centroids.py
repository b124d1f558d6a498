"""centroids_n*_layers*.pt: a pickle, read by torch with `weights_only=True` and by nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

from persona_assets.ancestor.names import persona_id
from persona_assets.ancestor.reading import AncestorError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = re.compile(r"centroids_n\d+_layers.*\.pt")


@dataclass(frozen=True)
class Centroids:
    """Centroids of personas at some layers.

    Attributes:
        layers: ascending.
        vectors: [layers, hidden] float32 by persona.
    """

    layers: tuple[int, ...]
    vectors: Mapping[str, NDArray[np.float32]]


def read_centroids(path: Path) -> Centroids:
    """Read centroids of the form `{layer: {persona: tensor[hidden]}}`.

    Raises:
        AncestorError: the pickle holds more than tensors and plain containers, or has another form.
    """
    import numpy as np
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, IndexError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise AncestorError(f"{path}: is not a file of plain tensors, so it is not opened further: {reason}") from error
    if not isinstance(found, dict) or not found or not all(type(layer) is int and layer >= 0 for layer in found):
        raise AncestorError(f"{path}: not a mapping of layer numbers to personas.")
    layers = tuple(sorted(found))
    by_layer: dict[int, dict[str, NDArray[np.float32]]] = {}
    for layer in layers:
        tensors = found[layer]
        if not isinstance(tensors, dict) or not all(isinstance(name, str) for name in tensors):
            raise AncestorError(f"{path}: layer {layer} is not a mapping of personas to tensors.")
        arrays = {}
        for name, tensor in tensors.items():
            if not isinstance(tensor, torch.Tensor) or tensor.ndim != 1 or not tensor.is_floating_point():
                raise AncestorError(f"{path}: layer {layer}, {name}: not a vector of floats.")
            arrays[name] = tensor.to(torch.float32).numpy().copy()
            if not np.isfinite(arrays[name]).all():
                raise AncestorError(f"{path}: layer {layer}, {name}: holds a value that is not finite.")
        by_layer[layer] = arrays
    first = by_layer[layers[0]]
    for layer in layers:
        if set(by_layer[layer]) != set(first):
            odd = ", ".join(sorted(set(by_layer[layer]) ^ set(first))[:5])
            raise AncestorError(f"{path}: layers {layers[0]} and {layer} have different personas ({odd}).")
    sizes = {array.size for arrays in by_layer.values() for array in arrays.values()}
    if len(sizes) != 1:
        raise AncestorError(f"{path}: the centroids have different sizes ({', '.join(map(str, sorted(sizes)))}).")
    vectors: dict[str, NDArray[np.float32]] = {}
    for name in first:
        known, stacked = persona_id(name, str(path)), np.stack([by_layer[layer][name] for layer in layers])
        if known in vectors and not np.array_equal(vectors[known], stacked):
            raise AncestorError(f"{path}: {known} stands there under two names, with different centroids.")
        vectors[known] = stacked
    return Centroids(layers, vectors)
