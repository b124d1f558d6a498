"""The real Hub client against a server on loopback: pinned, only what is needed, verified, and clear when it fails."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from persona_assets.models.loading import CheckpointError, load_model, load_tokenizer, resolve_hub_base

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "someone/tiny-qwen2"
UNWANTED = {
    "training_args.bin": b"\x80pickle",
    "pytorch_model.bin": b"\x80pickle",
    "modeling_own.py": b"raise SystemExit",
    "README.md": b"# tiny",
    "original/consolidated.00.pth": b"\x80pickle",
}


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class Hub:
    """A repository served as the Hub serves it; `corrupt` changes bytes on their way, not the digests."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.corrupt: set[str] = set()
        self.requests: list[str] = []
        self.gated = False
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, handler: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = unquote(urlsplit(handler.path).path)
        self.requests.append(path)
        api, resolve = f"/api/models/{REPO}", f"/{REPO}/resolve/{COMMIT}/"
        headers: dict[str, str] = {}
        status, content = 200, b""
        if not path.startswith((f"{api}/", f"/{REPO}/")) and path != api:
            status, headers["X-Error-Code"] = 404, "RepoNotFound"
        elif self.gated:
            status, headers["X-Error-Code"] = 403, "GatedRepo"
        elif path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in self.files]
            content = json.dumps({"id": REPO, "sha": COMMIT, "siblings": siblings}).encode()
        elif path == f"{api}/tree/{COMMIT}":
            content = json.dumps([self.entry(name) for name in self.files]).encode()
        elif path.startswith(resolve) and path.removeprefix(resolve) in self.files:
            name = path.removeprefix(resolve)
            content = self.files[name]
            headers |= {"ETag": f'"{self.digest(name)}"', "X-Repo-Commit": COMMIT, "X-Linked-Size": str(len(content))}
            headers |= {"X-Linked-Etag": f'"{self.digest(name)}"'} if name.endswith(".safetensors") else {}
            if name in self.corrupt:
                content = bytes([content[0] ^ 1]) + content[1:]
        elif "/revision/" in path or "/tree/" in path:
            status, headers["X-Error-Code"] = 404, "RevisionNotFound"
        else:
            status, headers["X-Error-Code"] = 404, "EntryNotFound"
        handler.send_response(status)
        for key, value in headers.items():
            handler.send_header(key, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if body:
            handler.wfile.write(content)

    def digest(self, name: str) -> str:
        content = self.files[name]
        return hashlib.sha256(content).hexdigest() if name.endswith(".safetensors") else git_sha1(content)

    def entry(self, name: str) -> dict[str, object]:
        content = self.files[name]
        entry: dict[str, object] = {"type": "file", "path": name, "size": len(content), "oid": git_sha1(content)}
        if name.endswith(".safetensors"):
            entry["lfs"] = {"oid": self.digest(name), "size": len(content), "pointerSize": 128}
        return entry

    @property
    def fetched(self) -> set[str]:
        return {path.split(f"/resolve/{COMMIT}/")[1] for path in self.requests if "/resolve/" in path}


@pytest.fixture
def hub(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    hub = Hub({path.name: path.read_bytes() for path in sorted(checkpoint.iterdir())} | UNWANTED)
    yield hub
    hub.close()


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_base_is_pinned_and_loads(hub: Hub, checkpoint: Path, tmp_path: Path, revision: str) -> None:
    path, commit = resolve_hub_base(REPO, revision, tmp_path, endpoint=hub.endpoint)
    assert commit == COMMIT
    assert {file.name for file in path.iterdir()} == {file.name for file in checkpoint.iterdir()}
    for file in checkpoint.iterdir():
        assert (path / file.name).read_bytes() == file.read_bytes()
    load_model(path, device="cpu", dtype="float32")
    load_tokenizer(path)
    assert hub.fetched
    assert not hub.fetched & set(UNWANTED)


def test_commit_in_the_cache_needs_no_network(hub: Hub, tmp_path: Path) -> None:
    first = resolve_hub_base(REPO, "main", tmp_path, endpoint=hub.endpoint)
    hub.requests.clear()
    assert resolve_hub_base(REPO, COMMIT, tmp_path, endpoint=hub.endpoint) == first
    assert hub.requests == []


def test_branch_without_network_is_refused_even_if_cached(hub: Hub, tmp_path: Path) -> None:
    resolve_hub_base(REPO, "main", tmp_path, endpoint=hub.endpoint)
    hub.close()
    with pytest.raises(CheckpointError, match="cannot be reached.*HF_ENDPOINT.*HF_HOME.*commit sha.*local checkpoint"):
        resolve_hub_base(REPO, "main", tmp_path, endpoint=hub.endpoint)


def test_unreachable_hub_is_reported_for_a_commit_too(hub: Hub, tmp_path: Path) -> None:
    hub.close()
    with pytest.raises(CheckpointError, match=f"{COMMIT}.*cannot be reached"):
        resolve_hub_base(REPO, COMMIT, tmp_path, endpoint=hub.endpoint)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_corrupted_download_is_refused(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.corrupt.add(name)
    for _ in range(2):  # nor does it pass once it is in the cache
        with pytest.raises(CheckpointError, match=f"{name}: corrupted download.*delete"):
            resolve_hub_base(REPO, COMMIT, tmp_path, endpoint=hub.endpoint)


@pytest.mark.parametrize(
    ("repo_id", "revision", "reason"),
    [
        (REPO, "no-such-branch", "no such revision"),
        (REPO, "f" * 40, "no such revision"),
        ("someone/else", "main", "no such repository"),
        ("not a name", "main", "no repository name"),
    ],
)
def test_unknown_repository_or_revision(hub: Hub, tmp_path: Path, repo_id: str, revision: str, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        resolve_hub_base(repo_id, revision, tmp_path, endpoint=hub.endpoint)


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_gated_repository(hub: Hub, tmp_path: Path, revision: str) -> None:
    hub.gated = True
    with pytest.raises(CheckpointError, match="gated.*HF_TOKEN"):
        resolve_hub_base(REPO, revision, tmp_path, endpoint=hub.endpoint)


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("model.safetensors", "model.safetensors missing.*pickled weights are not read"),
        ("config.json", "config.json is missing"),
        ("tokenizer.json", "no tokenizer.json"),
    ],
)
def test_incomplete_repository(hub: Hub, tmp_path: Path, missing: str, reason: str) -> None:
    del hub.files[missing]
    with pytest.raises(CheckpointError, match=reason):
        resolve_hub_base(REPO, COMMIT, tmp_path, endpoint=hub.endpoint)


def test_interrupted_download_is_completed(hub: Hub, tmp_path: Path) -> None:
    path, _ = resolve_hub_base(REPO, COMMIT, tmp_path, endpoint=hub.endpoint)
    (path / "model.safetensors").resolve().unlink()
    (path / "model.safetensors").unlink()
    hub.requests.clear()
    assert resolve_hub_base(REPO, COMMIT, tmp_path, endpoint=hub.endpoint).path == path
    assert (path / "model.safetensors").is_file()
    assert hub.fetched == {"model.safetensors"}


def test_local_directory_is_pinned_by_its_content(checkpoint: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(checkpoint, tmp_path / "base"))
    path, digest = resolve_hub_base(str(directory), "main")
    assert (path, len(digest)) == (directory, 64)
    assert resolve_hub_base(str(directory), digest) == (path, digest)
    (directory / "notes.txt").write_text("not part of the model")
    assert resolve_hub_base(str(directory), digest) == (path, digest)
    config = directory / "config.json"
    config.write_text(config.read_text().replace('"silu"', '"gelu"'))
    with pytest.raises(CheckpointError, match="the checkpoint changed"):
        resolve_hub_base(str(directory), digest)
    with pytest.raises(CheckpointError, match="no such checkpoint directory"):
        resolve_hub_base(str(tmp_path / "absent"), "main")
