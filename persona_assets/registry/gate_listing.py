"""The gate's first look: names and sizes as the registry lists them, before anything is downloaded."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from persona_assets.adapter_files import CONFIG_FILE, LOSS_CURVE_FILE, WEIGHTS_FILE
from persona_assets.registry.base import FACTS_FILE, RemoteFile
from persona_assets.registry.gate_cases import GateError

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
RESULT_FILE = "run_result.json"
README_FILE = "README.md"

_KIB, _MIB = 1 << 10, 1 << 20
HEADER_CAP = 4 * _MIB
MAX_RANK = 256

SMALL_CAPS = {
    CONFIG_FILE: 64 * _KIB,
    TOKENIZER_FILE: 64 * _MIB,
    TOKENIZER_CONFIG_FILE: _MIB,
    TEMPLATE_FILE: 256 * _KIB,
    README_FILE: _MIB,
    RESULT_FILE: 4 * _MIB,
    FACTS_FILE: _MIB,
}
"""What is fetched besides the weights, with the largest size in bytes."""

LEFT = (
    "training_args.bin",
    "adapter_model.bin",
    "*.pt",
    "*.pth",
    "*.pkl",
    "*.ckpt",
    "trainer_state.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    LOSS_CURVE_FILE,
    "marker_eval.json",
    "raw_completions.json",
    ".gitattributes",
    "checkpoint-*/*",
)
"""What comes with adapters and is left where it is: never fetched, never opened."""

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True)
class Wanted:
    """What is fetched of a listing: the small files first, the weights when those have passed."""

    small: tuple[RemoteFile, ...]
    weights: RemoteFile


def check_listing(files: Sequence[RemoteFile], weights_cap: int) -> Wanted:
    """Judge a listing, and say what to fetch.

    Args:
        files: every file of the adapter as the registry lists it.
        weights_cap: largest size of the weights, in bytes.

    Raises:
        GateError: a name, a link or a size is not acceptable, or a file is missing.
    """
    seen: set[str] = set()
    for file in files:
        _check_name(file, seen)
    by_name = {file.name: file for file in files}
    if WEIGHTS_FILE not in by_name:
        pickled = next((name for name in by_name if any(fnmatch.fnmatchcase(name, pattern) for pattern in _PICKLES)), None)
        if pickled is not None:
            raise GateError(
                "pickled-weights",
                pickled,
                f"{WEIGHTS_FILE} is missing, and pickles are never read: save the adapter again with safe_serialization=True.",
            )
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if name not in by_name:
            there = ", ".join(sorted(by_name)[:5]) or "nothing"
            raise GateError("file-missing", name, f"it is missing; there is: {there}.")
    caps = {**SMALL_CAPS, WEIGHTS_FILE: weights_cap}
    for name, cap in caps.items():
        if name in by_name:
            _check_size(by_name[name], cap)
    return Wanted(tuple(by_name[name] for name in SMALL_CAPS if name in by_name), by_name[WEIGHTS_FILE])


def check_arrived(directory: Path, files: Sequence[RemoteFile]) -> None:
    """Check that a directory holds the files that were asked for, as plain files, and nothing else.

    Raises:
        GateError: it does not.
    """
    asked = {file.name for file in files}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink() or not path.is_file() or name not in asked:
            raise GateError("arrived-other", name, "it arrived, and is not a plain file that was asked for.")
    missing = sorted(name for name in asked if not (directory / name).is_file())
    if missing:
        raise GateError("arrived-other", missing[0], "it was asked for and did not arrive.")


def _check_name(file: RemoteFile, seen: set[str]) -> None:
    name = file.name
    if not name or not name.isprintable():
        raise GateError("name-control", name, "the name is empty or holds unprintable characters.")
    if name.startswith(("/", "~")) or "\\" in name or _DRIVE.match(name):
        raise GateError("name-absolute", name, "the name is absolute, or not written with forward slashes.")
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise GateError("name-parent", name, "the name leads out of its directory.")
    if name.casefold() in seen:
        raise GateError("name-twice", name, "there are two files of this name.")
    seen.add(name.casefold())
    if file.link is not None:
        raise GateError("link", name, f"it is not a file of its own, but {file.link[:120]!r}: put the file itself there.")
    if name.casefold().endswith(".py"):
        raise GateError("python", name, "an adapter has no code; nothing of it is run, and none is fetched: remove it.")
    known = name in SMALL_CAPS or name == WEIGHTS_FILE or any(fnmatch.fnmatchcase(name, pattern) for pattern in LEFT)
    if not known:
        raise GateError(
            "name-unknown",
            name,
            f"no such file belongs to an adapter. Fetched are: {', '.join((WEIGHTS_FILE, *SMALL_CAPS))}. Let the reference name "
            "the adapter's own directory, or remove the file.",
        )


def _check_size(file: RemoteFile, cap: int) -> None:
    if file.size is None or file.size < 0:
        raise GateError("size-unknown", file.name, "the registry does not say how large it is, so it is not fetched.")
    if file.size > cap:
        raise GateError("size-cap", file.name, f"it has {file.size} bytes, and at most {cap} are fetched.")
