"""Artifacts of Weights & Biases, through the unmodified SDK in a guarded process.

The SDK checks no digest, trusts its cache, follows references and retries for many minutes; so it runs with limits, into an
empty directory, past its cache, for names that the gate has passed, and what arrives is compared with the manifest here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from persona_assets.guarded import transfer_seconds
from persona_assets.registry import wandb_calls
from persona_assets.registry.base import Algorithm, RegistryError, RemoteFile, Resolved, check_fetched
from persona_assets.registry.guarding import guarded_told
from persona_assets.registry.reference import AdapterReference, parse_reference
from persona_assets.wandb_process import wandb_process

_ALGORITHMS: Mapping[str, Algorithm] = {"MANIFEST_MD5": "md5-base64", "MANIFEST_XXH128": "xxh128-base64"}


class WandbRegistry:
    """Versions of artifacts: `wandb:ENTITY/PROJECT/NAME:VERSION`."""

    def __init__(self, *, seconds: float = 120.0, retries: int = 3) -> None:
        """Prepare a registry; the SDK starts with the first call and ends with `close`, or with this object.

        Args:
            seconds: the longest wait for an answer; transfers get the time their size needs on top.
            retries: how often the SDK repeats a request that failed.
        """
        self.seconds = seconds
        self._scratch = tempfile.TemporaryDirectory(prefix="persona-assets-wandb-", ignore_cleanup_errors=True)
        # An artifact can be neither logged nor looked up offline, whatever the tracker does.
        self.process = wandb_process(Path(self._scratch.name), retries=retries, more={"WANDB_MODE": "online"})

    def close(self) -> None:
        """End the SDK's process and remove what it kept."""
        self.process.close()
        self._scratch.cleanup()

    def resolve(self, reference: AdapterReference) -> Resolved:
        """Look a version or alias up; the pinned reference names the version where the artifact was logged."""
        with guarded_told(f"{reference}: W&B"):
            found: wandb_calls.WandbVersion = self.process.call(wandb_calls.describe, _name(reference), seconds=self.seconds)
        pinned = parse_reference(f"wandb:{found.source}")
        return Resolved(reference, pinned, pinned.version, found.digest, found.metadata)

    def listing(self, resolved: Resolved) -> Sequence[RemoteFile]:
        """Read the manifest: names, sizes, digests, and where a reference points."""
        name = _name(resolved.pinned)
        with guarded_told(f"{resolved.pinned}: W&B"):
            found: list[wandb_calls.WandbEntry] = self.process.call(wandb_calls.entries, name, seconds=self.seconds)
        return [_remote_file(entry, resolved.pinned) for entry in found]

    def fetch(self, resolved: Resolved, files: Sequence[RemoteFile], into: Path) -> None:
        """Download entries of the listing one after the other, none larger than listed, and compare each with its digest."""
        if any(path.is_file() for path in into.rglob("*")):
            raise RegistryError(f"{into} is not empty: the SDK would keep a wrong file of the same size.")
        sizes = {}
        for file in files:
            if file.size is None or file.digest is None:
                raise RegistryError(f"{resolved.pinned}: the manifest gives no size or digest for {file.name!r}.")
            sizes[file.name] = file.size
        limit = transfer_seconds(self.seconds, max(sizes.values(), default=0))
        with guarded_told(f"{resolved.pinned}: the download from W&B"):
            for _ in self.process.stream(wandb_calls.download, _name(resolved.pinned), sizes, into, seconds=limit):
                pass
        for file in files:
            check_fetched(into / file.name, file, str(resolved.pinned))


def _name(reference: AdapterReference) -> str:
    return f"{reference.location}:{reference.version}"


def _remote_file(entry: wandb_calls.WandbEntry, pinned: AdapterReference) -> RemoteFile:
    if entry.reference is not None:
        return RemoteFile(entry.name, entry.size, link=entry.reference)
    algorithm = _ALGORITHMS.get(entry.algorithm)
    if algorithm is None:
        raise RegistryError(f"{pinned}: {entry.name!r} is digested by {entry.algorithm}, which is not known here.")
    return RemoteFile(entry.name, entry.size, entry.digest, algorithm)
