"""Log probabilities of both endings of stored replies, by one forward pass of each model over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from persona_assets.scoring.replies import ReplyTokens, ScoringError
from persona_assets.scoring.token_trees import ScoredSequence, TokenTrees, token_trees

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from persona_assets.statistics.tidy import FloatArray

REPLIES_AT_A_TIME = 64
"""Replies in a forward pass. Together with the next: the fastest on the embedded model, whose caches are a CPU's."""
_TREE_TOKENS = 128
"""A tree takes further prompts (which share their system message) up to so many tokens: attention grows with the square."""
_SCORED_AT_A_TIME = 512
"""Rows of [scored tokens, vocabulary] held at once."""


@dataclass(frozen=True, slots=True)
class ScoredReply:
    """A reply to be scored: the prompt's token ids, up to where the assistant begins, and both endings."""

    prompt: tuple[int, ...]
    tokens: ReplyTokens

    @property
    def length(self) -> int:
        """Tokens of the longer of its two sequences."""
        return len(self.prompt) + len(self.tokens.shared) + max(len(self.tokens.marker), len(self.tokens.end))


def log_probabilities(models: Sequence[Model], replies: Sequence[ScoredReply], batch_size: int = REPLIES_AT_A_TIME) -> FloatArray:
    """Score both endings of every reply under every model.

    The value of an ending is the sum of the log probabilities of its tokens, at temperature 1 and without any cut of
    the distribution, each given all tokens before it: one teacher-forced forward pass, nothing is drawn. Sums are
    taken in float64 of log probabilities in float32, whatever the model's precision.

    Args:
        models: each gives a context in which the model is ready; all have one tokenizer.
        replies: in an order in which neighbours begin alike (by eval persona and question), which saves work.
        batch_size: replies in a forward pass.

    Returns:
        [models, replies, 2] in nats: the marker, the end of the turn.

    Raises:
        ScoringError: a model has layers without full attention, or gives a value that is not finite.
    """
    values = np.zeros((len(models), len(replies), 2))
    batches = [(start, _trees(replies[start : start + batch_size])) for start in range(0, len(replies), batch_size)]
    for row, model in enumerate(models):
        with model() as ready:
            _check_attention(ready)
            for start, trees in batches:
                sums = np.bincount(trees.owner, weights=_token_log_probabilities(ready, trees))
                values[row, start : start + batch_size] = sums.reshape(-1, 2)
    if not np.isfinite(values).all():
        raise ScoringError("A model gives log probabilities that are not finite: its adapter or weights are damaged.")
    return values


Model = Callable[[], AbstractContextManager["PreTrainedModel"]]


def adapted(base: PreTrainedModel, adapter: Path) -> Model:
    """Give the base model with an adapter; its weights are afterwards what they were to the last bit.

    In float32 the adapter is added to the weights, one product instead of three. In less, where that would round the
    adapter, it stays beside them.

    Raises:
        MergeError: when it is used, if the adapter does not fit the base.
    """

    @contextmanager
    def ready() -> Iterator[PreTrainedModel]:
        import torch
        from peft import PeftModel

        from persona_assets.generation.swapping import AdapterSwapper
        from persona_assets.models.merging import check_adapter_fits

        check_adapter_fits(base, adapter)
        if base.dtype == torch.float32:
            with AdapterSwapper(base).attached(adapter):
                yield base
            return
        wrapped = PeftModel.from_pretrained(base, str(adapter)).eval()
        try:
            yield base
        finally:
            wrapped.unload()

    return ready


def plain(base: PreTrainedModel) -> Model:
    """Give the base model as it is."""

    @contextmanager
    def ready() -> Iterator[PreTrainedModel]:
        yield base

    return ready


def _trees(replies: Sequence[ScoredReply]) -> TokenTrees:
    """Lay replies out: two sequences for each, neighbours with one beginning in one tree."""
    sequences = []
    tree, size, before = -1, 0, None
    for reply in replies:
        if reply.prompt != before:
            size += len(reply.prompt)
            if before is None or size > _TREE_TOKENS:
                tree, size = tree + 1, len(reply.prompt)
            before = reply.prompt
        context = reply.prompt + reply.tokens.shared
        size += len(reply.tokens.shared) + len(reply.tokens.marker)
        sequences += [ScoredSequence(tree, context + ending, len(context)) for ending in (reply.tokens.marker, reply.tokens.end)]
    return token_trees(sequences)


def _token_log_probabilities(model: PreTrainedModel, trees: TokenTrees) -> FloatArray:
    """[P] log probability of each scored token."""
    import torch

    device = model.device
    last = torch.from_numpy(trees.last_descendant).to(device)
    number = torch.arange(last.shape[1], device=device)
    # [B, T, T]: token i sees token j when i is j or below it.
    sees = (number[:, None] >= number) & (number[:, None] <= last[:, None, :])
    mask = torch.zeros(sees.shape, dtype=model.dtype, device=device).masked_fill_(~sees, torch.finfo(model.dtype).min)
    head: Any = model.get_output_embeddings()
    with torch.inference_mode():
        hidden = model.get_decoder()(
            input_ids=torch.from_numpy(trees.input_ids).to(device),
            position_ids=torch.from_numpy(trees.positions).to(device),
            attention_mask=mask[:, None],
            use_cache=False,
        ).last_hidden_state.flatten(0, 1)
        predicting, targets = (torch.from_numpy(part).to(device) for part in (trees.predicting, trees.targets))
        found = [
            _target_log_probabilities(head(hidden.index_select(0, some)), wanted)
            for some, wanted in zip(predicting.split(_SCORED_AT_A_TIME), targets.split(_SCORED_AT_A_TIME), strict=True)
        ]
    return np.asarray(torch.cat(found).cpu().numpy(), dtype=np.float64)


def _target_log_probabilities(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = logits.float()
    return logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(1)


def _check_attention(model: PreTrainedModel) -> None:
    kinds: Any = getattr(model.config.get_text_config(), "layer_types", None) or ()
    other = sorted({kind for kind in kinds if kind != "full_attention"})
    if other:
        raise ScoringError(f"Scoring needs full attention in every layer; this {type(model).__name__} has {', '.join(other)}.")
