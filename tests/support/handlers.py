"""A history with an outbox, a receiver of webhooks, and what a handler does in tests."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from app.monitor.handlers import Handler, enroll
from app.monitor.handlers.registry import Subscription
from app.monitor.history.schema import FILE, open_history

__all__ = ["Outgoing", "event", "handler", "receiver"]


def event(number: int = 0, **values: Any) -> dict[str, Any]:
    """An event as the monitor writes it for handlers."""
    return {"type": "task-failed", "id": f"id-{number}", "name": "shop.pay", "number": number, **values}


def handler(name: str, call: Callable[[dict[str, Any]], object], retries: int | None = None) -> Handler:
    return Handler(name, call, (Subscription(("task-failed",), None, retries),))


class Outgoing:
    """The writer's side: a history in which events wait for handlers."""

    def __init__(self, folder: Path, *names: str) -> None:
        folder.mkdir(exist_ok=True)
        self.path = folder / FILE
        self.connection = open_history(folder)
        enroll(self.connection, names, 0)

    def put(self, name: str, *events: dict[str, Any]) -> None:
        self.put_raw(name, *(json.dumps(one) for one in events))

    def put_raw(self, name: str, *texts: str) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.executemany(
            "INSERT INTO outbox (handler, event) VALUES (?, ?)", [(name, text) for text in texts]
        )
        self.connection.execute("COMMIT")

    def waiting(self, name: str) -> int:
        """How many rows are there for a handler, also of what is delivered but not noted yet."""
        (count,) = self.connection.execute("SELECT count(*) FROM outbox WHERE handler = ?", (name,)).fetchone()
        return int(count)

    def close(self) -> None:
        self.connection.close()


Answer = Callable[[BaseHTTPRequestHandler, bytes], None]


@contextmanager
def receiver(answer: Answer) -> Iterator[str]:
    """A web server on loopback that answers each POST with ``answer``; its address."""

    class Page(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            answer(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def busy(path: Path) -> sqlite3.Connection:
    """A connection that holds the writer's lock until it is closed."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    return connection
