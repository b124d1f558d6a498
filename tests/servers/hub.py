"""A Hugging Face Hub on loopback, as far as the unmodified client goes: read, create, upload, commit. Always answers."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".bin", ".parquet", ".png", ".pdf")
FIRST_COMMIT = "0" * 40


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass
class Repo:
    """A repository: files by commit, and the commit that `main` is at."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {FIRST_COMMIT: {}})
    head: str = FIRST_COMMIT
    private: bool = False

    def commit(self, files: dict[str, bytes], *, deleted: tuple[str, ...] = ()) -> str:
        """Put files on top of the head and move `main` there."""
        now = {path: content for path, content in self.commits[self.head].items() if path not in deleted} | files
        state = json.dumps([self.head, {path: git_sha1(content) for path, content in now.items()}])
        self.head = hashlib.sha1(state.encode(), usedforsecurity=False).hexdigest()
        self.commits[self.head] = now
        return self.head


@dataclass
class Answer:
    """What goes back."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class HubServer:
    """The server; its attributes let a test set up faults and see what was asked.

    Attributes:
        repos: by name.
        keys: accepted keys; None opens everything that is not private to everyone.
        corrupt: paths whose bytes change on their way (same size, right digests in the listing).
        shortened: paths of which the last byte is lost on its way, with a Content-Length to match.
        fail_next: status codes of the next answers to uploads and commits, first one first; each is used once.
        operations: every request as `METHOD path`.
        unknown: those that this server does not know; a test asserts that there are none.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.keys: set[str] | None = None
        self.corrupt: set[str] = set()
        self.shortened: set[str] = set()
        self.fail_next: list[int] = []
        self.operations: list[str] = []
        self.unknown: list[str] = []
        self._blobs: dict[str, bytes] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                path = unquote(urlsplit(self.path).path)
                hub.operations.append(f"{self.command} {path}")
                key = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
                answer = hub.answer(self.command, path, self.rfile.read(length), key)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.body)

            def do_GET(self) -> None:
                self.answer()

            def do_HEAD(self) -> None:
                self.answer()

            def do_POST(self) -> None:
                self.answer()

            def do_PUT(self) -> None:
                self.answer()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Stop listening; a later request is refused by the machine itself."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def fetched(self) -> set[str]:
        """Paths of the files that were asked for, by HEAD or GET."""
        return {operation.split("/resolve/")[1].partition("/")[2] for operation in self.operations if "/resolve/" in operation}

    def answer(self, method: str, path: str, body: bytes, key: str | None) -> Answer:
        """Answer one request."""
        signed = method == "PUT" and path.startswith("/lfs/")  # an address that needs no key
        if self.keys is not None and key not in self.keys and not signed:
            return _error(401, None, "Invalid credentials in Authorization header" if key else "Invalid username or password.")
        if self.fail_next and method in ("POST", "PUT") and ("/commit/" in path or path.startswith("/lfs/")):
            return _error(self.fail_next.pop(0), None, "failing, as the test wants")
        if (method, path) == ("GET", "/api/whoami-v2"):
            return _json({"name": "lab", "type": "user", "fullname": "lab", "orgs": [], "auth": {"type": "access_token"}})
        if (method, path) == ("POST", "/api/validate-yaml"):
            return _json({"errors": [], "warnings": []})
        if (method, path) == ("POST", "/api/repos/create"):
            return self._create(json.loads(body))
        if path.startswith("/lfs/"):
            return self._store(method, path.rpartition("/")[2], body)
        found = re.fullmatch(r"(?:/api/models)?/([\w.-]+/[\w.-]+?)(?:\.git)?(/.*)?", path)
        if found is None:
            return self._unknown(method, path)
        repo, rest = self.repos.get(found[1]), found[2] or ""
        if repo is None or (repo.private and key is None):
            return _error(404, "RepoNotFound", "Repository not found")
        if rest.startswith("/resolve/") and method in ("GET", "HEAD"):
            return self._resolve(repo, *rest.removeprefix("/resolve/").split("/", 1))
        if method == "GET" and path.startswith("/api/"):
            return self._read(found[1], repo, rest)
        if method == "POST":
            return self._write(found[1], repo, rest, body)
        return self._unknown(method, path)

    def _create(self, asked: dict[str, str]) -> Answer:
        name = f"{asked.get('organization') or 'lab'}/{asked['name']}"
        if name in self.repos:
            return _json({"error": "You already created this model repo", "url": f"{self.endpoint}/{name}"}, 409)
        self.repos[name] = Repo(private=bool(asked.get("private")) or asked.get("visibility") == "private")
        return _json({"url": f"{self.endpoint}/{name}", "name": name})

    def _store(self, method: str, oid: str, body: bytes) -> Answer:
        if method == "PUT":
            if hashlib.sha256(body).hexdigest() != oid:
                return _error(400, None, "the bytes are not those of the sha256")
            self._blobs[oid] = body
        return Answer()

    def _read(self, name: str, repo: Repo, rest: str) -> Answer:
        kind, _, place = rest.lstrip("/").partition("/")
        revision, _, folder = place.partition("/") if kind in ("revision", "tree") else ("main", "", "")
        commit = repo.head if revision == "main" else revision
        if commit not in repo.commits:
            return _error(404, "RevisionNotFound", "Invalid rev id")
        files = repo.commits[commit]
        if kind == "tree":
            inside = [path for path in files if not folder or path.startswith(f"{folder}/")]
            if folder and not inside:
                return _error(404, "EntryNotFound", "no such folder")
            return _json([_entry(path, files[path]) for path in inside])
        if kind in ("", "revision"):
            siblings = [{"rfilename": path} for path in files]
            return _json({"id": name, "sha": commit, "siblings": siblings, "tags": ["lora"], "private": repo.private})
        return self._unknown("GET", f"{name}{rest}")

    def _resolve(self, repo: Repo, revision: str, path: str = "") -> Answer:
        commit = repo.head if revision == "main" else revision
        if commit not in repo.commits:
            return _error(404, "RevisionNotFound", "Invalid rev id")
        if path not in repo.commits[commit]:
            return _error(404, "EntryNotFound", "Entry not found")
        content = repo.commits[commit][path]
        entry = _entry(path, content)
        lfs = entry.get("lfs")
        headers = {"ETag": f'"{entry["oid"]}"', "X-Repo-Commit": commit, "X-Linked-Size": str(len(content))}
        if isinstance(lfs, dict):
            headers["X-Linked-Etag"] = f'"{lfs["oid"]}"'
        if path in self.corrupt:
            content = bytes([content[0] ^ 1]) + content[1:]
        if path in self.shortened:
            content = content[:-1]
        return Answer(200, content, headers)

    def _write(self, name: str, repo: Repo, rest: str, body: bytes) -> Answer:
        if rest.startswith("/preupload/"):
            asked = json.loads(body)["files"]
            modes = {file["path"]: "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular" for file in asked}
            return _json({"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]})
        if rest == "/info/lfs/objects/batch":
            objects = json.loads(body)["objects"]
            return _json({"transfer": "basic", "objects": [self._upload_place(name, each) for each in objects]})
        if rest.startswith("/paths-info/"):
            commit = rest.rpartition("/")[2]
            files = repo.commits[repo.head if commit == "main" else commit]
            return _json([_entry(path, files[path]) for path in json.loads(body)["paths"] if path in files])
        if rest.startswith("/commit/"):
            return self._commit(name, repo, [json.loads(line) for line in body.splitlines() if line.strip()])
        return self._unknown("POST", f"{name}{rest}")

    def _upload_place(self, name: str, wanted: dict[str, object]) -> dict[str, object]:
        if wanted["oid"] in self._blobs:
            return wanted  # no action: it is there
        place = {"href": f"{self.endpoint}/lfs/{name}/{wanted['oid']}", "header": {}}
        return {**wanted, "actions": {"upload": place, "verify": place}}

    def _commit(self, name: str, repo: Repo, lines: list[dict[str, dict[str, str]]]) -> Answer:
        parent = lines[0]["value"].get("parentCommit")
        if parent not in (None, repo.head):
            return _error(412, None, "A commit has happened since. Please refresh and try again.")
        files: dict[str, bytes] = {}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":  # type: ignore[comparison-overlap]
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":  # type: ignore[comparison-overlap]
                if value["oid"] not in self._blobs:
                    return _error(400, None, f"{value['path']}: its bytes were not uploaded")
                files[value["path"]] = self._blobs[value["oid"]]
        deleted = tuple(line["value"]["path"] for line in lines if line["key"] == "deletedFile")  # type: ignore[comparison-overlap]
        commit = repo.commit(files, deleted=deleted)
        return _json({"success": True, "commitOid": commit, "commitUrl": f"{self.endpoint}/{name}/commit/{commit}"})

    def _unknown(self, method: str, path: str) -> Answer:
        self.unknown.append(f"{method} {path}")
        return _error(501, None, f"this server does not know {method} {path}")


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """Serve a Hub, and check at the end that nothing was asked that it does not know."""
    server = HubServer()
    try:
        yield server
        assert server.unknown == []
    finally:
        server.close()


def _entry(path: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": git_sha1(content)}
    if path.endswith(LFS_SUFFIXES):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 128}
    return entry


def _json(content: object, status: int = 200) -> Answer:
    return Answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})


def _error(status: int, code: str | None, message: str) -> Answer:
    return Answer(
        status,
        json.dumps({"error": message}).encode(),
        {"Content-Type": "application/json", "X-Error-Message": message, **({"X-Error-Code": code} if code else {})},
    )
