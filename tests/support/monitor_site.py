"""The monitor's web server in a thread of the test, over a history that is a list."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.parse import urlencode

from msgspec.structs import replace

from app.events.status import Status
from app.monitor.history.clock import rfc3339
from app.monitor.hub import Hub
from app.monitor.web.server import Server
from app.monitor.web.sources import Filter, Page
from app.settings import AppSettings

__all__ = ["OPERATOR", "TOKEN", "VIEWER", "Answer", "FakeBroker", "FakeReader", "Site", "serve", "task"]

TOKEN = "token-of-the-test"
OPERATOR = "password-of-the-operator"
VIEWER = "password-of-the-viewer"
SETTINGS = AppSettings(
    monitor_port=0,
    monitor_token=TOKEN,
    monitor_operator_password=OPERATOR,
    monitor_viewer_password=VIEWER,
    monitor_cookie_secret="secret-of-the-cookie",
)
# Seconds. Far longer than any answer takes.
PATIENCE = 20
# 2026-11-22T13:20:01.123Z
NOON = 1795353601.123


def task(id: str, state: str = "SUCCESS", **changes: Any) -> dict[str, Any]:
    """A task as the history tells it, that ran for two seconds."""
    final = state in {"SUCCESS", "FAILURE", "REVOKED", "REJECTED"}
    return {
        "id": id,
        "name": "app.tasks.add",
        "state": state,
        "attention": None,
        "attention_since": None,
        "queue": "default",
        "worker": "w1@host",
        "args": "(1, 2)",
        "kwargs": "{}",
        "retries": 0,
        "attempts": 1,
        "time": rfc3339(NOON + 3),
        "sent": rfc3339(NOON),
        "received": rfc3339(NOON + 0.5),
        "started": rfc3339(NOON + 1),
        "finished": rfc3339(NOON + 3) if final else None,
        "eta": None,
        "expires": None,
        "runtime": 2.0 if state == "SUCCESS" else None,
        "wait": 0.5,
        "result": "3" if state == "SUCCESS" else None,
        "exception": "ValueError('no')" if state == "FAILURE" else None,
        "root": id,
        "parent": None,
        "traceback": "Traceback (most recent call last):\nValueError: no" if state == "FAILURE" else None,
        "sender": "gen1@client",
        "steps": [
            {"state": "PENDING", "time": rfc3339(NOON), "worker": None, "note": None},
            {"state": "RECEIVED", "time": rfc3339(NOON + 0.5), "worker": "w1@host", "note": None},
            {"state": "STARTED", "time": rfc3339(NOON + 1), "worker": "w1@host", "note": None},
            *([{"state": state, "time": rfc3339(NOON + 3), "worker": "w1@host", "note": None}] if final else []),
        ],
        "children": [],
        **changes,
    }


class FakeReader:
    """Finds by state and name; notes each search, and raises what it is told to."""

    def __init__(self, tasks: list[dict[str, Any]]) -> None:
        self.all = tasks
        self.searches: list[Filter] = []
        self.error: Exception | None = None
        self.before: Callable[[], None] = lambda: None
        self.opened = 0
        self.closed = 0

    def open(self) -> FakeReader:
        self.opened += 1
        return self

    def close(self) -> None:
        self.closed += 1

    def tasks(self, wanted: Filter) -> Page:
        self.searches.append(wanted)
        self.before()
        if self.error is not None:
            raise self.error
        found = [
            one
            for one in self.all
            if (not wanted.states or one["state"] in wanted.states)
            and (not wanted.attention or one["attention"])
            and (not wanted.text or any(wanted.text in str(one[field]) for field in ("id", "args", "traceback")))
        ]
        start = int(wanted.cursor or 0)
        end = start + wanted.limit
        return Page(found[start:end], str(end) if end < len(found) else None)

    def task(self, id: str) -> dict[str, Any] | None:
        return next((one for one in self.all if one["id"] == id), None)

    def family(self, root: str) -> list[dict[str, Any]]:
        return [one for one in self.all if one["root"] == root]

    def workers(self) -> list[dict[str, Any]]:
        return [
            {
                "name": "w1@host",
                "alive": True,
                "heartbeat": rfc3339(NOON),
                "active": 1,
                "processed": 7,
                "pid": 42,
                "software": "py-celery 5.7.0",
                "load": [0.5, 0.4, 0.3],
                "since": rfc3339(NOON),
            }
        ]

    def chart(self, since: datetime, until: datetime, points: int, name: str | None) -> list[dict[str, Any]]:
        if self.error is not None:
            raise self.error
        step = (until - since).total_seconds() / points
        return [
            {
                "time": rfc3339((since + timedelta(seconds=step * number)).timestamp()),
                "succeeded": number,
                "failed": number % 3,
                "retried": 0,
                "revoked": 0,
                "runtime_mean": 0.5,
                "runtime_max": 2.5,
            }
            for number in range(points)
        ]

    def counts(self) -> dict[str, Any]:
        return {"states": {"SUCCESS": 2, "FAILURE": 1}, "attention": {"unclaimed": 0, "stalled": 0, "orphaned": 1}}

    def names(self) -> list[str]:
        return sorted({one["name"] for one in self.all})

    def queues(self) -> list[str]:
        return ["default"]


class FakeBroker:
    """Stands in for `app.factory.client`, and notes what its apps are asked for."""

    def __init__(self) -> None:
        self.clients: list[AppSettings] = []
        self.revoked: list[dict[str, Any]] = []
        self.sent: list[dict[str, Any]] = []
        self.threads: set[str] = set()
        self.replies: Any = [{"w1@host": {"ok": "tasks revoked"}}]
        self.error: Exception | None = None
        self.control = SimpleNamespace()

    def client(self, settings: AppSettings, **_: Any) -> Any:
        self.clients.append(settings)
        self.threads.add(threading.current_thread().name)
        self.control = SimpleNamespace(revoke=self.revoke, by="")
        return SimpleNamespace(
            control=self.control,
            connection_for_write=lambda: SimpleNamespace(
                connect=self.connect, release=lambda: None, collect=lambda: None
            ),
            send_task=self.send,
            close=lambda: None,
        )

    def connect(self) -> None:
        if self.error:
            raise self.error

    def revoke(self, ids: list[str], **options: Any) -> Any:
        self.connect()
        self.revoked.append({"ids": ids, "by": self.control.by, **options})
        return self.replies if options["reply"] else None

    def send(self, name: str, **options: Any) -> Any:
        self.sent.append({"name": name, **options})
        return SimpleNamespace(id="new-id")


class Answer(NamedTuple):
    """What the server said."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


