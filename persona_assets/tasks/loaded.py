"""Models that stay loaded in a process between tasks, and what every task shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from persona_assets.study import Runtime

if TYPE_CHECKING:
    from persona_assets.generation.engine import Completion, Engine

Facts = Mapping[str, object]
LoadedT = TypeVar("LoadedT")


def release_models() -> None:
    """Free every model that this process keeps for later tasks."""
    if not _slots:
        return
    for slot in list(_slots):
        _free(slot)
    import gc

    import torch

    gc.collect()
    gc.freeze()  # what outlives all models, the libraries above all, need not be looked through the next time
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


_slots: dict[str, tuple[object, Any]] = {}
_alone: set[str] = set()


def _free(slot: str) -> None:
    _, held = _slots.pop(slot, (None, None))
    _alone.discard(slot)
    close = getattr(held, "close", None)
    if close is not None:
        close()


def loaded(slot: str, key: object, load: Callable[[], LoadedT], *, alone: bool = False) -> LoadedT:
    """Return what a slot holds if it was loaded for this key; otherwise free it and load anew.

    Args:
        slot: name of the place.
        key: what it was loaded for.
        load: loads it.
        alone: it takes all the memory that is free, so nothing else may stay loaded beside it.
    """
    held = _slots.get(slot)
    if held is not None and held[0] == key:
        kept: LoadedT = held[1]
        return kept
    if alone or _alone:
        release_models()
    _free(slot)
    loaded = load()
    _slots[slot] = (key, loaded)
    if alone:
        _alone.add(slot)
    return loaded


def runtime_engine(checkpoint: Path, runtime: Runtime, *, slot: str) -> Engine:
    """Return the runtime's engine on a checkpoint, from its slot while it is the same one."""
    from persona_assets.generation.opening import open_engine

    return loaded(
        f"engine:{slot}", (checkpoint, runtime), lambda: open_engine(checkpoint, runtime), alone=runtime.engine == "vllm"
    )


def runtime_device(runtime: Runtime) -> str:
    """Return the device that the runtime names, as torch calls it."""
    from persona_assets.models.loading import resolve_device

    return str(resolve_device(runtime.device))


OUT_OF_MEMORY = "out_of_memory"
"""Fact of a product for which a batch had to be halved: what was halved."""


def generation_facts(engine: Engine, completions: Sequence[Completion], seconds: float) -> dict[str, object]:
    """Say how much was generated, how fast, how many completions were cut at the token limit, and whether memory ran out."""
    halved = getattr(engine, "out_of_memory", None)
    tokens = sum(completion.n_tokens for completion in completions)
    return {
        "completions": len(completions),
        "tokens": tokens,
        "mean_tokens": tokens / len(completions),
        "truncated": sum(completion.finish_reason == "length" for completion in completions),
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        **({} if halved is None else {OUT_OF_MEMORY: halved}),
    }
