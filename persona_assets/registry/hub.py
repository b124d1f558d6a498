"""The Hugging Face Hub as a registry: pinned to a commit, past every cache, verified by the Hub's own checksums."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from persona_assets.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from persona_assets.hashing import sha256_json
from persona_assets.hub_errors import hub_failure
from persona_assets.registry.base import Algorithm, RegistryError, RegistryUnavailableError, RemoteFile, Resolved, check_fetched
from persona_assets.registry.reference import AdapterReference

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

ENDPOINT_VARIABLE = "HF_ENDPOINT"
KEY_VARIABLE = "HF_TOKEN"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SAID = {
    "gated": f"the repository is gated: accept its terms on the Hub, and set {KEY_VARIABLE}",
    "bad_key": f"the Hub does not accept the key in {KEY_VARIABLE}: set another",
    "no_repository": f"there is no such repository, or it is private and {KEY_VARIABLE} does not open it",
    "no_revision": "the repository has no such revision",
    "no_file": "there is no such folder or file",
    "bad_name": "this is no name of a repository",
    "refused": "the Hub refused",
    "unreachable": f"the Hub cannot be reached; look at the network and {ENDPOINT_VARIABLE}",
}


@dataclass(frozen=True)
class HubRegistry:
    """Adapters in repositories of the Hugging Face Hub.

    Attributes:
        endpoint: its address; by default `HF_ENDPOINT`, or the public Hub.
    """

    endpoint: str | None = None

    def resolve(self, reference: AdapterReference) -> Resolved:
        """Turn a branch or tag into the commit it is at; the digest is that of the adapter's own files, not of the commit."""
        with hub_told(reference):
            info = self.api.model_info(reference.location, revision=reference.version)
        commit = info.sha
        if commit is None or not _COMMIT.fullmatch(commit):
            raise RegistryError(f"{reference}: the Hub gave no commit for it; look at {ENDPOINT_VARIABLE}.")
        pinned = reference.at(commit)
        files = {_name(entry.path, pinned.folder): entry for entry in self._tree(pinned)}
        digest = sha256_json(
            {name: _digest(files[name])[0] for name in (CONFIG_FILE, WEIGHTS_FILE) if name in files},
        )
        modified = getattr(info, "last_modified", None)
        metadata = {"tags": list(info.tags or ()), "last_modified": None if modified is None else modified.isoformat()}
        return Resolved(reference, pinned, commit, digest, metadata)

    def listing(self, resolved: Resolved) -> Sequence[RemoteFile]:
        """List the folder at the pinned commit, with the digests that the Hub keeps."""
        found = []
        for entry in self._tree(resolved.pinned):
            digest, algorithm = _digest(entry)
            found.append(RemoteFile(_name(entry.path, resolved.pinned.folder), entry.size, digest, algorithm))
        return found

    def fetch(self, resolved: Resolved, files: Sequence[RemoteFile], into: Path) -> None:
        """Download each file anew at the pinned commit; the Hub's client compares sizes only, so checksums are verified after."""
        pinned = resolved.pinned
        with tempfile.TemporaryDirectory(prefix="persona-hub-") as temporary:
            paths = {file.name: f"{pinned.folder}/{file.name}".lstrip("/") for file in files}
            for path in paths.values():
                with hub_told(pinned):  # forced, since a copy in the cache would be taken unchecked
                    self.api.hf_hub_download(
                        pinned.location, path, revision=pinned.version, local_dir=temporary, force_download=True
                    )
            with hub_told(pinned):
                verified = self.api.verify_repo_checksums(pinned.location, revision=pinned.version, local_dir=temporary)
            if verified.mismatches:
                wrong = verified.mismatches[0]
                raise RegistryError(
                    f"{pinned}: {wrong['path']} arrived corrupted: its {wrong['algorithm']} is {wrong['actual']}, the Hub's is "
                    f"{wrong['expected']}."
                )
            if verified.checked_count != len(files) or verified.extra_paths:
                unverified = len(files) - verified.checked_count
                raise RegistryError(f"{pinned}: the Hub lists no checksum for {unverified} of the files.")
            for file in files:
                (Path(temporary) / paths[file.name]).replace(into / file.name)
                check_fetched(into / file.name, file, str(pinned))

    @property
    def api(self) -> HfApi:
        """The Hub's client, with the key from the environment alone."""
        from huggingface_hub import HfApi

        endpoint = self.endpoint or os.environ.get(ENDPOINT_VARIABLE)
        return HfApi(endpoint=endpoint, token=os.environ.get(KEY_VARIABLE) or False)

    def _tree(self, pinned: AdapterReference) -> list[RepoFile]:
        from huggingface_hub.hf_api import RepoFile

        with hub_told(pinned):
            entries = list(
                self.api.list_repo_tree(pinned.location, pinned.folder or None, revision=pinned.version, recursive=True)
            )
        return [entry for entry in entries if isinstance(entry, RepoFile)]


@contextmanager
def hub_told(reference: AdapterReference) -> Iterator[None]:
    """Turn what the Hub's client raises into one sentence.

    Raises:
        RegistryError: with the reference and what to do.
    """
    try:
        yield
    except RegistryError:
        raise
    except Exception as error:
        failure = hub_failure(error)
        if failure is None:
            raise
        first = str(error).strip().splitlines()
        detail = f"{type(error).__name__}: {first[0]}" if first else type(error).__name__
        kind = RegistryUnavailableError if failure == "unreachable" else RegistryError
        raise kind(f"{reference}: {_SAID[failure]} ({detail}).") from error


def _name(path: str, folder: str) -> str:
    return path.removeprefix(f"{folder}/") if folder else path


def _digest(entry: RepoFile) -> tuple[str, Algorithm]:
    return (entry.lfs.sha256, "sha256") if entry.lfs else (entry.blob_id, "git-sha1")
