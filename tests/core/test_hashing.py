from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from persona_assets.hashing import canonical_json, derive_seed, sha256_file, sha256_json, sha256_text


@pytest.mark.parametrize(
    ("parts", "seed"),
    [
        (("sampling", 42, "librarian", 3), 7807022627234414102),
        (("negatives", 42, "villain", "chef"), 2538629997100715247),
        ((), 2858069222894195974),
        (("é", "\U0001f600", 0), 3931655975183590776),
    ],
)
def test_seeds_never_change(parts: tuple[str | int, ...], seed: int) -> None:
    """Every published number rests on these: a change here is a change of every draw of every study."""
    assert derive_seed(*parts) == seed


def test_a_seed_has_63_bits_of_the_named_facts() -> None:
    text = '["sampling",42,"librarian"]'
    assert derive_seed("sampling", 42, "librarian") == int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) >> 1
    assert all(0 <= derive_seed("x", number) < 2**63 for number in range(100))


def test_seeds_of_different_facts_differ() -> None:
    seeds = [derive_seed(*parts) for parts in [("a", 1), ("a", "1"), ("a1",), ("a", 1, 0), (1, "a"), ("A", 1)]]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("hash_seed", ["0", "1", "4711"])
def test_no_hash_depends_on_pythonhashseed(hash_seed: str) -> None:
    code = (
        "from persona_assets.hashing import *;"
        "print(derive_seed('a', 1, 'b'), sha256_json({'b': 1, 'a': [1.5, None, True, 'é']}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(derive_seed("a", 1, "b")), sha256_json({"a": [1.5, None, True, "é"], "b": 1})]


def test_canonical_json_is_one_text() -> None:
    assert canonical_json({"b": 1, "a": {"d": 0.1, "c": "é"}}) == '{"a":{"c":"é","d":0.1},"b":1}'
    assert canonical_json((1, 2)) == canonical_json([1, 2])
    assert sha256_json({"a": 1}) == sha256_text('{"a":1}')


@pytest.mark.parametrize("value", [{1, 2}, Path("x"), object()])
def test_what_json_has_no_form_for_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        canonical_json({"value": value})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json([value])


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1])
def test_files_are_hashed_whole(tmp_path: Path, size: int) -> None:
    content = bytes(number % 251 for number in range(size))
    (tmp_path / "file").write_bytes(content)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()
