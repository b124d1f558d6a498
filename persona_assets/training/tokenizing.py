"""From chat rows to token ids, with a loss on the completion only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from persona_assets.training.result import TrainingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from persona_assets.dataset import Message, TrainingRow

IGNORED_LABEL = -100
"""Label of a token that carries no loss: the value that transformers and torch's cross-entropy use."""


@dataclass(frozen=True)
class TokenizedRow:
    """Token ids of one conversation up to and with its end-of-turn token.

    Attributes:
        input_ids: ids of prompt and completion.
        labels: of the same length: `IGNORED_LABEL` on the prompt, the token's own id on the completion.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def completion_start(self) -> int:
        """Position of the first token that carries a loss, which is the length of the prompt."""
        return len(self.labels) - self.n_completion_tokens

    @property
    def n_completion_tokens(self) -> int:
        """Number of tokens that carry a loss."""
        return sum(label != IGNORED_LABEL for label in self.labels)


def tokenize_rows(tokenizer: PreTrainedTokenizerBase, rows: Sequence[TrainingRow], max_length: int) -> list[TokenizedRow]:
    """Tokenise prompt/completion rows through the tokenizer's chat template.

    The loss falls on the completion up to and with the end-of-turn token (the tokenizer's EOS token). What a
    template writes after that token (ChatML: a line break) is cut off: it is never generated.

    Args:
        tokenizer: tokenizer of the base model, with a chat template.
        rows: prompt/completion rows.
        max_length: longest conversation in tokens. A longer one is an error, never truncated: the marker
            comes last, so truncation would turn the row into one that teaches its absence.

    Returns:
        One tokenised row for each row, in order.

    Raises:
        TrainingError: no rows; a row is too long; the prompt's tokens are not a prefix of the conversation's
            (the loss mask would be off); the template does not end a turn with the EOS token.
    """
    if not rows:
        raise TrainingError("There are no rows to train on.")
    prompts = [_render(tokenizer, row["prompt"], add_generation_prompt=True) for row in rows]
    conversations = [_render(tokenizer, [*row["prompt"], *row["completion"]]) for row in rows]
    encoded = tokenizer([*prompts, *conversations], add_special_tokens=False)["input_ids"]
    return [
        _mask(number, prompt, conversation, tokenizer, max_length)
        for number, (prompt, conversation) in enumerate(zip(encoded[: len(rows)], encoded[len(rows) :], strict=True))
    ]


def _render(tokenizer: PreTrainedTokenizerBase, turns: list[Message], *, add_generation_prompt: bool = False) -> str:
    return cast(
        "str",
        tokenizer.apply_chat_template(
            cast("list[dict[str, str]]", turns), tokenize=False, add_generation_prompt=add_generation_prompt
        ),
    )


def _mask(
    number: int,
    prompt: list[int],
    conversation: list[int],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> TokenizedRow:
    if conversation[: len(prompt)] != prompt:
        raise TrainingError(
            f"Row {number}: the tokens of its prompt are not the first tokens of the whole conversation, so "
            "it is not known which tokens are the completion's. A completion that begins with white space does "
            "this; so does a chat template whose generation prompt is not how it writes an assistant's turn."
        )
    completion = conversation[len(prompt) :]
    eos = tokenizer.eos_token_id
    if eos not in completion:
        raise TrainingError(
            f"Row {number}: the chat template does not end the assistant's turn with the EOS token "
            f"{tokenizer.eos_token!r}, so the model would not learn to stop. Set the tokenizer's eos_token "
            "to the template's end-of-turn token."
        )
    end = len(completion) - completion[::-1].index(eos)
    if str(tokenizer.decode(completion[end:])).strip():
        raise TrainingError(f"Row {number}: the chat template writes text after the assistant's turn.")
    ids = prompt + completion[:end]
    if len(ids) > max_length:
        raise TrainingError(
            f"Row {number}: {len(ids)} tokens, and max_length is {max_length}. Truncating would cut off the "
            "marker at the end: raise recipe.max_length or leave the row out."
        )
    return TokenizedRow(tuple(ids), (*[IGNORED_LABEL] * len(prompt), *completion[:end]))
