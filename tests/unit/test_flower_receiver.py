"""Messages of the log as Flower's events, and what the receiver tells of itself."""

from __future__ import annotations

from threading import Thread
from time import monotonic
from typing import Any
from zlib import crc32

import pytest

from app.eventlog import Stop, Unavailable
from app.events import follow
from app.events.position import Position
from app.flower import receiver
from app.flower.health import Health
from app.flower.receiver import Batch, Inlet, Receiver
from tests.support.events import BASE, WORKER, body, event, heartbeat, life
from tests.support.eventually import eventually

NOW = BASE + 100_000


class Taken:
    """Stands for Flower's state."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.at_ends = 0
        self.starts = 0
        self.position: Position | None = None

    def take(self, batches: list[Batch]) -> None:
        self.batches += batches
        self.position = batches[-1].position

    def at_end(self) -> None:
        self.at_ends += 1

    def start_over(self) -> None:
        self.starts += 1
        self.position = None


@pytest.fixture
def health() -> Health:
    return Health(30, 300)


def inlet(health: Health, end: int | None = None, taken: Taken | None = None) -> Inlet:
    made = Inlet(taken or Taken(), health, now=lambda: NOW)
    made.connected(end)
    return made


def test_events_as_celerys_receiver_makes_them(health: Health) -> None:
    sent, received, started, succeeded = life("a", 0, result="3")
    heard = inlet(health).events(0, body([sent, received, started, {**succeeded, "clock": 40}, heartbeat(5)]))
    assert [one["type"] for one in heard] == [
        *("task-sent", "task-received", "task-started", "task-succeeded", "worker-heartbeat")
    ]
    assert (heard[1]["uuid"], heard[1]["hostname"], heard[1]["timestamp"]) == ("a", WORKER, BASE + 1)
    assert heard[3]["result"] == "3"
    assert (heard[4]["freq"], heard[4]["sw_sys"], heard[4]["loadavg"]) == (2.0, "Linux", [0.5, 0.25, 0.1])
    # Who sends has no clock of the cluster's, and a heartbeat of this test none at all.
    assert [one["clock"] for one in heard] == [0, 1, 1, 40, 42]


def test_old_events_were_heard_when_they_happened(health: Health) -> None:
    made = inlet(health, end=5)
    moments = {offset: made.events(offset, body(heartbeat(BASE + 7)))[0]["local_received"] for offset in (0, 5, 6)}
    assert moments == {0: BASE + 7, 5: BASE + 7, 6: NOW}
    # By a clock that is fast they were heard now, and not later.
    (late,) = made.events(0, body(heartbeat(NOW + 3600)))
    assert late["local_received"] <= NOW
    # After the connection was lost, what came meanwhile is old, too.
    made.connected(9)
    assert made.events(9, body(heartbeat(BASE + 7)))[0]["local_received"] == BASE + 7


def test_zones_do_not_shift_times(health: Health) -> None:
    (one,) = inlet(health).events(0, body({**heartbeat(7), "utcoffset": -5}))
    assert one["timestamp"] == BASE + 7


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": 7},
        {"uuid": None},
        {"timestamp": "soon"},
        {"timestamp": 1e300},
        {"hostname": ["a"]},
        {"clock": "late"},
        {"name": {"a": 1}},
        {"parent_id": []},
        {"runtime": "long"},
    ],
    ids=str,
)
def test_malformed_events_are_skipped_and_the_rest_is_not(health: Health, wrong: dict[str, Any]) -> None:
    good = event("started", 1, "good")
    heard = inlet(health).events(0, body([{**event("received", 1, "bad"), **wrong}, good, 5]))  # type: ignore[list-item]
    assert [one["uuid"] for one in heard] == ["good"]


def test_what_has_no_place_in_a_task_is_left_out(health: Health) -> None:
    (one,) = inlet(health).events(
        0, body({**event("received", 1, "a"), "state": "SUCCESS", "worker": 7, "children": 8})
    )
    assert {"state", "worker", "children"} & one.keys() == set()
    assert inlet(health).events(0, b"no JSON") == []


def test_the_follower_gets_what_it_asks_for(health: Health) -> None:
    taken = Taken()
    made = inlet(health, None, taken)
    made.take([(3, body(heartbeat(1))), (4, b"[]")])
    assert made.position == Position(4, crc32(b"[]"))
    assert [len(batch.events) for batch in taken.batches] == [1, 0]
    assert not health.caught_up
    made.look()
    made.look()
    assert (health.caught_up, taken.at_ends) == (True, 1)
    made.start_over()
    assert [made.position, taken.starts] == [None, 1]


class Quiet:
    """A log in which nothing happens."""

    ends = 0

    def next_raw(self, timeout: float) -> None:
        return None

    def end(self, patience: float) -> int:
        self.ends += 1
        return 9


def test_a_silent_broker_is_asked_whether_it_is_there(health: Health) -> None:
    log = Quiet()
    made = inlet(health)
    following = Receiver("amqp://nowhere", made, Stop(), health)
    made.heard = heard = monotonic()
    following._gather(log)  # type: ignore[arg-type]
    assert (log.ends, made.heard) == (0, heard)
    made.heard = monotonic() - receiver.ASK_AFTER - 1
    following._gather(log)  # type: ignore[arg-type]
    assert log.ends == 1
    assert made.heard >= heard


def test_trouble_is_a_sign_of_life(health: Health) -> None:
    made = inlet(health)
    following = Receiver("amqp://nowhere", made, Stop(), health)
    health._pulse -= 1000
    assert health.deaf()
    following._lost(Unavailable("no broker at nowhere:5672 (Connection refused)"))
    assert health.deaf() is None
    assert health.not_ready() == "no broker at nowhere:5672 (Connection refused)"


def test_what_was_taken_is_a_sign_of_life(health: Health) -> None:
    made = inlet(health)
    health._pulse -= 1000
    made.take([(0, body(heartbeat(1)))])
    assert health.deaf() is None


class Talking(Quiet):
    """A log with a message that is read again after each connection."""

    opened = 0

    def __init__(self, *_: Any) -> None:
        Talking.opened += 1

    def __enter__(self) -> Talking:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def consume(self, start: int | str) -> None:
        assert start == "first"

    def next_raw(self, timeout: float) -> tuple[int, bytes]:  # type: ignore[override]
        return 0, body(heartbeat(1))


@pytest.mark.parametrize("fails", [(follow.Follower, "run"), (Taken, "take"), (Inlet, "events")])
def test_a_mistake_of_our_own_is_told_and_no_sign_of_life(
    health: Health, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fails: tuple[type, str]
) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("never thought of")

    monkeypatch.setattr(*fails, broken)
    monkeypatch.setattr(follow, "Log", Talking)
    monkeypatch.setattr(receiver, "AGAIN", 0.01)
    stop = Stop()
    health._pulse -= 1000
    thread = Thread(target=Receiver("amqp://nowhere", Inlet(Taken(), health), stop, health).run)
    thread.start()
    # However often it connects before it fails again.
    eventually(lambda: sum("by a mistake of our own" in line for line in caplog.messages) >= 3, 20)
    stop.set()
    thread.join(20)
    assert health.deaf()