class Browser:
    """Keeps cookies, and sends forms with their hidden field, as a browser does."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.cookies: dict[str, str] = {}

    def get(self, path: str, **headers: str) -> Answer:
        return self._send("GET", path, None, headers)

    def post(self, path: str, **fields: str) -> Answer:
        return self._send("POST", path, urlencode(fields), {"Content-Type": "application/x-www-form-urlencoded"})

    def form(self, path: str) -> str:
        """The hidden field of a page's form."""
        found = re.search(r'name="_xsrf" value="([^"]+)"', self.get(path).text)
        assert found, path
        return found[1]

    def log_in(self, password: str, **fields: str) -> Answer:
        return self.post("/login", _xsrf=self.form("/login"), password=password, **fields)

    def _send(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> Answer:
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        answer = self._site.ask(
            method,
            path,
            body,
            Accept="text/html",
            Cookie=cookies,
            **{name.replace("_", "-"): value for name, value in headers.items()},
        )
        for line in answer.headers.get_all("Set-Cookie") or []:
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value.strip('"')
        return answer


class Site:
    """A running server and what it reads from."""

    def __init__(self, server: Server, reader: FakeReader, hub: Hub, status: Status) -> None:
        self.server = server
        self.reader = reader
        self.hub = hub
        self.status = status
        self.loop = asyncio.new_event_loop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def ask(self, method: str, path: str, body: str | bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str, token: str = TOKEN, **headers: str) -> Answer:
        return self.ask("GET", path, Authorization=f"Bearer {token}", **headers)

    def post(self, path: str, body: str | None = None, token: str = TOKEN, **headers: str) -> Answer:
        return self.ask("POST", path, body, Authorization=f"Bearer {token}", **headers)

    def browser(self) -> Browser:
        return Browser(self)

    def open(self, path: str = "/events") -> socket.socket:
        """A connection on which a request was sent and nothing is read yet."""
        made = socket.create_connection(("127.0.0.1", self.server.port), timeout=PATIENCE)
        made.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
        return made

    def stop(self) -> None:
        """Stops the server; returns when it has."""
        asyncio.run_coroutine_threadsafe(self.server.stop(), self.loop).result(PATIENCE)


@contextmanager
def serve(
    tasks: list[dict[str, Any]] | None = None, make: Callable[[], Any] | None = None, **settings: Any
) -> Iterator[Site]:
    """A server on a free port of the loopback. ``make`` opens another history than a list."""
    reader, hub, status = FakeReader(tasks or []), Hub(), Status(connected=True, caught_up=True)
    server = Server(replace(SETTINGS, **settings), make or reader.open, hub, status, lambda: b"warren_up 1\n")
    site = Site(server, reader, hub, status)
    ready = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        async def start() -> None:
            server.start()

        asyncio.set_event_loop(site.loop)
        try:
            site.loop.run_until_complete(start())
        except BaseException as error:  # noqa: BLE001, RUF100 - the test's thread raises it
            failures.append(error)
            return
        finally:
            ready.set()
        site.loop.run_forever()
        site.loop.run_until_complete(site.loop.shutdown_asyncgens())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait(PATIENCE)
    if failures:
        raise failures[0]
    try:
        yield site
    finally:
        site.stop()
        site.loop.call_soon_threadsafe(site.loop.stop)
        thread.join(PATIENCE)
        site.loop.close()
