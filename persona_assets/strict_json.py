"""JSON that somebody else wrote, read strictly: UTF-8, finite numbers, no key twice."""

from __future__ import annotations

import json
from typing import Any


def parse(content: bytes) -> Any:
    """Parse the content of a JSON file.

    Raises:
        ValueError: it is not JSON that can be trusted to mean one thing; the message is a clause that says why.
    """
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 ({error})") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error})") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"it has the key {key!r} twice in one object")
        found[key] = value
    return found


def _refuse_constant(name: str) -> object:
    raise ValueError(f"it holds {name}, which is no number")
