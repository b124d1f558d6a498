"""A W&B server on loopback, enough of it for the unmodified SDK: runs, artifacts, downloads, and the faults of a real one.

Every request is answered, errors too: the SDK retries an unanswered one for minutes. What it does not know it answers
with an error and notes in `unknown`, which a test's end asserts to be empty.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from servers.wandb_http import Json, serve
from servers.wandb_state import ENTITY, StoredArtifact, StoredRun, WandbState

KEY = "0123456789abcdef0123456789abcdef01234567"
_TIME = "2026-01-01T00:00:00Z"


@dataclass
class Fault:
    """Requests whose operation (or `METHOD path`) matches `pattern` are answered with `status`; None drops the connection.

    With `after` the request is carried out first, and only the answer is lost.
    """

    pattern: str
    status: int | None
    times: int
    after: bool = False


class WandbServer(WandbState):
    """Address and answers of a running server."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.faults: list[Fault] = []
        self.unknown: list[str] = []
        self.requests: Counter[str] = Counter()

    @property
    def authorization(self) -> str:
        """The header that a request with the right key has."""
        return "Basic " + base64.b64encode(f"api:{KEY}".encode()).decode()

    def environment(self, config: Path) -> dict[str, str]:
        """Variables that point the SDK here, with no key or setting of whoever runs the tests, and short waits."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": KEY,
            "WANDB_CONFIG_DIR": str(config),
            "NETRC": "/dev/null",
            "WANDB__GRAPHQL_RETRY_WAIT_MIN_SECONDS": "0.05",
            "WANDB__FILE_TRANSFER_RETRY_WAIT_MIN_SECONDS": "0.05",
        }

    def fail(self, pattern: str, status: int | None = 503, *, times: int = 1, after: bool = False) -> None:
        """Spoil the next requests that match: with a status, or (None) by dropping the connection."""
        self.faults.append(Fault(pattern, status, times, after))

    # GraphQL: one method for each operation, named after it.

    def Viewer(self, _: Json) -> Json:
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        viewer = {"id": "dXNlcg==", "entity": ENTITY, "username": "tester", "email": "", "flags": "{}", "teams": teams}
        return {"viewer": viewer | {"admin": False, "deletedAt": None, "name": "tester", "apiKeys": {"edges": []}}}

    def GetDefaultEntity(self, _: Json) -> Json:
        return {"viewer": {"id": "dXNlcg==", "entity": ENTITY, "defaultEntity": {"name": ENTITY}}}

    def ServerFeaturesQuery(self, _: Json) -> Json:
        return {"serverInfo": {"features": []}}

    def UpsertBucket(self, given: Json) -> Json:
        name = given["name"]
        inserted = name not in self.runs
        run = self.runs.setdefault(name, StoredRun(name, given.get("project") or "", given.get("displayName") or name))
        run.config |= json.loads(given.get("config") or "{}")
        run.job_type = given.get("jobType") or run.job_type
        project = {"id": "cHJvamVjdA==", "name": run.project, "entity": {"id": "dGVhbQ==", "name": given.get("entity") or ENTITY}}
        bucket = {"id": f"run-{name}", "name": name, "displayName": run.display_name, "description": "", "config": "{}"}
        return {
            "upsertBucket": {
                "bucket": bucket | {"sweepName": None, "project": project, "historyLineCount": len(run.history)},
                "inserted": inserted,
            }
        }

    def CreateRunFiles(self, given: Json) -> Json:
        files = [{"name": name, "uploadUrl": f"{self.url}/put/run/{given['run']}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def ArtifactType(self, given: Json) -> Json:
        found = self.find(given["entity"] or ENTITY, given["project"], given["name"])
        return {"project": {"artifact": found and {"artifactType": {"name": found.type}}}}

    def FetchArtifactDigestAlgorithm(self, _: Json) -> Json:
        return {"project": {"artifactType": None}}

    def XXHashDigestsEnabled(self, _: Json) -> Json:
        return {"entity": {"xxhashDigestsEnabled": False}}

    def CreateArtifact(self, given: Json) -> Json:
        it = given["input"]
        collection = (it["entityName"], it["projectName"], it["artifactCollectionName"])
        latest = self.find(collection[0], collection[1], f"{collection[2]}:latest")
        if latest is not None and latest.digest == it["digest"]:
            artifact = latest  # the server keeps one version of equal contents
        else:
            metadata = it.get("metadata")
            artifact = StoredArtifact(self.new_id("artifact"), collection, it["artifactTypeName"], it["digest"], metadata)
            self.artifacts[artifact.id] = artifact
        sequence = {"latestArtifact": latest and {"id": latest.id}}
        return {"createArtifact": {"artifact": {"id": artifact.id, "state": artifact.state, "artifactSequence": sequence}}}

    def CreateArtifactManifest(self, given: Json) -> Json:
        return {"createArtifactManifest": self._manifest_upload(given["artifactID"], given["includeUpload"])}

    def UpdateArtifactManifest(self, given: Json) -> Json:
        return {
            "updateArtifactManifest": self._manifest_upload(
                given["artifactManifestID"].partition("-of-")[2], given["includeUpload"]
            )
        }

    def CreateArtifactFiles(self, given: Json) -> Json:
        nodes = []
        for wanted in given["input"]["artifactFiles"]:
            artifact, name = wanted["artifactID"], wanted["name"]
            node = {"storagePath": f"{artifact}/{name}", "uploadUrl": f"{self.url}/put/file/{artifact}/{name}"}
            node |= {"uploadHeaders": [f"Content-MD5:{wanted['md5']}"], "uploadMultipartUrls": None, "artifact": {"id": artifact}}
            nodes.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def CommitArtifact(self, given: Json) -> Json:
        artifact = self.artifacts[given["artifactID"]]
        missing = set(json.loads(artifact.manifest)["contents"]) - set(artifact.files)
        if missing:
            raise LookupError(f"files were not uploaded: {sorted(missing)}")
        self.commit(artifact)
        return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}

    def ArtifactByID(self, given: Json) -> Json:
        return {"artifact": self._fragment(self.artifacts[given["id"]])}

    def ArtifactMembershipByName(self, given: Json) -> Json:
        found = self.find(given["entity"], given["project"], given["name"])
        membership = found and {
            "__typename": "ArtifactCollectionMembership",
            "id": f"membership-{found.id}",
            "versionIndex": found.version,
            "createdAt": _TIME,
            "aliases": [{"__typename": "ArtifactAlias", "id": alias, "alias": alias} for alias in found.aliases],
            "artifactCollection": self._sequence(found),
            "artifact": self._fragment(found),
        }
        return {"project": {"artifactCollectionMembership": membership}}

    def FetchArtifactManifest(self, given: Json) -> Json:
        file = {"directUrl": f"{self.url}/storage/{given['id']}/wandb_manifest.json"}
        return {"artifact": {"currentManifest": {"__typename": "ArtifactManifest", "id": "manifest", "file": file}}}

    # Files.

    def put(self, path: str, body: bytes, content_md5: str | None) -> int:
        """Take an uploaded file; 400 when it is not what its announced MD5 says."""
        if content_md5 and base64.b64encode(hashlib.md5(body).digest()).decode() != content_md5:  # noqa: S324
            return 400
        kind, owner, name = path.removeprefix("/put/").split("/", 2)
        if kind == "manifest":
            self.artifacts[owner].manifest = body
        elif kind == "file":
            self.artifacts[owner].files[name] = body
        return 200

    def stored(self, path: str) -> bytes | None:
        """Give what a signed address stands for."""
        owner, name = path.removeprefix("/storage/").split("/", 1)
        artifact = self.artifacts[owner]
        return artifact.manifest if name == "wandb_manifest.json" else artifact.files.get(name)

    def redirect(self, path: str) -> str | None:
        """Find the signed address of `/artifactsV2/REGION/ENTITY/PROJECT/NAME/BIRTH/DIGEST/FILE`."""
        *_, birth, digest, _ = path.split("/")
        for name, entry in json.loads(self.artifacts[birth].manifest)["contents"].items():
            if base64.b64decode(entry["digest"]).hex() == digest:
                return f"{self.url}/storage/{birth}/{name}"
        return None

    def stream(self, path: str, body: Json) -> None:
        """Take the history that a run streams."""
        run = self.runs[path.split("/")[-2]]
        for name, chunk in (body.get("files") or {}).items():
            rows = [json.loads(line) for line in chunk["content"]] if name.endswith(("history.jsonl", "summary.json")) else []
            if name == "wandb-history.jsonl":
                run.history[chunk["offset"] :] = rows
            elif name == "wandb-summary.json":
                run.summary |= rows[-1]
        if body.get("complete"):
            run.exit_code = body.get("exitcode")

    def fault(self, what: str, *, after: bool) -> Fault | None:
        """Take the fault that a request meets, once it is its turn."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.after == after and re.search(fault.pattern, what):
                    fault.times -= 1
                    return fault
        return None

    def _manifest_upload(self, artifact: str, include_upload: bool) -> Json:
        file: Json = {"id": f"file-of-{artifact}"}
        if include_upload:
            file |= {"uploadUrl": f"{self.url}/put/manifest/{artifact}/manifest", "uploadHeaders": []}
        return {"artifactManifest": {"id": f"manifest-of-{artifact}", "file": file}}

    @staticmethod
    def _sequence(artifact: StoredArtifact) -> Json:
        entity, project, name = artifact.collection
        of = {
            "__typename": "Project",
            "id": "cHJvamVjdA==",
            "internalId": "cHJvamVjdA==",
            "name": project,
            "entity": {"name": entity},
        }
        return {"__typename": "ArtifactSequence", "id": f"sequence-{name}", "name": name, "project": of}

    def _fragment(self, artifact: StoredArtifact) -> Json:
        sizes = [entry.get("size", 0) for entry in json.loads(artifact.manifest)["contents"].values()]
        return {
            "__typename": "Artifact",
            "id": artifact.id,
            "artifactSequence": self._sequence(artifact),
            "versionIndex": artifact.version,
            "artifactType": {"name": artifact.type},
            "description": None,
            "metadata": artifact.metadata,
            "ttlDurationSeconds": -2,
            "ttlIsInherited": True,
            "tags": [],
            "historyStep": None,
            "state": artifact.state,
            "size": sum(sizes),
            "digest": artifact.digest,
            "digestAlgorithm": "MANIFEST_MD5",
            "commitHash": "",
            "fileCount": len(sizes),
            "createdAt": _TIME,
            "updatedAt": None,
            "aliases": [
                {"__typename": "ArtifactAlias", "id": alias, "alias": alias, "artifactCollection": self._sequence(artifact)}
                for alias in artifact.aliases
            ],
        }


@contextmanager
def wandb_server(config: Path, **variables: str) -> Iterator[WandbServer]:
    """Serve on an ephemeral port of loopback, with the environment pointing the SDK here.

    At the end, every operation that came must have been a known one.

    Args:
        config: empty directory for the SDK's settings.
        variables: further environment variables.
    """
    with serve(WandbServer) as state, pytest.MonkeyPatch.context() as patch:
        patch.delenv("WANDB_MODE", raising=False)
        for name, value in (state.environment(config) | variables).items():
            patch.setenv(name, value)
        yield state
    assert state.unknown == []
