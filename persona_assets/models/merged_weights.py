"""How much disk merged models may take: whether there is room for one more, and how much they take now."""

from __future__ import annotations

from pathlib import Path

GIB = 2**30


def weights_on_disk(merged_models: Path) -> int:
    """Bytes of the weights of all merged models under a directory, those being written included."""
    return sum(file.stat().st_size for file in merged_models.rglob("*.safetensors") if file.is_file())


def base_weights(checkpoint: Path) -> int:
    """Bytes of a base model's weights, which a merged model's are as large as."""
    return sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))


def room_for_one(merged_models: Path, checkpoint: Path, limit: int | None, writers: int) -> bool:
    """Say whether one more merged model keeps within a limit.

    Args:
        merged_models: directory that holds all of them.
        checkpoint: of the base model.
        limit: most bytes at once; None for no limit.
        writers: processes that may write one at this moment, this one included.
    """
    return limit is None or weights_on_disk(merged_models) + max(writers, 1) * base_weights(checkpoint) <= limit
