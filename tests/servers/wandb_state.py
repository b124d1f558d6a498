"""What the loopback W&B server keeps: versions of artifacts, and runs."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from servers.wandb_http import Json

ENTITY = "team"


@dataclass
class StoredArtifact:
    """One version of an artifact; `manifest` and `files` may be changed to make it hostile."""

    id: str
    collection: tuple[str, str, str]  # entity, project, name
    type: str
    digest: str
    metadata: str | None = None
    state: str = "PENDING"
    version: int | None = None
    aliases: list[str] = field(default_factory=list)
    manifest: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """What `Api().artifact` takes."""
        return "/".join(self.collection) + f":v{self.version}"

    def edit_manifest(self, change: Callable[[Json], object]) -> None:
        """Change the entries of the manifest (by name)."""
        manifest = json.loads(self.manifest)
        change(manifest["contents"])
        self.manifest = json.dumps(manifest).encode()


@dataclass
class StoredRun:
    """What a run has sent: settings, history rows, files, and how it ended."""

    name: str
    project: str
    display_name: str
    config: Json = field(default_factory=dict)
    job_type: str | None = None
    history: list[Json] = field(default_factory=list)
    summary: Json = field(default_factory=dict)
    exit_code: int | None = None


class WandbState:
    """The artifacts and runs that a server holds, and what a test puts there and reads without a client."""

    def __init__(self) -> None:
        self.artifacts: dict[str, StoredArtifact] = {}
        self.runs: dict[str, StoredRun] = {}
        self.lock = threading.RLock()

    def versions(self, name: str, project: str = "project", entity: str = ENTITY) -> list[StoredArtifact]:
        """The committed versions of an artifact, oldest first."""
        found = [
            each for each in self.artifacts.values() if each.collection == (entity, project, name) and each.version is not None
        ]
        return sorted(found, key=lambda each: each.version or 0)

    def publish(
        self,
        name: str,
        files: Mapping[str, bytes],
        *,
        metadata: Json | None = None,
        digests: str = "MD5",
        project: str = "project",
    ) -> StoredArtifact:
        """Put a version there without a client."""
        from xxhash import xxh128

        hashed = {"MD5": lambda data: hashlib.md5(data).digest(), "XXH128": lambda data: xxh128(data).digest()}[digests]  # noqa: S324
        artifact = StoredArtifact(self.new_id("artifact"), (ENTITY, project, name), "model", "", json.dumps(metadata or {}))
        contents = {
            path: {"digest": base64.b64encode(hashed(data)).decode(), "size": len(data), "birthArtifactID": artifact.id}
            | ({} if digests == "MD5" else {"extra": {"alg": digests}})
            for path, data in files.items()
        }
        artifact.manifest = json.dumps(
            {
                "version": 1,
                "storagePolicy": "wandb-storage-policy-v1",
                "storagePolicyConfig": {"storageLayout": "V2"},
                "contents": contents,
            }
        ).encode()
        artifact.files = dict(files)
        artifact.digest = hashlib.md5(artifact.manifest).hexdigest()  # noqa: S324
        with self.lock:
            self.artifacts[artifact.id] = artifact
            self.commit(artifact)
        return artifact

    def new_id(self, kind: str) -> str:
        """Name the next artifact."""
        return base64.b64encode(f"{kind}:{len(self.artifacts)}".encode()).decode()

    def commit(self, artifact: StoredArtifact) -> None:
        """Give an artifact its version, and it alone the alias `latest` of its collection."""
        others = [each for each in self.artifacts.values() if each.collection == artifact.collection and each.version is not None]
        if artifact.version is None:
            artifact.version, artifact.state = len(others), "COMMITTED"
        for other in others:
            other.aliases = [alias for alias in other.aliases if alias != "latest"]
        artifact.aliases = ["latest", f"v{artifact.version}"]

    def find(self, entity: str, project: str, name: str) -> StoredArtifact | None:
        """Find what `NAME`, `NAME:vN` or `NAME:latest` stands for."""
        collection, _, alias = name.partition(":")
        for artifact in self.artifacts.values():
            if artifact.collection == (entity, project, collection) and (alias or "latest") in artifact.aliases:
                return artifact
        return None
