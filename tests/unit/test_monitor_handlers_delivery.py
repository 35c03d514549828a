"""How waiting events reach handlers: in order, each handler at its own pace, again and again until it works."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event as Flag
from typing import Any

import pytest

from app.eventlog import Stop
from app.monitor.handlers import Delivery, Handler, HandlerStats, Registry
from app.monitor.handlers.delivery import NOTE_EVERY, RETRY_LIMIT, Seldom
from app.monitor.handlers.outbox import BATCH
from app.monitor.handlers.registry import FIELDS
from tests.support.eventually import eventually
from tests.support.handlers import Outgoing, event, handler

Start = Callable[..., Delivery]


class Pauses:
    """Waits for nothing, and notes how long it should have been."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


class Taker:
    """A handler that keeps what it gets; the first attempts at an event in ``fails`` fail."""

    def __init__(self, fails: dict[int, int] | None = None) -> None:
        self.fails = dict(fails or {})
        self.got: list[dict[str, Any]] = []
        self.attempts: list[int] = []

    def __call__(self, event: dict[str, Any]) -> None:
        number = event["number"]
        self.attempts.append(number)
        if self.fails.get(number, 0) > 0:
            self.fails[number] -= 1
            raise ConnectionError("nobody\nis there")
        self.got.append(event)

    @property
    def numbers(self) -> list[int]:
        return [event["number"] for event in self.got]


@pytest.fixture
def outgoing(tmp_path: Path) -> Iterator[Outgoing]:
    made = Outgoing(tmp_path / "monitor", "a", "b")
    yield made
    made.close()


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
def start(outgoing: Outgoing, pauses: Pauses) -> Iterator[Start]:
    """Starts delivery to handlers; all of it is stopped when the test is over."""
    running: list[Delivery] = []

    def go(*handlers: Handler) -> Delivery:
        made = Delivery(outgoing.path, Registry(handlers), Stop(), pauses)
        running.append(made)
        made.start()
        return made

    yield go
    for one in running:
        one.stop(10)


def put(outgoing: Outgoing, delivery: Delivery, name: str, *numbers: int) -> None:
    outgoing.put(name, *(event(number) for number in numbers))
    delivery.wake([name])


def test_events_come_in_order_and_once(outgoing: Outgoing, start: Start) -> None:
    taker = Taker()
    outgoing.put("a", *(event(number) for number in range(NOTE_EVERY * 3)))
    delivery = start(handler("a", taker))
    put(outgoing, delivery, "a", *range(NOTE_EVERY * 3, NOTE_EVERY * 3 + 50))
    eventually(lambda: len(taker.got) == NOTE_EVERY * 3 + 50, 20, "all have come")
    # A row goes when its delivery is noted, a second later at most.
    eventually(lambda: outgoing.waiting("a") == 0, 20, "all is noted")
    assert taker.numbers == list(range(NOTE_EVERY * 3 + 50))
    numbers = [event["delivery"] for event in taker.got]
    assert numbers == sorted(set(numbers))
    assert delivery.stats() == {"a": HandlerStats(NOTE_EVERY * 3 + 50, 0, 0, 0, 0, None)}


def test_an_event_has_every_field(outgoing: Outgoing, start: Start) -> None:
    taker = Taker()
    outgoing.put("a", {"type": "worker-offline", "worker": "w@h", "number": 1, "more": [2]})
    start(handler("a", taker))
    (got,) = eventually(lambda: taker.got, 20)
    assert set(got) == {*FIELDS, "number", "more"}
    assert {name for name in FIELDS if got[name] is not None} == {"type", "worker", "delivery"}


def test_each_handler_gets_its_own(outgoing: Outgoing, start: Start) -> None:
    one, two = Taker(), Taker()
    delivery = start(handler("a", one), handler("b", two))
    put(outgoing, delivery, "a", 1, 2)
    put(outgoing, delivery, "b", 3)
    put(outgoing, delivery, "a", 4)
    eventually(lambda: len(one.got) == 3 and len(two.got) == 1, 20)
    assert one.numbers == [1, 2, 4]
    assert two.numbers == [3]


