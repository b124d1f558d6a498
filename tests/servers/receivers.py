"""What messages are sent to: a webhook and a mail server on loopback, which keep what they get."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller


class Webhook:
    """A server that answers with the given codes in turn, the last one for ever, and keeps what it was sent."""

    def __init__(self, codes: Sequence[int], secret: str) -> None:
        self.bodies: list[Any] = []
        left = list(codes)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                outer.content_type = self.headers["Content-Type"]
                self.send_response(left.pop(0) if len(left) > 1 else left[0])
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hooks/{secret}"


@contextmanager
def webhook_server(codes: Sequence[int] = (200,), secret: str = "T0K3N") -> Iterator[Webhook]:  # noqa: S107
    """Run a webhook; its address ends with the secret."""
    webhook = Webhook(codes, secret)
    threading.Thread(target=webhook.server.serve_forever, daemon=True).start()
    try:
        yield webhook
    finally:
        webhook.server.shutdown()
        webhook.server.server_close()


class Mailbox:
    """Keeps mail; refuses with the given replies first."""

    def __init__(self, replies: Sequence[str]) -> None:
        self.replies = list(replies)
        self.mails: list[Any] = []

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:
        if self.replies:
            return self.replies.pop(0)
        self.mails.append(envelope)
        return "250 taken"


@contextmanager
def mail_server(replies: Sequence[str] = ()) -> Iterator[tuple[Mailbox, int]]:
    """Run a mail server without encryption; gives its mailbox and its port."""
    box = Mailbox(replies)
    controller = Controller(box, hostname="127.0.0.1", port=free_port())
    controller.start()
    try:
        yield box, controller.port
    finally:
        controller.stop()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
