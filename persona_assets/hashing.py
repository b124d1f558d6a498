"""Digests and seeds: the one place that turns facts into hashes.

Every random draw of a study starts from `derive_seed`, so that it depends on named facts only: not on
PYTHONHASHSEED, the machine, the directory or the order of the work.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

_CHUNK_BYTES = 1 << 20


def canonical_json(value: object) -> str:
    """Serialise to the one JSON text that equal values share.

    Args:
        value: anything `json` can write; keys are sorted, floats use `repr`.

    Returns:
        Compact JSON with sorted keys.

    Raises:
        TypeError: the value holds something JSON has no form for (sets and paths among them).
        ValueError: the value holds NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_text(text: str) -> str:
    """Return the hexadecimal sha256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_json(value: object) -> str:
    """Return the hexadecimal sha256 of a value's canonical JSON."""
    return sha256_text(canonical_json(value))


def sha256_file(path: Path) -> str:
    """Return the hexadecimal sha256 of a file's bytes, read in pieces of one MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def derive_seed(*parts: str | int) -> int:
    """Derive a seed of 63 bits from named facts.

    Args:
        parts: what the draw is for and what it may depend on, for example
            `derive_seed("sampling", 42, "librarian", 3)`.

    Returns:
        The first 63 bits of the sha256 of the parts' canonical JSON.
    """
    return int(sha256_json(list(parts))[:16], 16) >> 1
