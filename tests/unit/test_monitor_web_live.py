"""Server-sent events over real sockets, also to readers who never read."""

from __future__ import annotations

import gc
import json
import socket
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from app.monitor.web import broadcast
from app.monitor.web.broadcast import MOST_UNSENT, Listener, Wanted
from tests.support.eventually import eventually
from tests.support.monitor_site import TOKEN, Site, serve, task


@pytest.fixture
def site() -> Iterator[Site]:
    with serve([task("one")]) as made:
        yield made


def change(number: int, kind: str = "task-succeeded", **fields: Any) -> dict[str, Any]:
    return {"type": kind, "id": f"id-{number}", "name": "app.tasks.add", "state": "SUCCESS", **fields}


class Stream:
    """A reader of /events."""

    def __init__(self, site: Site, path: str = "/events") -> None:
        before = readers(site)
        self.socket = site.open(path)
        self.file = self.socket.makefile("rb")
        eventually(lambda: readers(site) == before + 1, 10, "the reader has joined")

    def lines(self) -> Iterator[str]:
        """What comes, without the frames of chunked encoding."""
        for line in self.file:
            text = line.decode().rstrip("\r\n")
            if text.startswith(("event:", "data:", "retry:", ":")):
                yield text

    def events(self, count: int) -> list[tuple[str, dict[str, Any]]]:
        found = []
        kind = ""
        for line in self.lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                found.append((kind, json.loads(line.removeprefix("data: "))))
                if len(found) == count:
                    break
        return found

    def close(self) -> None:
        self.file.close()
        self.socket.close()


def readers(site: Site) -> int:
    return len(site.server._shared.broadcast)  # noqa: SLF001, RUF100


def test_changes_arrive_as_events(site: Site) -> None:
    stream = Stream(site)
    hostile = "</script>\n\nevent: x\ndata: y \u2028"
    site.hub.publish([change(1), change(2, "task-failed", exception=hostile)])
    site.hub.publish([change(3, "evil\ndata: x")])
    assert stream.events(3) == [
        ("task-succeeded", change(1)),
        ("task-failed", change(2, "task-failed", exception=hostile)),
        ("change", change(3, "evil\ndata: x")),
    ]
    stream.close()
    eventually(lambda: readers(site) == 0, 10, "the reader has left")
    # And then the thread that follows the log makes no changes for nobody.
    assert not site.hub.heard


def test_only_what_is_wanted(site: Site) -> None:
    failed = Stream(site, "/events?type=task-failed,task-retried")
    named = Stream(site, "/events?name=shop.*")
    one = Stream(site, "/events?id=id-3")
    site.hub.publish(
        [change(1), change(2, "task-failed"), change(3, name="shop.pay"), change(4, "task-retried", name="shop.x")]
    )
    assert [event["id"] for _, event in failed.events(2)] == ["id-2", "id-4"]
    assert [event["id"] for _, event in named.events(2)] == ["id-3", "id-4"]
    assert [event["id"] for _, event in one.events(1)] == ["id-3"]
    for stream in (failed, named, one):
        stream.close()


def test_a_burst_does_not_cut_who_reads(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy host also one who reads takes nothing for a while.
    monkeypatch.setattr(broadcast, "PATIENCE", 30)
    stream = Stream(site)
    site.hub.publish([change(number) for number in range(5 * MOST_UNSENT)])
    assert [event["id"] for _, event in stream.events(5 * MOST_UNSENT)] == [f"id-{n}" for n in range(5 * MOST_UNSENT)]
    stream.close()


def test_200_readers_who_never_read(site: Site) -> None:
    # Small buffers of the system, so that the server's own are what fills.
    slow: list[socket.socket] = []
    for _ in range(200):
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        made.connect(("127.0.0.1", site.server.port))
        made.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token-of-the-test\r\n\r\n")
        slow.append(made)
    eventually(lambda: readers(site) == 200, 20, "all have joined")
    quick = Stream(site)
    gc.collect()
    tracemalloc.start()
    sent = 0
    try:
        while readers(site) > 1 and sent < 100_000:
            site.hub.publish([change(sent + number, args="x" * 1000) for number in range(100)])
            sent += 100
            # Whoever reads is served meanwhile, in order and without a gap.
            assert [event["id"] for _, event in quick.events(100)] == [f"id-{n}" for n in range(sent - 100, sent)]
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert readers(site) == 1, "the slow ones were cut off"
    assert site.get("/tasks").status == 200
    # 200 readers that lag 1,000 changes of a kilobyte would take 200 MB if each had its own.
    assert most < 40_000_000, most
    site.hub.publish([change(sent)])
    assert quick.events(1)[0][1]["id"] == f"id-{sent}"
    for one in slow:
        one.close()
    quick.close()


def test_a_reader_that_was_cut_sees_the_end(site: Site) -> None:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.settimeout(20)
    made.connect(("127.0.0.1", site.server.port))
    made.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token-of-the-test\r\n\r\n")
    eventually(lambda: readers(site) == 1, 10, "it has joined")

    def cut() -> bool:
        site.hub.publish([change(number, args="x" * 2000) for number in range(200)])
        return readers(site) == 0

    eventually(cut, 20, "it is cut off")
    with pytest.raises((ConnectionError, EOFError)):  # noqa: PT012, RUF100
        while True:
            if not made.recv(65536):
                raise EOFError
    made.close()


def test_too_many_readers_are_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broadcast, "MOST_READERS", 1)
    stream = Stream(site)
    answer = site.get("/events")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "30")
    assert answer.json["error"].startswith("too many readers of /events")
    stream.close()
    eventually(lambda: readers(site) == 0, 10, "the reader has left")
    assert site.ask("HEAD", "/events", Authorization=f"Bearer {TOKEN}").status == 200


def test_stop_ends_200_readers() -> None:
    with serve() as site:
        made = [site.open() for _ in range(200)]
        eventually(lambda: readers(site) == 200, 20, "all have joined")
        # It waits for none of them.
        site.stop()
        assert readers(site) == 0
        assert not site.hub.heard
        for one in made:
            one.close()


def test_what_is_no_json_is_skipped(site: Site) -> None:
    stream = Stream(site)
    site.hub.publish([change(1, args={1: "\ud800"}), change(2, args=float("nan")), change(3)])
    assert [event["id"] for _, event in stream.events(2)] == ["id-2", "id-3"]
    stream.close()


def test_a_listener_is_bounded_in_bytes_too() -> None:
    import asyncio

    async def check() -> None:
        cut: list[bool] = []
        listener = Listener(lambda: cut.append(True))
        listener.tell([b"x" * 400_000, b"x" * 400_000])
        assert not cut
        assert len(listener.portion()) == 400_000
        listener.tell([b"x" * 700_000])
        assert cut == [True]
        assert listener.behind
        assert listener.portion() == b""

    asyncio.run(check())


def test_wanted() -> None:
    assert Wanted().has(change(1))
    assert Wanted(types=frozenset({"task-failed"})).has({"type": "skipped", "count": 7})
    assert not Wanted(name="shop.*").has({"type": "worker-online"})
    assert Wanted(types=frozenset({"worker-online"})).has({"type": "worker-online"})
