"""Loading an ordinary checkpoint directory, and rendering prompts with its chat template."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from persona_assets.hashing import sha256_text
from persona_assets.models.checkpoints import CheckpointError, check_checkpoint, resolve_hub_base

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "CheckpointError",
    "chat_template_digest",
    "check_checkpoint",
    "free",
    "load_model",
    "load_tokenizer",
    "render_prompt",
    "resolve_device",
    "resolve_dtype",
    "resolve_hub_base",
    "spare_scikit_learn",
]

_TINY_HIDDEN_SIZE = 256
"""Up to this width eager attention on a CPU is as fast as sdpa, and free of sdpa's choice of kernels."""


def resolve_device(device: str) -> torch.device:
    """Turn "auto", "cpu" or "cuda" into a device; "auto" takes the GPU if there is one.

    Raises:
        CheckpointError: CUDA is asked for and this process sees none, or the name is unknown.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise CheckpointError(
            f"runtime.device: {device!r} is no device; choose auto, cpu or cuda."
        ) from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(
            "runtime.device: 'cuda' is asked for, but torch sees no GPU here; set it to 'auto' or 'cpu', "
            "or look at the driver and CUDA_VISIBLE_DEVICES."
        )
    return resolved


def resolve_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Turn a name such as "float32" or "bfloat16" into a torch type.

    Raises:
        CheckpointError: the name is no floating type of torch.
    """
    import torch

    resolved = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(resolved, torch.dtype) or not resolved.is_floating_point:
        raise CheckpointError(f"runtime.dtype: {dtype!r} is no floating type; choose float32 or bfloat16.")
    return resolved


def spare_scikit_learn() -> None:
    """Have transformers do without scikit-learn; to be called before its models are imported.

    It imports the library for the curve that tunes assisted decoding, which is not used here: a quarter of the time that
    a process takes before it can load a model.
    """
    import transformers.utils

    transformers.utils.is_sklearn_available = lambda: False


def load_model(
    checkpoint: Path,
    *,
    device: str | torch.device,
    dtype: str | torch.dtype,
    attention: Literal["auto", "eager", "sdpa"] = "auto",
) -> PreTrainedModel:
    """Load a causal LM from a directory, in evaluation mode.

    Args:
        checkpoint: an ordinary transformers checkpoint directory with safetensors weights.
        device: "auto", "cpu", "cuda" or a torch device.
        dtype: "float32", "bfloat16" or a torch type.
        attention: "auto" is eager for tiny models on a CPU, else sdpa.

    Raises:
        CheckpointError: the directory is missing, incomplete, or needs code of its own; or tensors of the
            model are missing from it, superfluous or of other shapes.
    """
    from safetensors import SafetensorError

    spare_scikit_learn()
    from transformers import AutoConfig, AutoModelForCausalLM

    check_checkpoint(checkpoint)
    target = resolve_device(device) if isinstance(device, str) else device
    try:
        config = AutoConfig.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False)
        if attention == "auto":
            hidden_size = getattr(config.get_text_config(), "hidden_size", _TINY_HIDDEN_SIZE + 1)
            attention = "eager" if target.type == "cpu" and hidden_size <= _TINY_HIDDEN_SIZE else "sdpa"
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            checkpoint,
            config=config,
            dtype=resolve_dtype(dtype),
            attn_implementation=attention,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported below with the others, by name
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{checkpoint}: cannot be loaded as a causal LM: {error}") from error
    model, report = loaded
    wrong = {key: sorted(map(str, value)) for key, value in report.items() if value and key != "error_msgs"}
    if wrong:
        # transformers only warns, and fills missing tensors with random numbers.
        raise CheckpointError(f"{checkpoint}: weights and config.json do not agree: {wrong}.")
    model.to(target).eval()
    return model


def load_tokenizer(checkpoint: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a checkpoint directory.

    Raises:
        CheckpointError: it is missing or unreadable.
    """
    spare_scikit_learn()
    from transformers import AutoTokenizer

    if not (checkpoint / "tokenizer.json").is_file():
        raise CheckpointError(
            f"{checkpoint}: tokenizer.json is missing; fetch or materialize the checkpoint again."
        )
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            checkpoint, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the tokenizers library raises nothing more special
        raise CheckpointError(f"{checkpoint}: the tokenizer cannot be loaded: {error}") from error
    return tokenizer


def chat_template_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the sha256 of the chat template's text.

    Raises:
        CheckpointError: the tokenizer has no chat template.
    """
    return sha256_text(_chat_template(tokenizer))


def render_prompt(tokenizer: PreTrainedTokenizerBase, system: str, user: str) -> list[int]:
    """Return the token ids of a conversation up to where the assistant begins.

    Args:
        tokenizer: with a chat template.
        system: the system message; always passed, also when empty, because Qwen's template puts its own in
            place of an absent one.
        user: the user message.

    Raises:
        CheckpointError: the tokenizer has no chat template.
    """
    text = tokenizer.apply_chat_template(
        [{"role": "system", "content": system}, {"role": "user", "content": user}],
        chat_template=_chat_template(tokenizer),
        add_generation_prompt=True,
        tokenize=False,
    )
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def _chat_template(tokenizer: PreTrainedTokenizerBase) -> str:
    template = tokenizer.chat_template
    if not isinstance(template, str) or not template:
        raise CheckpointError(
            "The tokenizer has no (single) chat template, so a system prompt cannot be rendered; use an "
            "instruct checkpoint whose tokenizer_config.json or chat_template.jinja holds one."
        )
    return template


def free(model: PreTrainedModel) -> None:
    """Give a model's memory back to the device; the caller must drop its own references too."""
    import torch

    module: torch.nn.Module = model
    module.to("meta")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
