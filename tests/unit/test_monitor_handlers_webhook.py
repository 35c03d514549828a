"""The webhook, against real web servers on loopback."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import Any

import pytest

from app.eventlog import Stop
from app.monitor.handlers import Delivery, Registry
from app.monitor.handlers.failure import Failure, reason
from app.monitor.handlers.payload import LIMIT
from app.monitor.handlers.webhook import Webhook
from tests.support.eventually import eventually
from tests.support.handlers import Outgoing, event, handler, receiver
from tests.support.login import basic

KEY = "the key"


class Inbox:
    """Answers with one status after the other (the last one stays), and keeps what it was sent."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses or [200])
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.bodies: list[bytes] = []

    def __call__(self, page: BaseHTTPRequestHandler, body: bytes) -> None:
        self.headers.append({name.lower(): value for name, value in page.headers.items()})
        self.paths.append(page.path)
        self.bodies.append(body)
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        page.send_response(status)
        page.send_header("Location", "/elsewhere")
        page.send_header("Content-Length", "0")
        page.end_headers()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.bodies]


def is_from_warren(key: str, header: str, body: bytes) -> bool:
    """As a receiver checks it."""
    parts = dict(part.split("=", 1) for part in header.split(","))
    expected = hmac.new(key.encode(), parts["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, parts["sha256"])


def test_an_event_is_posted_and_signed() -> None:
    inbox = Inbox()
    with receiver(inbox) as url:
        Webhook(f"{url}/hook?token=a%20b", KEY)(event(1, delivery=7, exception="ValueError('ä \u2028')"))
    assert inbox.events == [event(1, delivery=7, exception="ValueError('ä \u2028')")]
    assert inbox.paths == ["/hook?token=a%20b"]
    (headers,) = inbox.headers
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"] == "warren-monitor"
    assert is_from_warren(KEY, headers["x-warren-signature"], inbox.bodies[0])
    assert not is_from_warren("another key", headers["x-warren-signature"], inbox.bodies[0])
    assert not is_from_warren(KEY, headers["x-warren-signature"], inbox.bodies[0] + b" ")
    assert not is_from_warren(KEY, headers["x-warren-signature"].replace("t=1", "t=2"), inbox.bodies[0])


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_a_delivery(status: int) -> None:
    with receiver(Inbox(status)) as url:
        Webhook(url, KEY)(event())


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 404, 410, 429, 500, 503, 599])
def test_all_else_is_none_and_redirects_are_not_followed(status: int) -> None:
    inbox = Inbox(status)
    with receiver(inbox) as url:
        webhook = Webhook(f"{url}/secret", KEY)
        with pytest.raises(Failure, match=f"{url} answered {status} ") as raised:
            webhook(event())
        assert inbox.paths == ["/secret"]
        # The next one is tried all the same.
        inbox.statuses = [200]
        webhook(event())
    assert "secret" not in reason(raised.value)
    assert ("redirects are not followed" in str(raised.value)) == (300 <= status < 400)


def test_a_name_and_password_are_sent_and_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    inbox = Inbox(200, 500)
    with receiver(inbox) as url, caplog.at_level(logging.DEBUG):
        webhook = Webhook(url.replace("//", "//us%40er:pass%3Aword@"), "")
        webhook(event())
        with pytest.raises(Failure) as raised:
            webhook(event())
    assert inbox.headers[0]["authorization"] == basic("us@er", "pass:word")
    assert "x-warren-signature" not in inbox.headers[0]
    assert "without a signature" in caplog.text
    assert "pass" not in caplog.text + str(raised.value)


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with receiver(Inbox()) as url:
        Webhook(url, KEY)(event())


def test_long_values_are_cut_and_numbers_stay_json() -> None:
    inbox = Inbox()
    lines = "".join(f"line {number}\n" for number in range(1_000_000))
    with receiver(inbox) as url:
        Webhook(url, KEY)(event(1, traceback=lines, runtime=float("inf"), args="\ud800", wait=1.5))
    (sent,) = inbox.events
    assert len(inbox.bodies[0]) < 2 * LIMIT
    assert sent["traceback"].startswith("line 0\n")
    assert sent["traceback"].endswith("line 999999\n")
    assert sent["runtime"] is None
    assert sent["wait"] == 1.5
    assert b"Infinity" not in inbox.bodies[0]


