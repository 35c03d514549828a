"""Keeps what tasks tell it, a line each, in the order in which it comes: an effect outside of the stack."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock

BOOK = Path("/data/ledger")
LOCK = Lock()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        with LOCK, BOOK.open("a") as book:
            book.write(self.path.strip("/") + "\n")
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    # Each task makes connections of its own.
    request_queue_size = 128


BOOK.touch()
Server(("", 8080), Handler).serve_forever()