def test_a_failing_handler_delays_nobody_else_and_misses_nothing(
    outgoing: Outgoing, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    down = Flag()
    down.set()

    def failing(event: dict[str, Any]) -> None:
        if down.is_set():
            event.clear()
            raise ConnectionError("nobody\nis there")
        taker(event)

    taker, other = Taker(), Taker()
    with caplog.at_level(logging.INFO, logger="warren.monitor"):
        delivery = start(handler("a", failing), handler("b", other))
        put(outgoing, delivery, "a", *range(10))
        put(outgoing, delivery, "b", *range(10))
        eventually(lambda: len(other.got) == 10, 20, "the other one has all of its own")
        failed = eventually(lambda: delivery.stats()["a"].failed, 20, "it has failed")
        assert delivery.stats()["a"].waiting == 10
        assert "ConnectionError: nobody is there" in (delivery.stats()["a"].last_error or "")
        # More comes meanwhile.
        put(outgoing, delivery, "a", *range(10, 20))
        eventually(lambda: delivery.stats()["a"].failed > failed, 20, "it is tried again")
        down.clear()
        eventually(lambda: len(taker.got) == 20, 20, "all that was missed has come")
        eventually(lambda: any("works again" in line for line in caplog.messages), 20)
    assert taker.numbers == list(range(20))
    assert delivery.stats()["a"].last_error is None
    # One line when it begins to fail, with the place; one when it is over.
    said = [line for line in caplog.messages if "handler a" in line]
    assert len(said) == 2
    assert "handler a failed at task-failed of id-0: ConnectionError: nobody is there (" in said[0]
    assert f"{Path(__file__).name} line " in said[0]
    assert "works again, after" in said[1]


def test_pauses_grow_to_their_limit(outgoing: Outgoing, start: Start, pauses: Pauses) -> None:
    taker = Taker(fails={1: 12})
    delivery = start(handler("a", taker))
    put(outgoing, delivery, "a", 1, 2)
    eventually(lambda: len(taker.got) == 2, 20)
    assert taker.attempts == [1] * 13 + [2]
    assert len(pauses.seconds) == 12
    assert pauses.seconds == sorted(pauses.seconds)
    assert 1 <= pauses.seconds[0] <= 2
    assert pauses.seconds[-1] == RETRY_LIMIT
    # Not all at the same moment after an outage.
    assert any(seconds % 1 for seconds in pauses.seconds[:8])


def test_used_up_retries_give_an_event_up(outgoing: Outgoing, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    taker = Taker(fails={1: 99, 3: 2})
    with caplog.at_level(logging.INFO, logger="warren.monitor"):
        delivery = start(handler("a", taker, retries=2))
        put(outgoing, delivery, "a", 1, 2, 3)
        eventually(lambda: len(taker.got) == 2, 20)
    assert taker.attempts == [1, 1, 1, 2, 3, 3, 3]
    stats = delivery.stats()["a"]
    assert (stats.delivered, stats.failed, stats.given_up) == (2, 5, 1)
    assert any("retries are used up, the event is dropped" in line for line in caplog.messages)
    eventually(lambda: outgoing.waiting("a") == 0, 20, "given up is done with")


def test_no_retries_means_one_attempt(outgoing: Outgoing, start: Start, pauses: Pauses) -> None:
    taker = Taker(fails={1: 99})
    delivery = start(handler("a", taker, retries=0))
    put(outgoing, delivery, "a", 1, 2)
    eventually(lambda: taker.numbers == [2], 20)
    assert taker.attempts == [1, 2]
    assert pauses.seconds == []


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt, GeneratorExit, RecursionError, MemoryError])
def test_whatever_a_handler_raises_is_a_failure(outgoing: Outgoing, start: Start, ending: type[BaseException]) -> None:
    raised: list[int] = []

    def ends(event: dict[str, Any]) -> None:
        if not raised:
            raised.append(1)
            raise ending
        taker(event)

    taker = Taker()
    delivery = start(handler("a", ends))
    put(outgoing, delivery, "a", 1)
    eventually(lambda: taker.numbers == [1], 20)
    assert delivery.stats()["a"].failed == 1


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def test_an_error_that_can_not_be_shown_is_a_failure_too(outgoing: Outgoing, start: Start) -> None:
    attempts: list[int] = []

    def fails(event: dict[str, Any]) -> None:
        attempts.append(event["number"])
        raise Unspeakable

    delivery = start(handler("a", fails, retries=1))
    put(outgoing, delivery, "a", 1, 2)
    eventually(lambda: attempts == [1, 1, 2, 2], 20)
    eventually(lambda: delivery.stats()["a"].given_up == 2, 20)
    assert (delivery.stats()["a"].last_error or "").startswith("Unspeakable (")


