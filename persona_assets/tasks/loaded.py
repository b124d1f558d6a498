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
    _slots.clear()
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


_slots: dict[str, tuple[object, Any]] = {}


def loaded(slot: str, key: object, load: Callable[[], LoadedT]) -> LoadedT:
    """Return what a slot holds if it was loaded for this key; otherwise free it and load anew."""
    held = _slots.get(slot)
    if held is not None and held[0] == key:
        kept: LoadedT = held[1]
        return kept
    _slots.pop(slot, None)
    loaded = load()
    _slots[slot] = (key, loaded)
    return loaded


def runtime_engine(checkpoint: Path, runtime: Runtime, *, slot: str) -> Engine:
    """Return the runtime's engine on a checkpoint, from its slot while it is the same one."""
    from persona_assets.generation.opening import open_engine

    return loaded(f"engine:{slot}", (checkpoint, runtime), lambda: open_engine(checkpoint, runtime))


def runtime_device(runtime: Runtime) -> str:
    """Return the device that the runtime names, as torch calls it."""
    from persona_assets.models.loading import resolve_device

    return str(resolve_device(runtime.device))


def generation_facts(completions: Sequence[Completion], seconds: float) -> dict[str, object]:
    """Say how much was generated, how fast, and how many completions were cut at the token limit."""
    tokens = sum(completion.n_tokens for completion in completions)
    return {
        "completions": len(completions),
        "tokens": tokens,
        "mean_tokens": tokens / len(completions),
        "truncated": sum(completion.finish_reason == "length" for completion in completions),
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
    }
