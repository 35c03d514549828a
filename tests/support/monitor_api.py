"""A monitor's API that answers what a test wants, on a port of this host's loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from deploy.platforms.base import Endpoints

__all__ = ["FakeMonitor", "serving"]

READY = (200, b"ready\n")


class FakeMonitor:
    """What the server was asked, and what it answers."""

    def __init__(self, port: int) -> None:
        self.where = Endpoints(host="127.0.0.1", amqp=1, management=2, prometheus=3, flower=4, monitor=port)
        self.answers: dict[str, Any] = {"/readyz": READY}
        """By path, without the question mark: a value, which is sent as JSON, a list of them for one request after the
        other as (status, value), or (status, bytes) for anything else."""
        self.asked: list[str] = []
        self.posted: list[tuple[str, str]] = []
        self.keys: list[str | None] = []

    @property
    def name(self) -> str:
        return f"the monitor at 127.0.0.1:{self.where.monitor}"

    def answer(self, target: str) -> tuple[int, bytes]:
        found = self.answers.get(target.partition("?")[0], (404, {"error": "the history knows no such task"}))
        if isinstance(found, list):
            found = found.pop(0) if len(found) > 1 else found[0]
        status, body = found if isinstance(found, tuple) else (200, found)
        return status, body if isinstance(body, bytes) else json.dumps(body).encode()


@contextmanager
def serving() -> Iterator[FakeMonitor]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append(self.path)
            made.keys.append(self.headers["Authorization"])
            status, body = made.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            made.posted.append((self.path, self.rfile.read(int(self.headers["Content-Length"])).decode()))
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = FakeMonitor(server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
