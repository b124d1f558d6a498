"""JSON of others: what could mean two things, or nothing, is refused with the reason."""

from __future__ import annotations

import pytest

from persona_assets.strict_json import parse


def test_plain_json_is_read() -> None:
    assert parse('{"é": [1, 2.5, null]}'.encode()) == {"é": [1, 2.5, None]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1, "b": {"c": 1, "c": 1}}', "it has the key 'c' twice in one object"),
        (b'{"a": NaN}', "it holds NaN, which is no number"),
        (b"[-Infinity]", "it holds -Infinity, which is no number"),
        (b'{"\xff": 1}', "it is not UTF-8"),
        (b"\x80\x04.", "it is not UTF-8"),
        (b"{", "it is not JSON"),
        (b"", "it is not JSON"),
        (b"[" * 100_000, "it is nested too deeply"),
    ],
)
def test_what_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(content)
