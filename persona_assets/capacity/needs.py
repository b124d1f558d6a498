"""What each asset of a study takes: bytes on disk for each key, bytes of device memory while it works; and the check of both.

Sizes come from the shape of the base model and the settings of the profile, so they are known before anything is fetched.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from persona_assets.capacity.shape import BYTES, DecoderShape
from persona_assets.errors import PersonaAssetsError
from persona_assets.study import HubBase, Profile, Runtime

GIB = 2**30

# What one token of a micro-batch keeps for the backward pass, in values for each unit of width of a layer: counted over
# norms, projections, attention and adapter, and confirmed on a GPU (docs/performance.md).
_KEPT_HIDDEN, _KEPT_MLP = 11.0, 3.5
# A layer's cache is copied when finished rows leave it; logits are held a few times over while a token is drawn.
_CACHE_COPIES, _LOGIT_COPIES = 1.1, 6.0
_RESERVED = 2 * GIB
"""For the driver, the libraries and what the allocator cannot use."""
_TEXT_BYTES = 3.0
"""Of Parquet for each token of a completion, with its share of the other columns."""
_REPLIES_AT_A_TIME = 64  # of `scoring.scorer`, which imports numpy; a test compares the two
_SCORE_BYTES = 120
"""Of Parquet for each scored completion."""


class CapacityError(PersonaAssetsError):
    """The machine has too little memory or disk for what it was asked to do."""


@dataclass(frozen=True)
class Needs:
    """What a step takes.

    Attributes:
        disk: bytes that it adds to the lake.
        cache: bytes that it adds to the cache of downloaded models.
        device: bytes of device memory while it works.
    """

    disk: int = 0
    cache: int = 0
    device: int = 0


def weights_bytes(shape: DecoderShape, dtype: str) -> int:
    """Bytes of a model's weights, in memory or in a checkpoint."""
    return shape.parameters * BYTES[dtype]


def training_bytes(profile: Profile, shape: DecoderShape, row_tokens: float) -> int:
    """Device memory of training: frozen weights, adapter with gradient and two moments, what a micro-batch keeps.

    Args:
        profile: recipe and runtime.
        shape: of the base model.
        row_tokens: tokens of the longest rows, which share a micro-batch.
    """
    runtime = profile.runtime
    tokens = runtime.micro_batch_size * row_tokens
    if runtime.micro_batch_tokens is not None:
        tokens = min(tokens, max(runtime.micro_batch_tokens, row_tokens))
    kept = _KEPT_HIDDEN * shape.hidden_size + _KEPT_MLP * shape.mlp_size
    layers = 1 if runtime.recompute_activations else shape.layers
    activations = tokens * (kept * layers + shape.hidden_size * shape.layers) * BYTES[runtime.dtype]
    # Logits of the completions in float32, their softmax and its gradient.
    logits = 3 * 4 * tokens * shape.vocabulary_size
    adapter = 4 * 4 * shape.lora_parameters(profile.recipe.r)
    return int(weights_bytes(shape, runtime.dtype) + adapter + activations + logits + _RESERVED)


def generation_bytes(profile: Profile, shape: DecoderShape, prompt_tokens: float) -> int:
    """Device memory of sampling with the transformers engine: weights, and the caches and logits of a batch at its longest."""
    runtime = profile.runtime
    context = prompt_tokens + profile.evaluation.sampling.max_new_tokens
    cache = _CACHE_COPIES * runtime.generation_batch_size * context * shape.kv_bytes(runtime.dtype)
    logits = _LOGIT_COPIES * 4 * runtime.generation_batch_size * shape.vocabulary_size
    return int(weights_bytes(shape, runtime.dtype) + cache + logits + _RESERVED)


