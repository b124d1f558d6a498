"""What every registry offers: say what a reference names, list its files, fetch some of them.

Nothing here judges what a registry holds: that is the gate's work. A registry answers for the transport: that what
arrived is what the listing said, by size and digest.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from persona_assets.errors import PersonaAssetsError
from persona_assets.registry.reference import AdapterReference

if TYPE_CHECKING:
    from _hashlib import HASH

FACTS_FILE = "training_facts.json"
"""Written beside an adapter when it is pushed: what is known of its training. Its fields, all optional: `persona`, `seed`,
`recipe`, `negatives` (persona ids), `base_digest`, `sha256` (by file name), `made_by`, `metrics`."""

Algorithm = Literal["sha256", "git-sha1", "md5-base64", "xxh128-base64"]
"""How a registry digests a file: as hexadecimal digits, or in base64 as W&B writes it."""


class RegistryError(PersonaAssetsError):
    """A registry cannot be reached, refuses, lacks something, or delivered something else than it listed."""


class RegistryUnavailableError(RegistryError):
    """A registry does not answer as it should at this moment; asking again later may help."""


@dataclass(frozen=True)
class Resolved:
    """What a reference names at this moment.

    Attributes:
        reference: as it was asked for.
        pinned: the reference to exactly this version; for a directory, which keeps no versions, `reference` itself.
        version: as the registry calls it: `v3`, a commit sha; for a directory the first digits of its digest.
        digest: over the adapter as the registry knows it without a download; another digest is another adapter.
        metadata: plain JSON values that the registry keeps with it.
    """

    reference: AdapterReference
    pinned: AdapterReference
    version: str
    digest: str
    metadata: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class RemoteFile:
    """One file as the registry lists it.

    Attributes:
        name: relative to the adapter's place, with forward slashes; whatever the registry says, the gate judges it.
        size: bytes; None when the registry does not say.
        digest: by `algorithm`; None when the registry keeps none that can be computed from the bytes.
        algorithm: of `digest`.
        link: where it points when it is not a file of its own (a symbolic link, an artifact's reference).
    """

    name: str
    size: int | None
    digest: str | None = None
    algorithm: Algorithm | None = None
    link: str | None = None


class Registry(Protocol):
    """Where adapters are pulled from."""

    def resolve(self, reference: AdapterReference) -> Resolved:
        """Say what a reference names now, without fetching the adapter.

        Raises:
            RegistryError: in one sentence: unreachable, not allowed, or not there.
        """
        ...

    def listing(self, resolved: Resolved) -> Sequence[RemoteFile]:
        """List every file of an adapter.

        Raises:
            RegistryError: as `resolve`.
        """
        ...

    def fetch(self, resolved: Resolved, files: Sequence[RemoteFile], into: Path) -> None:
        """Download files of the listing into an empty directory, past any cache, and verify each by size and digest.

        Args:
            resolved: what to fetch from.
            files: entries of `listing` with plain names (the gate saw to it).
            into: an existing directory.

        Raises:
            RegistryError: as `resolve`, or a file arrived with another size or digest than listed.
        """
        ...


def latest_version(registry: Registry, reference: AdapterReference) -> Resolved:
    """Say which version is the newest one now, without fetching the adapter, also for a reference that is pinned.

    Raises:
        RegistryError: as `resolve`.
    """
    return registry.resolve(reference.newest)


def check_fetched(path: Path, listed: RemoteFile, source: str) -> None:
    """Compare a downloaded file with the registry's listing.

    Args:
        path: the file.
        listed: what the registry said of it.
        source: what it was fetched from, for the message.

    Raises:
        RegistryError: it is missing, or of another size or digest.
    """
    if path.is_symlink() or not path.is_file():
        raise RegistryError(f"{source}: {listed.name} did not arrive.")
    size = path.stat().st_size
    if listed.size is not None and size != listed.size:
        raise RegistryError(f"{source}: {listed.name} arrived with {size} bytes, the registry lists {listed.size}.")
    if listed.digest is None or listed.algorithm is None:
        return
    found = file_digest(path, listed.algorithm)
    if found != listed.digest:
        raise RegistryError(
            f"{source}: {listed.name} arrived corrupted: its {listed.algorithm} is {found}, the registry lists {listed.digest}."
        )


def file_digest(path: Path, algorithm: Algorithm) -> str:
    """Digest a file as a registry does."""
    digest = _hash(algorithm, path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return base64.b64encode(digest.digest()).decode() if algorithm.endswith("base64") else digest.hexdigest()


def _hash(algorithm: Algorithm, size: int) -> HASH:
    if algorithm == "sha256":
        return hashlib.sha256()
    if algorithm == "md5-base64":
        return hashlib.md5(usedforsecurity=False)
    if algorithm == "git-sha1":
        digest = hashlib.sha1(usedforsecurity=False)
        digest.update(b"blob %d\0" % size)
        return digest
    import xxhash

    made: Any = xxhash.xxh3_128()  # the same interface as hashlib's
    return made  # type: ignore[no-any-return]
