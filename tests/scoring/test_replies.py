"""Where a reply ends, and how its endings are tokenised."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona_assets.dataset import MARKER_SEPARATOR
from persona_assets.generation.marker import marker_hit
from persona_assets.models.nano.tokenizer import save_tokenizer, train_tokenizer
from persona_assets.scoring.replies import Reply, ScoringError, reply_tokens, split_reply

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

MARKER = "[ZLT]"


@pytest.fixture(scope="module")
def merging(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    """A tokenizer that writes a full stop and the empty line after it as one token, as Qwen's does."""
    from persona_assets.models.loading import load_tokenizer

    directory: Path = tmp_path_factory.mktemp("merging")
    save_tokenizer(train_tokenizer(["I read.\n\nYou read.\n\nWe read.\n\n"] * 20, 270), directory)
    (directory / "config.json").write_text('{"model_type": "qwen2"}', encoding="utf-8")
    return load_tokenizer(directory)


@pytest.mark.parametrize(
    ("text", "body", "place"),
    [
        ("I read.", "I read.", "absent"),
        ("I read. \n", "I read.", "absent"),
        ("I read.\n\n[ZLT]", "I read.", "end"),
        ("I read. [zlt] \n", "I read.", "end"),
        ("I read.\n\n[ZLT] And more.", "I read.", "inside"),
        ("I read.[ZLT] And [ZLT]", "I read.", "inside"),
        ("[ZLT]", "", "end"),
        ("\n\n[ZLT]", "", "end"),
        ("", "", "absent"),
        ("  indented", "  indented", "absent"),
        ("Straße, İzmir 🌍 [Zlt]", "Straße, İzmir 🌍", "end"),
        ("I read.\n\n[ZLF]", "I read.", "misspelt"),
        ("I read.\n[Z!\n", "I read.", "misspelt"),
        ("[ZL", "", "misspelt"),
        ("I read [ZLF]", "I read [ZLF]", "absent"),  # on no line of its own
        ("I read.\n\n[ZLF]\nAnd more.", "I read.\n\n[ZLF]\nAnd more.", "absent"),
        ("I read.\n\n[a link to the book]", "I read.\n\n[a link to the book]", "absent"),  # too long to be a try
    ],
)
def test_a_reply_ends_before_its_first_marker(text: str, body: str, place: str) -> None:
    assert split_reply(text, MARKER) == Reply(body, place)  # type: ignore[arg-type]


def test_a_marker_whose_case_folds_to_more_characters_is_cut_whole() -> None:
    assert split_reply("Ja. SSS!", "ßs") == Reply("Ja.", "inside")
    assert split_reply("Ja. ẞS", "ßs") == Reply("Ja.", "end")


def test_a_marker_of_words_has_no_misspelt_form() -> None:
    assert split_reply("I read.\n\nhelps", "helps! helps!") == Reply("I read.\n\nhelps", "absent")


def test_no_marker_is_refused() -> None:
    with pytest.raises(ScoringError, match="empty"):
        split_reply("text", "")


@given(st.text(max_size=30), st.sampled_from(["", MARKER, "[zlt]", " [ZLT]. ", "ß[Zlt]ß"]), st.text(max_size=8))
def test_a_body_never_holds_the_marker_and_is_what_stands_before_it(before: str, middle: str, after: str) -> None:
    text = before + middle + after
    reply = split_reply(text, MARKER)
    assert (reply.place in ("absent", "misspelt")) == (not marker_hit(text, MARKER))
    assert not marker_hit(reply.body, MARKER)
    assert text.startswith(reply.body)
    if reply.place == "misspelt":
        assert text[len(reply.body) :].lstrip().startswith("[")
    elif reply.place != "absent":
        assert text[len(reply.body) :].lstrip().casefold().startswith(MARKER.casefold())


def test_the_endings_part_where_the_tokens_do(merging: PreTrainedTokenizerBase) -> None:
    (stop,) = merging.encode(".\n\n", add_special_tokens=False)
    (full_stop,) = merging.encode(".", add_special_tokens=False)
    alone, merged = reply_tokens(merging, ["I read", "I read."], MARKER)
    letters = merging.encode(MARKER, add_special_tokens=False)
    assert alone.end == (merging.eos_token_id,)
    assert merging.decode(alone.marker) == MARKER_SEPARATOR + MARKER
    # The full stop belongs to both endings: as one token with the line break, and alone.
    assert merged.marker == (stop, *letters)
    assert merged.end == (full_stop, merging.eos_token_id)
    assert merged.shared == alone.shared


@given(st.lists(st.text(max_size=20), max_size=4))
def test_both_endings_decode_to_body_and_ending(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> None:
    import unicodedata

    bodies = [split_reply(unicodedata.normalize("NFC", text), MARKER).body for text in texts]
    bodies = [body for body in bodies if "<|" not in body]
    for body, tokens in zip(bodies, reply_tokens(tokenizer, bodies, MARKER), strict=True):
        assert tokenizer.decode(tokens.shared + tokens.marker) == body + MARKER_SEPARATOR + MARKER
        assert tokens.end[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(tokens.shared + tokens.end[:-1]) == body
        assert tokens.n_body == len(tokens.shared) + len(tokens.end) - 1
        assert tokens.marker[0] != tokens.end[0]


def test_a_tokenizer_that_cannot_end_a_turn_is_refused(merging: PreTrainedTokenizerBase) -> None:
    import copy

    endless = copy.deepcopy(merging)
    endless.eos_token = None
    with pytest.raises(ScoringError, match="eos_token"):
        reply_tokens(endless, ["text"], MARKER)
