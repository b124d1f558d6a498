"""Hidden states of personas on the base model: what the cosines between personas are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from persona_assets.errors import PersonaAssetsError
from persona_assets.models.loading import render_prompt

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class HiddenStateError(PersonaAssetsError):
    """Hidden states cannot be read off this model, or are not finite."""


def question_vectors(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    system_prompt: str,
    questions: Sequence[str],
    batch_size: int,
) -> npt.NDArray[np.float32]:
    """Return the hidden state of the last input token at the output of every decoder layer.

    The last input token is the last one of the generation prompt, where the model is about to answer. The
    states are those the layers put out: transformers' `hidden_states[-1]` has the final norm applied, these
    have not.

    Args:
        model: a causal LM whose decoder layers are a module list named `layers`.
        tokenizer: its tokenizer, with a chat template.
        system_prompt: the persona's prompt.
        questions: user messages.
        batch_size: questions per forward pass; does not change the result beyond floating-point noise.

    Returns:
        [questions, layers, hidden], float32.

    Raises:
        HiddenStateError: there are no questions, batch_size is not positive, the layers are not found, a
            prompt exceeds the model's context, or a state is not finite.
    """
    import torch

    if not questions:
        raise HiddenStateError("No questions were given, so there is no hidden state to read.")
    if batch_size < 1:
        raise HiddenStateError(f"batch_size: {batch_size} is not positive.")
    prompts = [render_prompt(tokenizer, system_prompt, question) for question in questions]
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(map(len, prompts))
    if context is not None and longest > context:
        raise HiddenStateError(
            f"A prompt has {longest} tokens, the model's context is {context}; shorten it."
        )
    decoder: Any = model.get_decoder()
    layers = _decoder_layers(model, decoder)
    model.train(False)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(prompts), batch_size):
            parts.append(_last_states(decoder, layers, prompts[start : start + batch_size]))
    vectors: npt.NDArray[np.float32] = np.concatenate(parts)
    if not np.isfinite(vectors).all():
        question, layer, _ = np.argwhere(~np.isfinite(vectors))[0]
        raise HiddenStateError(
            f"The hidden state of question {question} at layer {layer} is not finite; look at the "
            f"checkpoint's weights, or use float32 or bfloat16."
        )
    return vectors


def centroid(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the mean over the questions.

    Args:
        vectors: [questions, layers, hidden], float32.

    Returns:
        [layers, hidden], float32.

    Raises:
        HiddenStateError: the array has another shape or no questions.
    """
    if vectors.ndim != 3 or vectors.shape[0] == 0:
        raise HiddenStateError(f"Expected vectors of shape [questions, layers, hidden], got {vectors.shape}.")
    mean: npt.NDArray[np.float32] = vectors.mean(axis=0, dtype=np.float32)
    return mean


def _decoder_layers(model: PreTrainedModel, decoder: object) -> Sequence[torch.nn.Module]:
    layers = getattr(decoder, "layers", None)
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    if layers is None or len(layers) != count:
        raise HiddenStateError(
            f"The decoder layers of {type(model).__name__} are not found under `layers`; use a model of the "
            "Qwen2 or Llama kind."
        )
    found: Sequence[torch.nn.Module] = layers
    return found


def _last_states(
    decoder: Any, layers: Sequence[torch.nn.Module], prompts: Sequence[Sequence[int]]
) -> npt.NDArray[np.float32]:
    import torch

    device = next(decoder.parameters()).device
    width = max(map(len, prompts))
    # Padding stands on the right: causal attention never looks at it, and positions are those of the
    # prompt alone.
    ids = torch.tensor([list(prompt) + [0] * (width - len(prompt)) for prompt in prompts], device=device)
    mask = torch.tensor(
        [[1] * len(prompt) + [0] * (width - len(prompt)) for prompt in prompts], device=device
    )
    rows = torch.arange(len(prompts), device=device)
    last = mask.sum(-1) - 1
    states: list[torch.Tensor] = []

    def record(
        _module: torch.nn.Module, _inputs: object, output: torch.Tensor | tuple[torch.Tensor, ...]
    ) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        states.append(hidden[rows, last].float().cpu())

    handles = [layer.register_forward_hook(record) for layer in layers]
    try:
        decoder(input_ids=ids, attention_mask=mask, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    stacked: npt.NDArray[np.float32] = torch.stack(states, dim=1).numpy()
    return stacked