def test_a_row_that_is_no_event_holds_nobody_up(
    outgoing: Outgoing, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    taker = Taker()
    outgoing.put_raw("a", "{", "[]", '{"name": 7}', "[" * 100_000, '"\\ud800"')
    outgoing.put("a", event(1, result=float("nan"), exception="\ud800"))
    delivery = start(handler("a", taker))
    eventually(lambda: taker.numbers == [1], 20)
    assert delivery.stats()["a"].given_up == 5
    assert all("\n" not in line and len(line) < 1000 for line in caplog.messages)


def test_a_hanging_handler_delays_nobody_and_not_the_end(outgoing: Outgoing, start: Start) -> None:
    entered, leave = Flag(), Flag()

    def hang(event: dict[str, Any]) -> None:
        entered.set()
        leave.wait()

    other = Taker()
    delivery = start(handler("a", hang), handler("b", other))
    put(outgoing, delivery, "a", 1)
    assert entered.wait(20)
    put(outgoing, delivery, "b", *range(10))
    eventually(lambda: len(other.got) == 10, 20)
    delivery.stop(0.2)
    assert [thread.is_alive() for thread in threads(delivery)] == [True, False]
    # It would not keep the process either.
    assert all(thread.daemon for thread in threads(delivery))
    # What it was given is still there, for the next start; what the other one had is not.
    assert outgoing.waiting("a") == 1
    assert outgoing.waiting("b") == 0
    leave.set()


def threads(delivery: Delivery) -> list[Any]:
    return [courier.thread for courier in delivery._couriers.values()]


def test_a_stop_interrupts_a_pause_and_what_failed_comes_with_the_next_start(outgoing: Outgoing, start: Start) -> None:
    taker = Taker(fails={2: 1})
    # Pauses that only the stop ends.
    delivery = Delivery(outgoing.path, Registry([handler("a", taker)]), Stop())
    delivery._couriers["a"]._pause = lambda _: delivery._wait(1000)
    delivery.start()
    put(outgoing, delivery, "a", 1, 2, 3)
    eventually(lambda: taker.attempts == [1, 2], 20)
    delivery.stop(20)
    assert not threads(delivery)[0].is_alive()
    assert outgoing.waiting("a") == 2
    start(handler("a", taker))
    eventually(lambda: taker.numbers == [1, 2, 3], 20)


def test_progress_is_noted_before_a_pause(outgoing: Outgoing, start: Start) -> None:
    taker = Taker(fails={5: 10**9})
    delivery = start(handler("a", taker))
    put(outgoing, delivery, "a", *range(10))
    eventually(lambda: outgoing.waiting("a") == 5, 20, "the five before it are noted while it fails")


def test_a_handler_is_closed_when_the_end_comes(outgoing: Outgoing, start: Start) -> None:
    entered, closed = Flag(), Flag()

    def work(event: dict[str, Any]) -> None:
        entered.set()
        closed.wait()
        raise OSError("closed")

    wanted = handler("a", work).subscriptions
    delivery = start(Handler("a", work, wanted, closed.set))
    put(outgoing, delivery, "a", 1)
    assert entered.wait(20)
    delivery.stop(1)
    assert closed.is_set()
    threads(delivery)[0].join(20)
    assert outgoing.waiting("a") == 1
    # That the monitor stopped it is no failure of its own.
    assert delivery.stats()["a"].failed == 0


def test_the_writer_can_note_progress_in_its_own_transaction(outgoing: Outgoing, start: Start) -> None:
    entered, leave = Flag(), Flag()

    def second_hangs(event: dict[str, Any]) -> None:
        if event["number"] == 2:
            entered.set()
            leave.wait()

    delivery = start(handler("a", second_hangs), handler("b", Taker()))
    put(outgoing, delivery, "a", 1, 2, 3)
    assert entered.wait(20)
    outgoing.connection.execute("BEGIN IMMEDIATE")
    delivery.settle(outgoing.connection)
    outgoing.connection.execute("COMMIT")
    assert outgoing.waiting("a") == 2
    leave.set()
    eventually(lambda: outgoing.waiting("a") == 0, 20)


def test_progress_in_a_file_that_was_set_aside_is_not_noted_in_the_new_one(outgoing: Outgoing, start: Start) -> None:
    entered, leave = Flag(), Flag()

    def second_hangs(event: dict[str, Any]) -> None:
        if event["number"] == 2:
            entered.set()
            leave.wait()

    delivery = start(handler("a", second_hangs))
    put(outgoing, delivery, "a", 1, 2)
    assert entered.wait(20)
    outgoing.path.rename(outgoing.path.with_suffix(".damaged"))
    rebuilt = Outgoing(outgoing.path.parent, "a")
    # As if the clock had been set back meanwhile.
    rebuilt.connection.execute("UPDATE sqlite_sequence SET seq = 0")
    rebuilt.put("a", event(3), event(4))
    rebuilt.connection.execute("BEGIN IMMEDIATE")
    delivery.settle(rebuilt.connection)
    rebuilt.connection.execute("COMMIT")
    assert rebuilt.waiting("a") == 2
    leave.set()
    eventually(lambda: delivery.stats()["a"].delivered == 4, 20)
    rebuilt.close()


def test_what_is_dropped_is_counted_and_said(
    outgoing: Outgoing, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.monitor.handlers.outbox.trim.__defaults__", (50,))
    taker = Taker(fails={0: 10**9})
    delivery = start(handler("a", taker))
    put(outgoing, delivery, "a", *range(300))
    eventually(lambda: taker.attempts, 20)
    outgoing.connection.execute("BEGIN IMMEDIATE")
    delivery.settle(outgoing.connection)
    outgoing.connection.execute("COMMIT")
    assert delivery.stats()["a"].dropped == 250
    assert any("wait for handler a: dropped the oldest 250" in line for line in caplog.messages)
    # What was read before goes its way; what follows it are the newest.
    taker.fails.clear()
    expected = [*range(BATCH), *range(250, 300)]
    eventually(lambda: taker.numbers == expected, 20, lambda: str(taker.numbers))


def test_lines_come_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("app.monitor.handlers.delivery.monotonic", lambda: now)
    seldom = Seldom(60)
    assert [seldom.now() for _ in range(3)] == [True, False, False]
    now = 1061.0
    assert seldom.now()
    assert seldom.others() == " (2 more since the last line)"
    assert seldom.others() == ""


def test_nothing_to_do_is_no_mistake(start: Start) -> None:
    delivery = start()
    delivery.wake(["a", "nobody"])
    assert delivery.stats() == {}
    never_started = Delivery(Path("/nowhere"), Registry([handler("a", print)]), Stop())
    assert never_started.stats()["a"].waiting == 0
    never_started.stop(1)
