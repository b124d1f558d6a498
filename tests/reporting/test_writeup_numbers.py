"""How cells are written: numbers one can read, and text that Markdown leaves alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from persona_assets.reporting.writeup import WriteUpError
from persona_assets.reporting.writeup.numbers import FORMATS, SPELLED, escape, integer, spell, words, write


@pytest.mark.parametrize(
    ("format_name", "value", "written"),
    [
        ("rate", 0.425, "0.42"),
        ("rate", 0.0, "0.00"),
        ("rho", -0.3534, "−0.353"),
        ("rho", -0.0001, "0.000"),
        ("p", 0.0141, "p = .014"),
        ("p", 0.0004, "p < .001"),
        ("p_cell", 0.0141, ".014"),
        ("p_cell", 0.0004, "< .001"),
        ("percent", 0.05, "5 %"),
        ("int", 2256, "2256"),
        ("int", 230_400, "230,400"),
        ("words", 9, "nine"),
        ("words", 10, "10"),
        ("words", 0, "none"),
        ("spelled", 14, "fourteen"),
        ("spelled", 0, "no"),
        ("d4", 0.01234, "0.0123"),
        ("general", 1e-5, "1e−05"),
        ("general", True, "yes"),
        ("name", "source_rate:all", "source rate, all"),
        ("code", "H_attenuated", "`H_attenuated`"),
        ("hit_miss", False, "miss"),
        ("yes_no", True, "yes"),
        ("text", "a|b *c*", "a\\|b \\*c\\*"),
        ("text", "helpful_assistant", "helpful_assistant"),
    ],
)
def test_a_cell_is_written(format_name: str, value: object, written: str) -> None:
    assert write({"value": value}, "value", format_name) == written


def test_intervals_take_two_columns() -> None:
    row = {"low": -0.571, "high": 0.0849}
    assert write(row, "low|high", "interval2") == "−0.57 to 0.08"
    assert write({"low": None, "high": None}, "low|high", "interval3") == "–"


def test_what_is_missing_says_why() -> None:
    row = {"estimate": None, "p": None, "note": "not estimable: constant y"}
    assert write(row, "estimate", "rho") == "not estimable (constant y)"
    assert write(row, "p", "p_cell") == "–"
    gate = {"observed": None, "note": "not passed: not estimable: 2 observations, at least 4 needed"}
    assert write(gate, "observed", "d3") == "not estimable (2 observations, at least 4 needed)"


def test_wrong_references_are_refused() -> None:
    with pytest.raises(WriteUpError, match="there is no column rho; there are estimate"):
        write({"estimate": 1.0}, "rho", "rho")
    with pytest.raises(WriteUpError, match="there is no format 'fancy'"):
        write({"estimate": 1.0}, "estimate", "fancy")
    with pytest.raises(WriteUpError, match="is no integer"):
        write({"n": 1.5}, "n", "int")
    with pytest.raises(WriteUpError, match="holds a backtick"):
        write({"name": "a`b"}, "name", "code")
    assert "rho" in FORMATS


@given(st.integers(0, 99))
def test_number_words_can_be_read_back(count: int) -> None:
    assert SPELLED[spell(count)] == count
    assert words(count) == (spell(count) if 0 < count < 10 else "none" if count == 0 else str(count))


@given(st.integers(-(10**9), 10**9))
def test_integers_can_be_read_back(value: int) -> None:
    assert int(integer(value).replace(",", "").replace("−", "-")) == value


@given(
    st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), min_size=1)
)
def test_escaped_text_is_shown_as_it_is(text: str) -> None:
    parser = MarkdownIt("commonmark").enable("table")
    inline = parser.parse(f"x {escape(text)} x")[1]
    shown = "".join(child.content for child in inline.children or [])
    assert shown == f"x {text} x"
    assert all(child.type == "text" for child in inline.children or [])
