"""Arguments of the vLLM engine: one field for each, so that none is left to a default of vLLM's own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from persona_assets.yaml_files import FileModel

_PLACE_ONLY = {"gpu_memory_utilization", "kv_cache_gib"}


class VllmSettings(FileModel):
    """What vLLM is started with, besides checkpoint, precision and device."""

    max_model_len: Annotated[int, Field(ge=1, description="longest prompt with its completion, in tokens")] = 2048
    gpu_memory_utilization: Annotated[
        float, Field(gt=0.0, le=1.0, description="share of the device's memory for weights, activations and KV cache together")
    ] = 0.9
    kv_cache_gib: Annotated[
        float | None,
        Field(gt=0.0, description="size of the KV cache instead of what gpu_memory_utilization leaves; on a CPU always set it"),
    ] = None
    max_num_seqs: Annotated[int, Field(ge=1, description="completions drawn at a time, at most")] = 256
    max_num_batched_tokens: Annotated[int, Field(ge=1, description="tokens in one forward pass, at most")] = 8192
    enforce_eager: Annotated[bool, Field(description="no compiled kernels, no CUDA graphs; on a CPU always set it")] = False
    enable_prefix_caching: Annotated[bool, Field(description="read a prompt once for all its completions")] = True
    kv_cache_dtype: Annotated[Literal["auto", "fp8"], Field(description="precision of the KV cache; auto: the model's")] = "auto"
    tensor_parallel_size: Annotated[int, Field(ge=1, description="GPUs that share one model")] = 1
    max_loras: Annotated[int, Field(ge=1, description="swapped: adapters in one batch, at most")] = 1
    max_lora_rank: Annotated[
        Literal[8, 16, 32, 64, 128, 256], Field(description="swapped: largest rank of an adapter; recipe.r must fit")
    ] = 32
    seed: Annotated[int, Field(ge=0, lt=2**32, description="the engine's own seed; every completion has a seed of its own")] = 0

    def numeric(self) -> dict[str, object]:
        """Arguments that choose the arithmetic: what a measurement is made with."""
        return self.model_dump(include={"enforce_eager", "enable_prefix_caching", "kv_cache_dtype", "tensor_parallel_size"})

    def fingerprint(self) -> dict[str, object]:
        """Arguments that can change a completion's floating-point sums: all but where the memory is."""
        return self.model_dump(exclude=_PLACE_ONLY)
