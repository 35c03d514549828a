"""What waits for handlers: positions, bounds, removal."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from time import time

import pytest

from app.monitor.handlers import enroll, positions, retire, trim
from app.monitor.handlers.outbox import BATCH, BATCH_SIZE, Outbox
from tests.support.handlers import Outgoing, event


@pytest.fixture
def outgoing(tmp_path: Path) -> Iterator[Outgoing]:
    made = Outgoing(tmp_path / "monitor")
    yield made
    made.close()


def keys(outgoing: Outgoing, name: str) -> list[int]:
    rows = outgoing.connection.execute("SELECT key FROM outbox WHERE handler = ? ORDER BY key", (name,))
    return [key for (key,) in rows]


def test_a_new_handler_starts_from_now(outgoing: Outgoing) -> None:
    assert enroll(outgoing.connection, ["a", "b"], 100) == ("a", "b")
    assert enroll(outgoing.connection, ["a", "c"], 200) == ("c",)
    assert positions(outgoing.connection) == {"a": 100, "b": 100, "c": 200}


def test_numbers_of_a_rebuilt_history_go_on(tmp_path: Path) -> None:
    before = Outgoing(tmp_path / "one", "a")
    before.put("a", *(event(number) for number in range(1000)))
    last = keys(before, "a")[-1]
    # It begins with today's microseconds, and is exact as JavaScript's numbers are.
    assert time() * 1e6 - 3600e6 < last < 2**53
    before.close()
    after = Outgoing(tmp_path / "two", "a")
    after.put("a", event())
    assert keys(after, "a")[0] > last
    # And does not jump when handlers come.
    enroll(after.connection, ["b"], 5)
    after.put("a", event())
    one, two = keys(after, "a")
    assert two == one + 1
    after.close()


def test_what_waits_too_long_is_dropped_from_its_old_end(outgoing: Outgoing) -> None:
    for number in range(30):
        outgoing.put("a", event(number))
        outgoing.put("b", event(number))
    all_of_a = keys(outgoing, "a")
    assert trim(outgoing.connection, "a", bound=30) == 0
    assert trim(outgoing.connection, "a", bound=10) == 20
    assert keys(outgoing, "a") == all_of_a[20:]
    assert trim(outgoing.connection, "a", bound=10) == 0
    assert len(keys(outgoing, "b")) == 30
    assert trim(outgoing.connection, "nobody", bound=10) == 0


def test_handlers_that_are_gone_are_removed_with_a_line(outgoing: Outgoing, caplog: pytest.LogCaptureFixture) -> None:
    enroll(outgoing.connection, ["shop.tell", "webhook", "command"], 0)
    for name in ("shop.tell", "webhook", "command"):
        outgoing.put(name, event(1), event(2))
    with caplog.at_level(logging.INFO, logger="warren.monitor"):
        assert retire(outgoing.connection, ("webhook",)) == ("command", "shop.tell")
        assert caplog.messages == [
            "removed handlers that are no longer registered: command (2 events waited), shop.tell (2 events waited)"
        ]
        assert retire(outgoing.connection, ("webhook",)) == ()
    assert len(caplog.messages) == 1
    assert positions(outgoing.connection) == {"webhook": 0}
    assert [outgoing.waiting(name) for name in ("shop.tell", "webhook", "command")] == [0, 2, 0]


def test_large_events_are_read_a_few_at_a_time(outgoing: Outgoing) -> None:
    outgoing.put("a", *(event(number, traceback="x" * (BATCH_SIZE // 4)) for number in range(10)))
    outbox = Outbox(outgoing.path, "a")
    rows = outbox.read(0)
    assert len(rows) == 4
    assert len(outbox.read(rows[-1][0])) == 4
    outbox.close()


def test_rows_are_read_and_removed_in_order(outgoing: Outgoing) -> None:
    outgoing.put("a", *(event(number) for number in range(BATCH + 10)))
    outgoing.put("b", event())
    outbox = Outbox(outgoing.path, "a")
    rows = outbox.read(0)
    assert [key for key, _ in rows] == keys(outgoing, "a")[:BATCH]
    outbox.delete(rows[-1][0])
    assert len(outbox.read(0)) == outgoing.waiting("a") == 10
    assert outgoing.waiting("b") == 1
    outbox.close()


def test_a_file_in_its_place_is_noticed(outgoing: Outgoing) -> None:
    outbox = Outbox(outgoing.path, "a")
    assert not outbox.moved()
    outgoing.path.rename(outgoing.path.with_suffix(".aside"))
    assert outbox.moved()
    outgoing.path.touch()
    assert outbox.moved()
    outbox.close()
