"""Drawing tokens: uniforms that belong to a completion, and the inverse CDF of the truncated softmax.

The next token is the first id, in order of the vocabulary, at which the cumulative probability of the tokens
kept exceeds `u` times their total. Walking in id order rather than in order of probability makes the draw
independent of how ties and near ties are sorted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from persona_assets.generation.engine import EngineError

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from persona_assets.study import SamplingSettings

_FIRST_LOOK = 64
"""So many of the most probable tokens are sorted first; all of them only for rows whose nucleus is larger."""


def completion_uniforms(seed: int, count: int) -> npt.NDArray[np.float64]:
    """Return the uniforms in [0, 1) that draw a completion's tokens, one per token.

    Args:
        seed: the completion's seed, the key of a Philox-4x64 counter generator (Salmon et al. 2011).
        count: how many; a smaller count gives a prefix of a larger one.
    """
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


class SeenTokens:
    """The tokens that each row has seen, prompt and completion, for the penalty on saying one again.

    The definition of Keskar et al. 2019 as transformers and vLLM have it: a positive logit of a token seen before is
    divided by the penalty, a negative one multiplied. With the penalty 1 nothing is kept and nothing done.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], penalty: float) -> None:
        """Begin with each row's prompt.

        Args:
            prompts: token ids, one prompt for each row.
            penalty: above 1 a token seen before becomes less likely, below 1 more likely.
        """
        self._prompts = prompts
        self._penalty = penalty
        self._seen: torch.Tensor | None = None

    def penalised(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits, [rows, vocabulary], with the penalty applied."""
        import torch

        if self._penalty == 1.0:
            return logits
        if self._seen is None:
            self._seen = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
            for row, prompt in enumerate(self._prompts):
                self._seen[row, torch.tensor(prompt, device=logits.device)] = True
        penalised = torch.where(logits < 0, logits * self._penalty, logits / self._penalty)
        return torch.where(self._seen, penalised, logits)

    def append(self, tokens: torch.Tensor) -> None:
        """Add one token to each row; `tokens` is [rows], int64."""
        if self._seen is not None:
            self._seen.scatter_(1, tokens[:, None], True)

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with these rows only."""
        if self._seen is not None:
            self._seen = self._seen[rows]


def draw_tokens(logits: torch.Tensor, uniforms: torch.Tensor, sampling: SamplingSettings) -> torch.Tensor:
    """Draw one token per row.

    Args:
        logits: [rows, vocabulary], any floating type.
        uniforms: [rows] in [0, 1), float64, on the same device; not used at temperature 0.
        sampling: temperature (0 takes the most probable token), then top_k (0 is off), then top_p.

    Returns:
        Token ids, [rows], int64.

    Raises:
        EngineError: a row has no finite largest logit (the model's weights or activations are broken).
    """
    import torch

    logits = logits.float()
    if not bool(torch.isfinite(logits.amax(-1)).all()):
        raise EngineError(
            "The model returned logits that are not finite (NaN or infinity); look at the adapter's weights, "
            "or use float32 instead of a shorter type."
        )
    if sampling.temperature == 0.0:
        return logits.argmax(-1)
    if sampling.temperature != 1.0:
        logits = logits / sampling.temperature
    weights = kept_probabilities(logits, sampling)
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1:]
    # In float32 u may round to 1; the target must stay below the total for a token to exist.
    target = torch.minimum(
        (uniforms[:, None] * total).float(), torch.nextafter(total, torch.zeros_like(total))
    )
    tokens = torch.searchsorted(cumulative, target, right=True).clamp_(max=weights.shape[-1] - 1)
    # A parallel scan may round a sum up across a token of weight 0; such a row is read with a mask instead.
    unkept = weights.gather(-1, tokens)[:, 0] == 0
    if bool(unkept.any()):
        reached = torch.where(weights[unkept] > 0, cumulative[unkept], -1.0)
        goal = torch.minimum(target[unkept], reached.amax(-1, keepdim=True))
        tokens[unkept] = (reached >= goal).to(torch.uint8).argmax(-1, keepdim=True)
    return tokens[:, 0]


def kept_probabilities(logits: torch.Tensor, sampling: SamplingSettings) -> torch.Tensor:
    """Return the softmax with the tokens that top_k and top_p leave out set to 0; not rescaled to sum 1.

    top_p keeps a token if the tokens more probable than it sum to less than `top_p`: the definition of
    transformers' `TopPLogitsWarper` (Holtzman et al. 2020). Of equally probable tokens at the edge those of
    lower id are kept, where transformers leaves the choice to its sort.

    Args:
        logits: [rows, vocabulary], float32, the temperature already applied.
        sampling: `top_k` and `top_p`.

    Returns:
        [rows, vocabulary] float32.
    """
    import torch

    probabilities = torch.softmax(logits, -1)
    if 0 < sampling.top_k < probabilities.shape[-1]:
        threshold = _largest(probabilities, sampling.top_k)[:, -1:]
        probabilities = torch.where(probabilities >= threshold, probabilities, 0.0)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    if sampling.top_p >= 1.0:
        return probabilities
    vocabulary = probabilities.shape[-1]
    threshold, size, surplus = _nucleus_edge(probabilities, min(_FIRST_LOOK, vocabulary), sampling.top_p)
    open_rows = surplus < 0
    if bool(open_rows.any()):
        threshold[open_rows], size[open_rows], surplus[open_rows] = _nucleus_edge(
            probabilities[open_rows], vocabulary, sampling.top_p
        )
    kept = torch.where(probabilities >= threshold[:, None], probabilities, 0.0)
    ties = torch.nonzero(surplus > 0)[:, 0]
    if ties.numel():
        # Short types give many equal logits, so this is no rare case: of the equal ones the first so many stay.
        rows, edge = probabilities[ties], threshold[ties, None]
        tied = rows == edge
        room = size[ties] - (rows > edge).sum(-1)
        kept[ties] = torch.where(tied & (tied.cumsum(-1) > room[:, None]), 0.0, kept[ties])
    return kept


def _nucleus_edge(
    probabilities: torch.Tensor, look: int, top_p: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Find the least probability kept per row, looking at the `look` largest.

    Returns:
        The threshold, [rows]; how many tokens are kept, [rows] int64; and a flag, [rows] int64: 1 if a token outside
        ties with the threshold, -1 if the edge cannot be told from so few tokens, else 0.
    """
    import torch

    largest = _largest(probabilities, look)
    before = largest.double().cumsum(-1) - largest
    size = (before < top_p).sum(-1)
    threshold = largest.gather(-1, size[:, None] - 1)[:, 0]
    following = largest.gather(-1, size.clamp(max=look - 1)[:, None])[:, 0]
    flag = ((following == threshold) & (size < look)).long()
    if look < probabilities.shape[-1]:
        flag = torch.where(size == look, -1, flag)
    return threshold, size, flag


def _largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Return each row's `count` largest values, falling; on a CPU numpy sorts far faster than torch."""
    import torch

    if values.device.type != "cpu":
        return torch.topk(values, count).values
    array = values.numpy()
    if count < array.shape[-1]:
        array = np.partition(array, array.shape[-1] - count, axis=-1)[:, -count:]
    return torch.from_numpy(np.ascontiguousarray(np.sort(array, axis=-1)[:, ::-1]))