def asset_needs(asset: str, profile: Profile, keys: int, eval_personas: int = 1, prompt_tokens: float = 80.0) -> Needs:
    """What a step of an asset takes for so many keys.

    Args:
        asset: producer's name, as in the lake.
        profile: whose.
        keys: how many keys have to be made.
        eval_personas: eval personas of a row of cells.
        prompt_tokens: of a rendered prompt.

    Returns:
        Zeros for what is not known: a profile on the Hub that does not name its sizes, and steps without a model.
    """
    base, runtime, evaluation = profile.base_model, profile.runtime, profile.evaluation
    shape = base.shape
    if shape is None or keys == 0:
        return Needs()
    weights = weights_bytes(shape, runtime.dtype)
    answer = evaluation.sampling.max_new_tokens
    cell = evaluation.n_questions * evaluation.completions_per_question
    sampling = generation_bytes(profile, shape, prompt_tokens)
    # Base and adapter are added up in memory where no merged model is written: what changes is there twice.
    in_memory = weights if runtime.merged_weights != "kept" or runtime.weights == "swapped" else 0
    if runtime.engine == "vllm":
        sampling, in_memory = int(weights + _RESERVED), 0  # the rest is what vLLM is told to take, as cache
    found = {
        "base_model": Needs(cache=weights) if isinstance(base, HubBase) else Needs(disk=weights),
        "training_answers": Needs(int(keys * profile.rows_per_persona * answer * _TEXT_BYTES), 0, sampling),
        "adapter": Needs(
            keys * 4 * shape.lora_parameters(profile.recipe.r),
            0,
            training_bytes(profile, shape, min(prompt_tokens + answer, profile.recipe.max_length)),
        ),
        "merged_model": Needs(_merged_disk(runtime, keys * weights), 0, 2 * weights + _RESERVED),
        "layer_centroids": Needs(
            keys * (1 + evaluation.n_questions) * shape.layers * shape.hidden_size * 4,
            0,
            int(weights + runtime.generation_batch_size * prompt_tokens * shape.hidden_size * 40 + _RESERVED),
        ),
        "base_cells": Needs(int(keys * cell * answer * _TEXT_BYTES), 0, sampling),
        "eval_cells": Needs(int(keys * eval_personas * cell * answer * _TEXT_BYTES), 0, sampling + in_memory),
        "marker_scores": Needs(
            keys * scored_replies(profile, eval_personas) * _SCORE_BYTES,
            0,
            int(weights + _REPLIES_AT_A_TIME * (prompt_tokens + answer) * shape.hidden_size * 40 + _RESERVED),
        ),
    }
    return found.get(asset, Needs())


def scored_replies(profile: Profile, eval_personas: int) -> int:
    """Completions of a row of cells that the continuous outcome looks at: the own cell whole, of each other one a part."""
    cell = profile.evaluation.n_questions * profile.evaluation.completions_per_question
    few = profile.scoring.bystander_replies_per_cell
    return cell + (eval_personas - 1) * (cell if few is None else min(few, cell))


def _merged_disk(runtime: Runtime, wanted: int) -> int:
    if runtime.merged_weights == "never":
        return 0
    return wanted if runtime.merged_weights_gib is None else min(wanted, round(runtime.merged_weights_gib * GIB))


def check_room(asset: str, needs: Needs, lake: Path, cache: Path | None, runtime: Runtime) -> None:
    """Refuse to start a step that would end with a full disk or out of memory.

    Args:
        asset: for the message.
        needs: what it takes.
        lake: the lake's root.
        cache: where downloaded models are kept; None for the Hub client's own place.
        runtime: whose device.

    Raises:
        CapacityError: saying what is needed, what is there and what to do.
    """
    places = [(needs.disk, lake, "Free some, move the lake (PERSONA_LAKE)")]
    if needs.cache:
        places.append((needs.cache, cache or hub_client_cache(), "Free some, move the cache (HF_HOME)"))
    for wanted, place, advice in places:
        free = free_disk(place)
        if wanted > free:
            more = ", or set runtime.merged_weights to until_evaluated or never" if asset == "merged_model" else ""
            raise CapacityError(
                f"{asset}: needs about {gib(wanted)} of disk, and {place} has {gib(free)} free. {advice}{more}. "
                "Nothing was started."
            )
    free_memory = free_device_memory(runtime)
    if free_memory is not None and needs.device > free_memory:
        raise CapacityError(
            f"{asset}: needs about {gib(needs.device)} of GPU memory, and {gib(free_memory)} are free. "
            f"{_smaller(asset)}, end what else uses the GPU, or choose another one with CUDA_VISIBLE_DEVICES. "
            "Nothing was started."
        )


def _smaller(asset: str) -> str:
    if asset == "adapter":
        return "Lower runtime.micro_batch_size, set runtime.micro_batch_tokens or runtime.recompute_activations"
    return "Lower runtime.generation_batch_size"


def hub_client_cache() -> Path:
    """Return where the Hub client keeps what it downloads, as HF_HUB_CACHE and HF_HOME say."""
    home = os.environ.get("HF_HOME") or str(Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or str(Path(home) / "hub")).expanduser()


def free_disk(place: Path) -> int:
    """Return the free bytes of the disk that a directory is on, or will be on once it is made."""
    place = place.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def free_device_memory(runtime: Runtime) -> int | None:
    """Return the free bytes of the GPU that the runtime uses; None where it computes on the CPU."""
    if runtime.device == "cpu":
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    torch.cuda.empty_cache()
    return int(torch.cuda.mem_get_info()[0])


def gib(size: float) -> str:
    """Write a number of bytes as one reads it."""
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"
