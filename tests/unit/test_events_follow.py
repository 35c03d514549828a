"""How the monitor follows the log, resumes and says what is wrong, with a log of its own instead of a broker's."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from time import time
from typing import Any
from zlib import crc32

import pytest

from app.eventlog import Stop, Unavailable
from app.events import follow
from app.events.follow import Follower, Refused, newest
from app.events.position import Position
from app.events.status import Status
from tests.support.events import BASE, body, event

Message = tuple[int, bytes]


def message(offset: int, log: str = "log") -> Message:
    return offset, body([event("started", offset, f"{log} {offset}")])


@dataclass
class Broker:
    """The stand-in: what the log holds, and what goes wrong after which offset."""

    messages: list[Message]
    stop: Stop
    # Raised instead of opening the log, one a try.
    refusals: list[Unavailable] = field(default_factory=list)
    # Offsets behind which the connection breaks, once each.
    breaks: list[int] = field(default_factory=list)
    # Offsets behind which it is silent for a while, once each.
    pauses: list[int] = field(default_factory=list)
    starts: list[Any] = field(default_factory=list)
    closed: int = 0

    def log(self, url: str, stop: Stop) -> FakeLog:
        if self.refusals:
            raise self.refusals.pop(0)
        return FakeLog(self)


class FakeLog:
    def __init__(self, broker: Broker) -> None:
        self.broker = broker

    def __enter__(self) -> FakeLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.broker.closed += 1

    def end(self, patience: float) -> int | None:
        return max((offset for offset, _ in self.broker.messages), default=None)

    def consume(self, start: Any) -> None:
        self.broker.starts.append(start)
        first = 0 if start == "first" else start
        self.left = iter([one for one in self.broker.messages if one[0] >= first])
        self.last = -1

    def next_raw(self, timeout: float | None) -> Message | None:
        if self.last in self.broker.breaks:
            self.broker.breaks.remove(self.last)
            raise Unavailable("broken")
        if self.last in self.broker.pauses:
            self.broker.pauses.remove(self.last)
            return None
        following = next(self.left, None)
        if following is None:
            # The first silence ends a transaction, the second one the test.
            if self.last < 0:
                self.broker.stop.set()
            self.last = -1
            return None
        self.last = following[0]
        return following


class Records:
    """Keeps the offsets of what it is given; refuses or fails where it is told to."""

    def __init__(self, position: Message | None = None, refuse: list[int] | None = None, fail_at: int | None = None):
        self.position = Position(position[0], crc32(position[1])) if position else None
        self.taken: list[int] = []
        self.batches: list[int] = []
        self.ends: list[int | None] = []
        self.started_over = 0
        self.looks = 0
        self.refuse = refuse or []
        self.fail_at = fail_at

    def connected(self, end: int | None) -> None:
        self.ends.append(end)

    def start_over(self) -> None:
        self.started_over += 1
        self.position = None

    def take(self, messages: list[Message]) -> None:
        offsets = [offset for offset, _ in messages]
        for one in self.refuse:
            if one in offsets:
                self.refuse.remove(one)
                raise Refused("the volume is full")
        if self.fail_at in offsets:
            raise OSError("No space left on device")
        self.taken += offsets
        self.batches.append(len(offsets))
        self.position = Position(offsets[-1], crc32(messages[-1][1]))

    def look(self) -> None:
        self.looks += 1


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    fake = Broker([message(offset) for offset in range(10)], Stop())
    monkeypatch.setattr(follow, "Log", fake.log)
    # Waits end at once.
    monkeypatch.setattr(fake.stop, "wait", lambda timeout=None: fake.stop.is_set())
    return fake


def run(broker: Broker, records: Records | None = None, status: Status | None = None) -> Records:
    broker.stop._flag = False
    records = records or Records()
    Follower("amqp://h:1/warren", records, broker.stop, status or Status()).run()
    return records


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line.split(";")[0] for line in caplog.messages]


def test_without_a_position_it_begins_with_the_first_event(broker: Broker) -> None:
    records = run(broker)
    assert records.taken == list(range(10))
    assert (broker.starts, records.ends, broker.closed) == (["first"], [9], 1)


def test_a_second_run_takes_what_is_new(broker: Broker) -> None:
    first = run(broker)
    broker.messages += [message(10), message(11)]
    first.taken.clear()
    assert run(broker, first).taken == [10, 11]
    assert run(broker, first).taken == [10, 11]
    assert broker.starts == ["first", 9, 11]


def test_a_transaction_has_so_many_messages_at_most(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "MESSAGES", 4)
    assert run(broker).batches == [4, 4, 2]
    monkeypatch.setattr(follow, "BYTES", 1)
    assert run(broker).batches == [1] * 10


def test_a_lost_connection_neither_loses_nor_repeats(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(follow, "MESSAGES", 1)
    broker.breaks = [3, 3, 6]
    broker.refusals = [Unavailable("booting")]
    with caplog.at_level(logging.INFO, logger="warren.monitor"):
        assert run(broker).taken == list(range(10))
    assert broker.starts == ["first", 3, 3, 6]
    assert [line for line in said(caplog) if "again after" not in line] == ["booting", *["broken"] * 3]
    assert broker.closed == 4


def test_what_was_gathered_when_the_connection_broke_comes_again(broker: Broker) -> None:
    broker.breaks = [3]
    assert run(broker).taken == list(range(10))


def test_an_outage_is_one_line_and_what_needs_somebody_one_more(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = Unavailable("wrong password", lasting=True)
    broker.refusals = [Unavailable("refused"), Unavailable("reset"), wrong, wrong, Unavailable("refused")]
    with caplog.at_level(logging.INFO, logger="warren.monitor"):
        assert run(broker).taken == list(range(10))
    assert said(caplog) == ["refused", "wrong password", "reading the event log at h:1 again after 0 s"]


@pytest.mark.parametrize("offset", [9, 4])
def test_another_log_is_read_from_its_first_event(
    broker: Broker, offset: int, caplog: pytest.LogCaptureFixture
) -> None:
    records = run(broker, Records(message(offset, "old log")))
    assert (records.taken, records.started_over) == (list(range(10)), 1)
    assert sum("another one" in line for line in caplog.messages) == 1


@pytest.mark.parametrize("messages", [[], [message(0), message(1)]])
def test_a_position_beyond_the_log(broker: Broker, messages: list[Message], caplog: pytest.LogCaptureFixture) -> None:
    broker.messages = messages
    records = run(broker, Records(message(5)))
    assert (records.taken, records.started_over) == ([offset for offset, _ in messages], 1)
    assert sum("another one" in line for line in caplog.messages) == 1


def test_what_the_log_has_dropped_is_said(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    broker.messages = broker.messages[5:]
    records = run(broker, Records(message(1)))
    assert (records.taken, records.started_over) == ([5, 6, 7, 8, 9], 0)
    assert "events were lost: the log no longer holds its messages 2 to 4" in caplog.messages


def test_the_log_begins_right_behind_the_position(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    broker.messages = broker.messages[5:]
    assert run(broker, Records(message(4))).taken == [5, 6, 7, 8, 9]
    assert caplog.messages == []


def test_offsets_with_gaps_are_no_loss(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    # The broker keeps notes of its own in the same sequence.
    broker.messages = [message(offset) for offset in (0, 1, 5, 9, 10)]
    assert run(broker, Records(message(1))).taken == [5, 9, 10]
    assert caplog.messages == []


def test_a_history_that_takes_nothing_gets_the_same_again(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    status = Status()
    records = run(broker, Records(refuse=[4, 4, 4]), status)
    assert records.taken == list(range(10))
    assert said(caplog) == ["the volume is full"]
    assert status.error is None
    # The next time it is said again.
    caplog.clear()
    broker.messages.append(message(10))
    records.refuse = [10]
    assert run(broker, records, status).taken == list(range(11))
    assert said(caplog) == ["the volume is full"]


def test_it_is_said_once_also_where_some_is_taken_in_between(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Its own position alone comes first, which is no progress.
    monkeypatch.setattr(follow, "MESSAGES", 1)
    status = Status()
    assert run(broker, Records(message(3), refuse=[4, 4, 4]), status).taken == [4, 5, 6, 7, 8, 9]
    assert said(caplog) == ["the volume is full"]
    assert status.error is None


def test_lines_that_cannot_be_written_end_it_before_its_message(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "MESSAGES", 1)
    records = Records(fail_at=6)
    with pytest.raises(OSError, match="No space"):
        run(broker, records)
    assert records.position is not None
    assert records.position.offset == 5
    records.fail_at = None
    assert run(broker, records).taken == list(range(10))


def test_a_stop_while_the_broker_is_away_ends_it(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def refuse(*_: object) -> FakeLog:
        tries.append(1)
        if len(tries) == 3:
            broker.stop._flag = True
        raise Unavailable("refused")

    monkeypatch.setattr(follow, "Log", refuse)
    assert run(broker).taken == []
    assert len(tries) == 3


def test_attention_is_looked_for_once_it_has_caught_up(broker: Broker) -> None:
    status = Status()
    assert run(broker, status=status).looks == 1
    assert (status.caught_up, status.connected, status.lag_events) == (True, False, 0)
    assert run(broker, Records(message(9))).looks == 1


def test_a_broker_that_is_slow_is_not_taken_for_the_end_of_the_log(broker: Broker) -> None:
    broker.pauses = [3, 6]
    looked_at: list[int] = []

    class Looked(Records):
        def look(self) -> None:
            looked_at.append(len(self.taken))

    records = run(broker, Looked())
    assert (records.batches, looked_at) == ([4, 3, 3], [10])


def test_far_behind_it_is_not_caught_up(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "MESSAGES", 1)
    seen: list[tuple[bool, int, bool]] = []

    class Slow(Records):
        def take(self, messages: list[Message]) -> None:
            super().take(messages)
            seen.append((status.caught_up, status.lag_events, status.lag_seconds > follow.FAR_BEHIND))

    status = Status()
    records = run(broker, Slow(), status)
    # The first is taken before anything is known; the last one is the log's end.
    assert seen[1:] == [(False, left, True) for left in range(9, 0, -1)]
    assert (status.caught_up, status.lag_events, status.lag_seconds) == (True, 0, 0.0)
    assert records.looks == 1


@pytest.mark.parametrize("ahead", [1.0, 3600.0])
def test_a_clock_that_is_ahead_does_not_stand_for_the_end_of_the_log(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    monkeypatch.setattr(follow, "MESSAGES", 1)
    broker.messages = [(offset, body([event("started", time() - BASE + ahead, str(offset))])) for offset in range(10)]
    looked_at: list[list[int]] = []

    class Looked(Records):
        def look(self) -> None:
            looked_at.append(list(self.taken))

    run(broker, Looked())
    assert looked_at == [list(range(10))]


def test_after_an_outage_nothing_is_looked_for_before_the_rest_is_taken(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "LOOK_EVERY", 0.0)
    monkeypatch.setattr(follow, "MESSAGES", 1)
    status = Status(caught_up=True)
    # Not so far behind that it would not count as ready.
    broker.messages = [(offset, body([event("started", time() - BASE - 10, str(offset))])) for offset in range(10)]
    looked_at: list[int] = []

    class Looked(Records):
        def look(self) -> None:
            looked_at.append(len(self.taken))

    run(broker, Looked(), status)
    assert set(looked_at) == {10}


@pytest.mark.parametrize(
    ("text", "stamp"),
    [
        (body(event("started", 5, "a")), 1_700_000_005.0),
        (body([event("started", 5, "a"), event("started", 7.25, "b")]), 1_700_000_007.25),
        (b'{"timestamp":12.5}', 12.5),
        *((text, 0.0) for text in (b"", b"[]", b'{"timestamp": "1"}', b'{"timestamp": NaN}', b'"timestamp":')),
        (b'{"timestamp": 1e400}', 1.0),
        (b'{"timestamp": ' + b"9" * 400 + b"}", 999_999_999_999.0),
    ],
)
def test_the_time_of_a_message_is_found_without_decoding_it(text: bytes, stamp: float) -> None:
    assert newest(text) == stamp
