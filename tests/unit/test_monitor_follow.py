"""How the monitor follows the log, resumes and saves, with a log of its own instead of a broker's."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from app.eventlog import Entry, Stop, Unavailable
from app.monitor import follow
from app.monitor.follow import Follower, happened
from app.monitor.position import Position, PositionFile


def entry(offset: int, log: str = "log") -> Entry:
    return Entry(
        offset, [{"type": "task-started", "uuid": "a", "timestamp": 1000.0 + offset}], f"{log} {offset}".encode()
    )


@dataclass
class Broker:
    """The stand-in: what the log holds, and what goes wrong after which offset."""

    entries: list[Entry]
    stop: Stop
    # Raised instead of opening the log, one a try.
    refusals: list[Unavailable] = field(default_factory=list)
    # Offsets behind which the connection breaks, once each.
    breaks: list[int] = field(default_factory=list)
    starts: list[Any] = field(default_factory=list)
    recalled_from: list[datetime] = field(default_factory=list)

    def log(self, url: str, stop: Stop) -> FakeLog:
        if self.refusals:
            raise self.refusals.pop(0)
        return FakeLog(self)

    def replay(self, url: str, start: datetime, *, stop: Stop) -> Iterator[Entry]:
        self.recalled_from.append(start)
        return iter(self.entries)


class FakeLog:
    def __init__(self, broker: Broker) -> None:
        self.broker = broker

    def __enter__(self) -> FakeLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        pass

    def end(self, patience: float) -> int | None:
        return max((entry.offset for entry in self.broker.entries), default=None)

    def consume(self, start: Any) -> None:
        self.broker.starts.append(start)
        first = 0 if start == "first" else start
        self.left = iter([entry for entry in self.broker.entries if entry.offset >= first])
        self.last = -1

    def next(self, timeout: float | None) -> Entry | None:
        if self.last in self.broker.breaks:
            self.broker.breaks.remove(self.last)
            raise Unavailable("broken")
        following = next(self.left, None)
        if following is None:
            self.broker.stop.set()
            return None
        self.last = following.offset
        return following


class Recorder:
    def __init__(self, fail_at: int | None = None) -> None:
        self.handled: list[int] = []
        self.recalled: list[int] = []
        self.fail_at = fail_at

    def recall(self, entry: Entry) -> None:
        self.recalled.append(entry.offset)

    def handle(self, entry: Entry) -> bool:
        if entry.offset == self.fail_at:
            raise OSError("No space left on device")
        self.handled.append(entry.offset)
        return True


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    fake = Broker([entry(offset) for offset in range(10)], Stop())
    monkeypatch.setattr(follow, "Log", fake.log)
    monkeypatch.setattr(follow, "replay", fake.replay)
    # Waits end at once.
    monkeypatch.setattr(fake.stop, "wait", lambda timeout=None: fake.stop.is_set())
    return fake


def run(broker: Broker, folder: Path, sink: Recorder | None = None) -> Recorder:
    broker.stop._flag = False
    sink = sink or Recorder()
    Follower("amqp://h:1/warren", [sink], PositionFile(folder), broker.stop, memory=600).run()
    return sink


def save(folder: Path, offset: int, log: str = "log") -> None:
    PositionFile(folder).save(Position.of(entry(offset, log), 1000.0 + offset))


def saved(folder: Path) -> int | None:
    position = PositionFile(folder).load()
    return position.offset if position else None


def test_without_a_position_it_begins_with_the_first_event(broker: Broker, tmp_path: Path) -> None:
    assert run(broker, tmp_path).handled == list(range(10))
    assert broker.starts == ["first"]
    assert saved(tmp_path) == 9


def test_a_second_run_handles_what_is_new(broker: Broker, tmp_path: Path) -> None:
    run(broker, tmp_path)
    broker.entries.extend(entry(offset) for offset in (10, 11))
    assert run(broker, tmp_path).handled == [10, 11]
    assert run(broker, tmp_path).handled == []
    assert saved(tmp_path) == 11


def test_names_are_recalled_up_to_the_position(broker: Broker, tmp_path: Path) -> None:
    save(tmp_path, 4)
    sink = run(broker, tmp_path)
    assert sink.recalled == [0, 1, 2, 3, 4]
    assert sink.handled == [5, 6, 7, 8, 9]
    assert broker.recalled_from[0].timestamp() == 1004.0 - 600


def test_a_lost_connection_neither_loses_nor_repeats(
    broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker.breaks = [3, 3, 6]
    broker.refusals = [Unavailable("booting")]
    with caplog.at_level(logging.INFO, logger="warren.monitor"):
        assert run(broker, tmp_path).handled == list(range(10))
    assert broker.starts == ["first", 3, 3, 6]
    assert [message.split(";")[0] for message in caplog.messages if "again after" not in message] == ["booting"] + [
        "broken"
    ] * 3


def test_an_outage_is_one_line_and_what_needs_somebody_one_more(
    broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = Unavailable("wrong password", lasting=True)
    broker.refusals = [Unavailable("refused"), Unavailable("reset"), wrong, wrong, Unavailable("refused")]
    with caplog.at_level(logging.INFO, logger="warren.monitor"):
        assert run(broker, tmp_path).handled == list(range(10))
    assert [message.split(";")[0] for message in caplog.messages] == [
        "refused",
        "wrong password",
        "reading the event log at h:1 again after 0 s",
    ]


@pytest.mark.parametrize("offset", [9, 4])
def test_another_log_is_read_from_its_first_event(
    broker: Broker, tmp_path: Path, offset: int, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, offset, log="old log")
    assert run(broker, tmp_path).handled == list(range(10))
    assert sum("another one" in message for message in caplog.messages) == 1


@pytest.mark.parametrize("entries", [[], [entry(0), entry(1)]])
def test_a_position_beyond_the_log(
    broker: Broker, tmp_path: Path, entries: list[Entry], caplog: pytest.LogCaptureFixture
) -> None:
    broker.entries = entries
    save(tmp_path, 5)
    assert run(broker, tmp_path).handled == [item.offset for item in entries]
    assert sum("another one" in message for message in caplog.messages) == 1


def test_what_the_log_has_dropped_is_told(broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path, 1)
    broker.entries = broker.entries[5:]
    assert run(broker, tmp_path).handled == [5, 6, 7, 8, 9]
    assert "no longer holds its messages 2 to 4" in caplog.text


def test_a_sink_that_fails_leaves_the_position_before_its_message(broker: Broker, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space"):
        run(broker, tmp_path, Recorder(fail_at=6))
    assert saved(tmp_path) == 5
    assert run(broker, tmp_path).handled == [6, 7, 8, 9]


def test_a_stop_while_the_broker_is_away_ends_it(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def refuse(*_: object) -> FakeLog:
        tries.append(1)
        if len(tries) == 3:
            broker.stop._flag = True
        raise Unavailable("refused")

    monkeypatch.setattr(follow, "Log", refuse)
    assert run(broker, tmp_path).handled == []
    assert len(tries) == 3


@pytest.mark.parametrize("stamp", [float("nan"), float("inf"), -1, 0, 10**400, 1e18, "1000", None, [1]])
def test_times_that_cannot_be(stamp: Any) -> None:
    assert happened(Entry(0, [{"type": "x", "timestamp": stamp}], b"")) == 0.0
    assert happened(Entry(0, [{"type": "x", "timestamp": stamp}, {"type": "x", "timestamp": 5}], b"")) == 5.0
