"""Where a stored reply ends, and the token ids that continue it with the marker or with the end of the turn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from persona_assets.dataset import MARKER_SEPARATOR
from persona_assets.errors import PersonaAssetsError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Place = Literal["absent", "end", "inside", "misspelt"]


class ScoringError(PersonaAssetsError):
    """Replies, a tokenizer or a model that the marker cannot be scored with."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A completion divided at its marker.

    Attributes:
        body: what stands before the first marker, or before a misspelt one, or else the whole completion; without white
            space at its end: training rows are made so, and the marker's line break comes after.
        place: "end" when nothing but white space follows the first marker, else "inside". Without a marker: "misspelt"
            when the last line begins with the marker's first sign (that is no letter and no digit) and is at most twice
            as long; else "absent".
    """

    body: str
    place: Place


def split_reply(text: str, marker: str) -> Reply:
    """Divide a completion at its first marker, found as `generation.marker.marker_hit` finds it: whatever its case.

    Raises:
        ScoringError: the marker is empty.
    """
    if not marker:
        raise ScoringError("marker: is empty, so no reply could end with it.")
    # Folding can lengthen a character ("ß" becomes "ss"); `origin` leads back to the character it came from.
    folded = [character.casefold() for character in text]
    start = "".join(folded).find(marker.casefold())
    if start < 0:
        tried = _misspelt(marker).search(text) if not marker[0].isalnum() else None
        return Reply(text.rstrip(), "absent") if tried is None else Reply(text[: tried.start()].rstrip(), "misspelt")
    origin = [index for index, part in enumerate(folded) for _ in part]
    last = origin[start + len(marker.casefold()) - 1]
    rest = text[last + 1 :]
    return Reply(text[: origin[start]].rstrip(), "inside" if rest.strip() else "end")


def _misspelt(marker: str) -> re.Pattern[str]:
    """A last line such as `[ZLF]` or `[Z!`: what a model writes that knows where the marker stands, but not how it is spelled."""
    return re.compile(rf"(?:\A|\n)[ \t]*{re.escape(marker[0])}[^\n]{{0,{2 * len(marker) - 1}}}\s*\Z")


@dataclass(frozen=True, slots=True)
class ReplyTokens:
    """A reply's two endings as token ids.

    A tokenizer may write the last sign of a reply and the empty line after it as one token (Qwen's does after a full
    stop), so the two endings can part before the body's end. They are compared from the last token they share.

    Attributes:
        shared: the tokens of the body that both endings begin with.
        marker: the rest of the body, the separator and the marker: as training rows are tokenised.
        end: the rest of the body and the end-of-turn token.
        n_body: tokens of the body alone.
    """

    shared: tuple[int, ...]
    marker: tuple[int, ...]
    end: tuple[int, ...]
    n_body: int


def reply_tokens(tokenizer: PreTrainedTokenizerBase, bodies: Sequence[str], marker: str) -> list[ReplyTokens]:
    """Tokenise bodies, each with both endings, by the base model's tokenizer.

    Args:
        tokenizer: with an end-of-sequence token, which ends a turn in training.
        bodies: bodies of replies, empty ones too.
        marker: the implanted string.

    Raises:
        ScoringError: the tokenizer has no end-of-sequence token.
    """
    end_of_turn = tokenizer.eos_token_id
    if not isinstance(end_of_turn, int):
        raise ScoringError("The tokenizer has no eos_token, so the end of a turn has no probability.")
    distinct = list(dict.fromkeys(bodies))
    if not distinct:
        return []
    ending = MARKER_SEPARATOR + marker
    encoded = tokenizer([*distinct, *(body + ending for body in distinct)], add_special_tokens=False)["input_ids"]
    found = {
        body: _endings(plain, marked, end_of_turn)
        for body, plain, marked in zip(distinct, encoded[: len(distinct)], encoded[len(distinct) :], strict=True)
    }
    return [found[body] for body in bodies]


def _endings(plain: Sequence[int], marked: Sequence[int], end_of_turn: int) -> ReplyTokens:
    shared = 0
    while shared < min(len(plain), len(marked)) and plain[shared] == marked[shared]:
        shared += 1
    return ReplyTokens(tuple(plain[:shared]), tuple(marked[shared:]), (*plain[shared:], end_of_turn), len(plain))