@contextmanager
def raw_server(reply: bytes, *, close: bool) -> Iterator[str]:
    """A server that says ``reply`` to whoever connects, then closes the connection or keeps silent."""
    over = Flag()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                # All of it: what is left unread when a connection is closed resets it.
                asked = b""
                while not asked.endswith(b"}"):
                    asked += connection.recv(65_536)
                connection.sendall(reply)
                if not close:
                    over.wait()
                elif reply == HALF_AND_RESET:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        over.set()


HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"
HALF_AND_RESET = HALF + b"c"
BROKEN = "closed the connection without a proper answer"


@pytest.mark.parametrize(
    ("reply", "close", "said"),
    [
        (b"", False, "did not answer within 0.5 s"),
        (HALF, False, "did not answer within 0.5 s"),
        (b"", True, BROKEN),
        (HALF, True, BROKEN),
        (HALF_AND_RESET, True, "."),
        (b"SSH-2.0-OpenSSH\r\n\r\n", True, "."),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", True, "."),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", True, "."),
        (b"\xff\x00" * 5000, True, "."),
    ],
)
def test_a_bad_server_is_a_failure_in_one_line(
    reply: bytes, close: bool, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with raw_server(reply, close=close) as url:
        # Long, where the answer's end is what tells.
        webhook = Webhook(f"{url}/secret", KEY, timeout=60 if said == BROKEN else 0.5)
        with pytest.raises(Failure, match=said) as raised:
            webhook(event())
    assert reason(raised.value).startswith(url)
    assert "secret" not in reason(raised.value)
    # Nor does Tornado say it in forty.
    assert caplog.messages == []


def test_other_threads_may_still_log(caplog: pytest.LogCaptureFixture) -> None:
    with receiver(Inbox()) as url:
        thread = Thread(target=Webhook(url, KEY), args=(event(),))
        thread.start()
        thread.join()
    logging.getLogger("tornado.application").error("of the page")
    assert "of the page" in caplog.messages


def test_nobody_there_tls_without_tls_and_an_unknown_host() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(Failure, match=f"http://127.0.0.1:{port}: .*refused"):
        Webhook(f"http://127.0.0.1:{port}/secret", KEY)(event())
    with receiver(Inbox()) as url:
        secure = url.replace("http://", "https://")
        with pytest.raises(Failure, match=secure):
            Webhook(secure, KEY)(event())
    with pytest.raises(Failure, match=r"^http://nobody\.invalid: "):
        Webhook("http://nobody.invalid/secret", KEY)(event())


def test_a_long_answer_costs_no_memory() -> None:
    def chatter(page: BaseHTTPRequestHandler, _: bytes) -> None:
        page.send_response(200)
        page.send_header("Content-Length", str(200 << 20))
        page.end_headers()
        for _megabyte in range(200):
            page.wfile.write(b"x" * (1 << 20))

    # More than the 100 MB that Tornado's client would keep, or refuse.
    with receiver(chatter) as url:
        Webhook(url, KEY, timeout=120)(event())


def test_an_outage_delays_and_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    inbox = Inbox(200, 503, 503, 410, 200)
    outgoing = Outgoing(tmp_path / "monitor", "webhook")
    outgoing.put("webhook", *(event(number) for number in range(5)))
    with receiver(inbox) as url, caplog.at_level(logging.INFO, logger="warren.monitor"):
        delivery = Delivery(outgoing.path, Registry([handler("webhook", Webhook(url, KEY))]), Stop(), lambda _: None)
        delivery.start()
        eventually(lambda: outgoing.waiting("webhook") == 0, 20)
        delivery.stop(10)
    assert [event["number"] for event in inbox.events] == [0, 1, 1, 1, 1, 2, 3, 4]
    # The same number for the same event, in each attempt.
    assert len({event["delivery"] for event in inbox.events}) == 5
    assert all(
        is_from_warren(KEY, headers["x-warren-signature"], body)
        for headers, body in zip(inbox.headers, inbox.bodies, strict=True)
    )
    said = [line for line in caplog.messages if "webhook" in line]
    assert "answered 503" in said[0]
    assert said[-1] == "handler webhook works again, after 3 failures"
    outgoing.close()


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://hooks.example.org/services/secret?key=secret", "https://hooks.example.org"),
        ("http://user:secret@[::1]:8080/secret", "http://[::1]:8080"),
        ("https://münchen.example/", "https://xn--mnchen-3ya.example"),
        ("HTTP://Example.ORG:80", "http://example.org:80"),
    ],
)
def test_only_the_server_is_named(url: str, place: str) -> None:
    assert Webhook(url, KEY).place == place
