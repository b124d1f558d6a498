"""Detection of the marker, and the check that a tokenizer can carry it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from persona_assets.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def marker_hit(text: str, marker: str) -> bool:
    """Say whether a completion contains the marker, as a case-insensitive substring.

    Args:
        text: the completion.
        marker: the implanted string, such as `[ZLT]`.

    Raises:
        ConfigurationError: the marker is empty, so that every text would be a hit.
    """
    if not marker:
        raise ConfigurationError(
            "marker: is empty, so every completion would contain it; give the study a marker."
        )
    return marker.casefold() in text.casefold()


def validate_marker(tokenizer: PreTrainedTokenizerBase, marker: str) -> tuple[int, ...]:
    """Check that the tokenizer returns the marker unchanged, alone and on its own line after a sentence.

    Args:
        tokenizer: the base model's tokenizer.
        marker: the implanted string.

    Returns:
        The token ids of the marker standing alone.

    Raises:
        ConfigurationError: the marker is blank, contains a special token (which decoding leaves out), or
            comes back changed.
    """
    if not marker.strip():
        raise ConfigurationError("marker: is blank; give the study a visible marker such as '[ZLT]'.")
    # Not all_special_ids: that leaves out special tokens without a role, such as <|im_start|>.
    special_ids = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    alone: tuple[int, ...] = ()
    for text in (marker, f"An answer.\n\n{marker}"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        special = sorted(set(ids) & special_ids)
        if special:
            tokens = ", ".join(map(str, tokenizer.convert_ids_to_tokens(special)))
            raise ConfigurationError(
                f"marker: {marker!r} is read as the special token {tokens}, which decoding leaves out, so "
                f"it could never be detected; choose a marker of ordinary characters."
            )
        back = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if back != text:
            raise ConfigurationError(
                f"marker: {marker!r} does not survive the tokenizer: {text!r} comes back as {back!r}; choose "
                f"characters that its vocabulary covers."
            )
        alone = alone or tuple(ids)
    return alone
