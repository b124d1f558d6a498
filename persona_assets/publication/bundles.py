"""Bundles: what of a study travels, as named sets of files with their digests.

What may be in a bundle is an allow-list. Merged weights are in none: they are large, and anyone makes them again from the
base model and the adapter.
"""

from __future__ import annotations

import fnmatch
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from persona_assets.adapter_files import CONFIG_FILE, LOSS_CURVE_FILE, WEIGHTS_FILE
from persona_assets.hashing import sha256_file
from persona_assets.publication.errors import PublicationError
from persona_assets.registry.base import FACTS_FILE

Kind = Literal["adapter", "cells", "tables", "figures", "clean_result"]

CONTENTS_FILE = "contents.json"
"""Lists the files of a bundle with their sha256; an adapter's stands in its training facts."""

_ALLOWED: Mapping[Kind, tuple[str, ...]] = {
    "adapter": (CONFIG_FILE, WEIGHTS_FILE, LOSS_CURVE_FILE),
    "cells": ("*/completions.parquet",),
    "tables": ("*.parquet",),
    "figures": ("*.png", "*.pdf", "*.meta.json"),
    "clean_result": ("report.md", "report.html"),
}


@dataclass(frozen=True)
class Bundle:
    """Files that are pushed, found and verified together.

    Attributes:
        name: lasting name in a registry, with forward slashes, such as `embedded/n12/tables`.
        kind: what it holds.
        files: local file by name in the bundle, the list of contents included.
        sha256: digest of each file.
        contents: what the list of contents says, as plain JSON values.
    """

    name: str
    kind: Kind
    files: Mapping[str, Path]
    sha256: Mapping[str, str]
    contents: Mapping[str, object]

    @property
    def contents_file(self) -> str:
        """Name of the list of contents; it is written last, so where it stands everything else does."""
        return contents_file(self.kind)

    @property
    def largest(self) -> int:
        """Size of the largest file, in bytes."""
        return max(file.stat().st_size for file in self.files.values())


def contents_file(kind: Kind) -> str:
    """Return the name of the file that lists a bundle's contents."""
    return FACTS_FILE if kind == "adapter" else CONTENTS_FILE


def seal(name: str, kind: Kind, files: Mapping[str, Path], facts: Mapping[str, object], work: Path) -> Bundle:
    """Check that files may travel, digest them and write the list of contents.

    Args:
        name: of the bundle.
        kind: what it holds; decides which files may be in it.
        files: local file by name in the bundle.
        facts: plain JSON values that go into the list of contents. They and the files alone decide its bytes, so that what was
            pushed before is recognised.
        work: directory that the list of contents is written to.

    Raises:
        PublicationError: there is no file, or one that may not travel.
    """
    if not files:
        raise PublicationError(f"{name}: there is nothing to publish in it.")
    for inside, file in files.items():
        _check_may_travel(name, kind, inside, file)
    digests = {inside: sha256_file(files[inside]) for inside in sorted(files)}
    contents = {**facts, "sha256": digests}
    listed = work / name / contents_file(kind)
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text(
        json.dumps(contents, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )
    return Bundle(name, kind, {**files, listed.name: listed}, {**digests, listed.name: sha256_file(listed)}, contents)


def _check_may_travel(name: str, kind: Kind, inside: str, file: Path) -> None:
    if file.is_symlink() or not file.is_file():
        raise PublicationError(f"{name}: {inside} is not a plain file.")
    if not any(fnmatch.fnmatchcase(inside, pattern) for pattern in _ALLOWED[kind]):
        raise PublicationError(
            f"{name}: {inside} may not travel: a bundle of {kind} holds {', '.join(_ALLOWED[kind])} and nothing else. "
            f"Merged weights are never published."
        )
    if inside == WEIGHTS_FILE:
        others = [tensor for tensor in tensors(file) if ".lora_A." not in tensor and ".lora_B." not in tensor]
        if others:
            raise PublicationError(
                f"{name}: {inside} holds {others[0]}, which is no LoRA weight: merged or base weights are never published."
            )


def tensors(file: Path) -> dict[str, dict[str, object]]:
    """Read what the header of a safetensors file says of each tensor; the weights themselves are not read.

    Raises:
        PublicationError: it is no such file.
    """
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(min(length, file.stat().st_size)))
        return {name: facts for name, facts in header.items() if name != "__metadata__"}
    except (struct.error, ValueError, AttributeError) as error:
        raise PublicationError(f"{file}: not a safetensors file ({error}).") from error
