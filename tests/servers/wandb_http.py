"""The HTTP side of the loopback W&B server: routes, the key, and faults; what is asked of it is carried out by its state."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

Json = dict[str, Any]
StateT = TypeVar("StateT")
_OPERATION = re.compile(r"(?:query|mutation)\s+(\w+)")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _HttpServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Print nothing."""

    def do_POST(self) -> None:
        body = self._body()
        if not self._authorized():
            return
        if self.path == "/graphql":
            asked = json.loads(body)
            named = _OPERATION.search(asked["query"])
            operation = named[1] if named else "?"
            self._answer(operation, lambda: self._graphql(operation, asked.get("variables") or {}))
        elif self.path.endswith("/file_stream"):
            self._answer("file_stream", lambda: (self.server.state.stream(self.path, json.loads(body)), (200, {}))[1])
        else:
            self._unknown(f"POST {self.path}")

    def do_PUT(self) -> None:
        body = self._body()
        path = unquote(self.path)
        self._answer(f"PUT {path}", lambda: (self.server.state.put(path, body, self.headers.get("Content-MD5")), {}))

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/storage/"):
            self._answer(f"GET {path}", lambda: self._or_404(self.server.state.stored(path)))
        elif path.startswith("/artifactsV2/"):
            if self._authorized():
                self._answer(f"GET {path}", lambda: self._or_404(self.server.state.redirect(path)))
        else:
            self._unknown(f"GET {path}")

    @staticmethod
    def _or_404(found: bytes | str | None) -> tuple[int, Any]:
        return (404, {"error": "no such file"}) if found is None else (302 if isinstance(found, str) else 200, found)

    def _graphql(self, operation: str, variables: Json) -> tuple[int, Json]:
        method = getattr(self.server.state, operation, None) if operation[:1].isupper() else None
        if method is None:
            self.server.state.unknown.append(operation)
            return 400, {"errors": [{"message": f"unknown operation {operation}"}]}
        try:
            return 200, {"data": method(variables)}
        except (KeyError, LookupError) as error:
            return 200, {"data": None, "errors": [{"message": str(error)}]}

    def _authorized(self) -> bool:
        if self.headers.get("Authorization") == self.server.state.authorization:
            return True
        self._send(401, {"errors": [{"message": "user is not logged in"}]})
        return False

    def _answer(self, what: str, carry_out: Callable[[], tuple[int, Any]]) -> None:
        state = self.server.state
        state.requests[what] += 1
        fault = state.fault(what, after=False)
        if fault is None:
            with state.lock:
                status, content = carry_out()
            fault = state.fault(what, after=True)
        if fault is None:
            self._send(status, content)
        elif fault.status is None:
            self.close_connection = True
            self.connection.close()
        else:
            self._send(fault.status, {"errors": [{"message": "as the test wants it"}]})

    def _unknown(self, what: str) -> None:
        self.server.state.unknown.append(what)
        self._send(404, {"error": f"unknown request {what}"})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, content: Any) -> None:
        data = content if isinstance(content, bytes) else b"" if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        if isinstance(content, str):
            self.send_header("Location", content)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    state: Any

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed, or a connection dropped on purpose, is no error here."""


@contextmanager
def serve(make_state: Callable[[str], StateT]) -> Iterator[StateT]:
    """Serve a state, made for its address, on an ephemeral port of loopback."""
    server = _HttpServer(("127.0.0.1", 0), _Handler)
    server.state = make_state(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
