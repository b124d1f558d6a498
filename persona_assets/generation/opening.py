"""Open the engine that a profile's runtime names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from persona_assets.generation.engine import Engine
    from persona_assets.study import Runtime


def open_engine(checkpoint: Path, runtime: Runtime) -> Engine:
    """Load a checkpoint into the runtime's engine.

    Args:
        checkpoint: checkpoint directory of a base or merged model.
        runtime: engine and its arguments, merged or swapped weights, device, precision and batch size.

    Raises:
        EngineError: the engine is not available.
        CheckpointError: the checkpoint cannot be loaded.
    """
    if runtime.engine == "vllm":
        from persona_assets.generation.vllm_engine import VllmEngine

        return VllmEngine(checkpoint, runtime)
    from persona_assets.generation.transformers_engine import TransformersEngine
    from persona_assets.models.loading import load_model, load_tokenizer, resolve_device

    model = load_model(checkpoint, device=resolve_device(runtime.device), dtype=runtime.dtype)
    return TransformersEngine(
        model, load_tokenizer(checkpoint), runtime.generation_batch_size, runtime.decoder, runtime.weights
    )
