"""A repository on the Hugging Face Hub: one folder for each bundle, all that changed in one commit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from persona_assets.guarded import GuardedProcess, transfer_seconds
from persona_assets.publication import hf_calls
from persona_assets.publication.bundles import Bundle
from persona_assets.publication.destinations import newest_if_same
from persona_assets.registry.base import Registry
from persona_assets.registry.guarding import guarded_told
from persona_assets.registry.hub import HubRegistry
from persona_assets.registry.reference import AdapterReference

_ENVIRONMENT = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


class HubDestination:
    """`hf:ORG/REPO`; the bundle `embedded/n12/tables` is the folder of that name."""

    def __init__(self, repo: str, *, seconds: float = 120.0) -> None:
        """Prepare a destination; nothing is started yet.

        Args:
            repo: `ORG/REPO`.
            seconds: the longest wait for an answer; transfers get the time their size needs on top.
        """
        self.repo, self.seconds = repo, seconds
        self.registry: Registry = HubRegistry()
        self._process = GuardedProcess(_ENVIRONMENT)

    def find(self, bundle: Bundle) -> AdapterReference | None:
        """Compare the folder at the newest commit with the bundle, digest by digest."""
        return newest_if_same(self.registry, self._reference(bundle.name, "main"), bundle)

    def push(self, bundles: Sequence[Bundle]) -> Iterator[tuple[str, AdapterReference]]:
        """Commit all bundles at once: they are all there, or none is."""
        folders = {bundle.name: bundle.files for bundle in bundles}
        size = sum(file.stat().st_size for files in folders.values() for file in files.values())
        message = f"Publish {', '.join(list(folders)[:3])}" + (f" and {len(folders) - 3} more" if len(folders) > 3 else "")
        with guarded_told(f"hf:{self.repo}: the upload"):
            sha = self._process.call(hf_calls.commit, self.repo, folders, message, seconds=transfer_seconds(self.seconds, size))
        for bundle in bundles:
            yield bundle.name, self._reference(bundle.name, sha)

    def close(self) -> None:
        """End the client."""
        self._process.close()

    def _reference(self, folder: str, revision: str) -> AdapterReference:
        return AdapterReference("hf", self.repo, revision, folder)
