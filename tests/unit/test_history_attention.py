"""Tasks that need attention: found once, and taken back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.monitor.history import attention
from app.monitor.history.attention import RUNS_LEAST, Attention, Limits
from app.monitor.history.filter import Filter
from app.monitor.history.reader import Reader
from app.monitor.history.schema import FILE
from app.monitor.history.store import History
from tests.support.events import BASE, WORKER, Event, event, heartbeat, life, take

LIMITS = Limits(unclaimed_after=300, time_limit=1000, factor=10, time_limits={"quick": 100, "heavy": 5000})
TWO = "celery@two"


class Watch:
    """A history, what is looked for in it, and who is silent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.history = History(folder)
        self.silent: set[str] = set()
        self.unknown = False
        self.attention = Attention(self.history, LIMITS, self.beats)

    def beats(self, name: str) -> bool | None:
        return None if self.unknown else name not in self.silent

    def take(self, *events: Event) -> None:
        take(self.history, *events)

    def look(self, at: float) -> list[tuple[str, str | None]]:
        """What is announced: types and ids."""
        told = self.history.transaction(lambda: self.attention.look(BASE + at))
        assert all(one.offset == -1 and one.task is not None for one in told)
        return [(one.event.type.removeprefix("task-"), one.event.uuid) for one in told]

    def task(self, id_: str) -> dict[str, Any]:
        reader = Reader(self.folder / FILE)
        try:
            found = reader.task(id_)
            assert found is not None
            return found
        finally:
            reader.close()

    def states(self, id_: str) -> list[str]:
        return [step["state"] for step in self.task(id_)["steps"]]


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    made = Watch(tmp_path)
    yield made
    made.history.close()


def sent(at: float = 0, id_: str = "a", **fields: Any) -> Event:
    return event("sent", at, id_, "gen1@client", name="app.tasks.add", queue="mail", **fields)


# --- unclaimed


def test_a_task_that_nobody_takes(watch: Watch) -> None:
    watch.take(sent())
    assert watch.look(300) == []
    assert watch.look(301) == [("unclaimed", "a")]
    assert watch.look(302) == []
    assert watch.attention.counts() == {"unclaimed": 1, "stalled": 0, "orphaned": 0}
    shown = watch.task("a")
    assert (shown["state"], shown["attention"], shown["attention_since"]) == (
        "PENDING",
        "unclaimed",
        "2023-11-14T22:18:21.000Z",
    )
    watch.take(event("received", 400, "a"))
    assert watch.task("a")["attention"] is None
    assert watch.attention.counts()["unclaimed"] == 0
    assert watch.states("a") == ["PENDING", "UNCLAIMED", "RECEIVED"]
    assert watch.look(1000) == []


def test_a_task_for_later_is_not_missed_before_its_time(watch: Watch) -> None:
    watch.take(sent(eta="2023-11-14T22:23:20+00:00"))
    assert watch.look(899) == []
    assert watch.look(901) == [("unclaimed", "a")]


def test_sending_again_takes_it_back(watch: Watch) -> None:
    watch.take(sent())
    watch.look(301)
    watch.take(sent(400))
    assert watch.task("a")["attention"] is None
    assert watch.look(500) == []
    assert watch.look(701) == [("unclaimed", "a")]


def test_a_requeued_task_may_be_missed(watch: Watch) -> None:
    watch.take(*life("a", end="started"), event("rejected", 10, "a", requeue=True))
    assert watch.look(309) == []
    assert watch.look(311) == [("unclaimed", "a")]


def test_another_try_may_be_missed(watch: Watch) -> None:
    # As Celery tells it: sent again with its time, and then that it was.
    again = sent(2, retries=1, eta="2023-11-14T22:14:20+00:00")
    watch.take(*life("a", end="started"), again, event("retried", 3, "a", exception="ValueError()"))
    assert watch.task("a")["state"] == "RETRY"
    assert watch.look(359) == []
    assert watch.look(361) == [("unclaimed", "a")]
    assert (watch.task("a")["state"], watch.task("a")["attention"]) == ("RETRY", "unclaimed")
    watch.take(event("received", 400, "a", retries=1))
    assert watch.task("a")["attention"] is None
    assert watch.look(1000) == []


def test_another_try_that_was_not_heard_of_being_sent_is_not_missed(watch: Watch) -> None:
    watch.take(*life("a", end="started"), event("retried", 3, "a"))
    assert watch.look(1_000_000) == []
    # Nor is it with the word of its first sending, if that comes late; with that of the second it is.
    watch.take(*life("b", end="started")[1:], event("retried", 3, "b"), sent(0, "b"))
    assert watch.look(1_000_000) == []
    watch.take(sent(2.5, retries=1))
    assert watch.look(303) == [("unclaimed", "a")]


def test_a_mass_of_them_is_found_a_piece_at_a_time(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "AT_ONCE", 10)
    watch.take(*(sent(number / 100, str(number)) for number in range(25)))
    found = [watch.look(1000) for _ in range(4)]
    assert [len(one) for one in found] == [10, 10, 5, 0]
    assert len({id_ for one in found for _, id_ in one}) == 25


# --- orphaned


def test_a_mass_of_orphans_is_found_a_piece_at_a_time(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "AT_ONCE", 10)
    watch.take(*(one for number in range(25) for one in life(str(number), number / 100, "received")))
    watch.silent.add(WORKER)
    found = [watch.look(10) for _ in range(4)]
    assert [len(one) for one in found] == [10, 10, 5, 0]
    assert len({id_ for one in found for _, id_ in one}) == 25


@pytest.mark.parametrize("end", ["received", "started"])
def test_a_task_whose_worker_fell_silent(watch: Watch, end: str) -> None:
    watch.take(heartbeat(0), *life("a", end=end))
    assert watch.look(10) == []
    watch.silent.add(WORKER)
    assert watch.look(11) == [("orphaned", "a")]
    assert watch.look(12) == []
    assert watch.task("a")["attention"] == "orphaned"
    # Redelivered to another worker.
    watch.take(event("received", 40, "a", TWO), event("started", 41, "a", TWO), event("succeeded", 42, "a", TWO))
    shown = watch.task("a")
    assert (shown["attention"], shown["attempts"], shown["worker"]) == (None, 2, TWO)
    steps = [(step["state"], step["worker"], step["note"]) for step in shown["steps"]][-5:]
    assert steps == [
        *([("STARTED", WORKER, None)] if end == "started" else [("RECEIVED", WORKER, None)]),
        ("ORPHANED", WORKER, None),
        ("RECEIVED", TWO, "attempt 2"),
        ("STARTED", TWO, None),
        ("SUCCESS", TWO, None),
    ]


def test_a_worker_that_is_heard_again_takes_it_back(watch: Watch) -> None:
    watch.take(heartbeat(0), *life("a", end="started"))
    watch.silent.add(WORKER)
    watch.look(11)
    watch.silent.clear()
    assert watch.look(12) == []
    assert watch.task("a")["attention"] is None
    watch.silent.add(WORKER)
    assert watch.look(13) == [("orphaned", "a")]


def test_a_worker_that_began_anew_has_lost_what_it_ran(watch: Watch) -> None:
    watch.take(heartbeat(0, kind="online"), *life("a", end="started"), heartbeat(2, active=1))
    assert watch.look(3) == []
    watch.take(heartbeat(5, kind="online", active=0, processed=0))
    assert watch.look(6) == [("orphaned", "a")]
    watch.take(event("received", 7, "a"), event("started", 8, "a"))
    assert watch.look(9) == []
    assert watch.task("a")["attempts"] == 2


def test_a_worker_that_found_its_broker_again_has_not(watch: Watch) -> None:
    watch.take(heartbeat(0, kind="online"), *life("a", end="started"), heartbeat(2, active=1))
    watch.take(heartbeat(5, kind="online", active=1, processed=5))
    assert watch.look(6) == []


def test_a_worker_of_whom_only_tasks_are_known(watch: Watch) -> None:
    watch.take(*life("a", end="started"))
    assert watch.look(5) == []


@pytest.mark.parametrize("end", ["succeeded", "failed", "revoked", "rejected", "retried"])
def test_who_is_silent_does_not_matter_to_what_ended(watch: Watch, end: str) -> None:
    watch.take(*life("a", end=end))
    watch.silent.add(WORKER)
    assert watch.look(50) == []


# --- stalled


@pytest.mark.parametrize(("queue", "limit"), [("quick", 100), ("default", 1000), ("heavy", 5000)])
def test_the_limit_is_that_of_the_tasks_queue(watch: Watch, queue: str, limit: int) -> None:
    watch.take(heartbeat(0), *life("a", end="started", queue=queue))
    assert watch.look(limit + 1) == []
    assert watch.look(limit + 40) == [("stalled", "a")]


def test_a_task_that_runs_past_its_time_limit(watch: Watch) -> None:
    watch.take(heartbeat(0), *life("a", end="started"))
    assert watch.look(1001) == []
    assert watch.look(1040) == [("stalled", "a")]
    assert watch.look(1041) == []
    assert watch.task("a")["attention"] == "stalled"
    watch.take(event("succeeded", 1050, "a"))
    assert watch.task("a")["attention"] is None
    assert watch.states("a")[-2:] == ["STALLED", "SUCCESS"]


def test_a_task_that_runs_far_longer_than_its_name_usually_does(watch: Watch) -> None:
    watch.take(*(one for number in range(RUNS_LEAST) for one in life(f"usual {number}", number, runtime=10)))
    watch.take(heartbeat(0), *life("a", 100, end="started"))
    assert watch.look(100 + 99) == []
    assert watch.look(100 + 102) == [("stalled", "a")]


def test_a_few_runs_tell_nothing(watch: Watch) -> None:
    watch.take(*(one for number in range(RUNS_LEAST - 1) for one in life(f"usual {number}", number, runtime=1)))
    watch.take(*life("a", 100, end="started"))
    assert watch.look(900) == []


def test_a_quick_task_may_take_a_minute_for_once(watch: Watch) -> None:
    watch.take(*(one for number in range(RUNS_LEAST) for one in life(f"usual {number}", number, runtime=0.001)))
    watch.take(*life("a", 100, end="started"))
    assert watch.look(155) == []
    assert watch.look(170) == [("stalled", "a")]


def test_a_stalled_task_whose_worker_falls_silent_is_orphaned(watch: Watch) -> None:
    watch.take(*life("a", end="started"))
    watch.look(1040)
    watch.silent.add(WORKER)
    assert watch.look(1050) == [("orphaned", "a")]
    assert watch.attention.counts() == {"unclaimed": 0, "stalled": 0, "orphaned": 1}


# --- all of them


def test_a_restart_announces_nothing_again(watch: Watch) -> None:
    watch.take(sent(), *life("b", end="started"), heartbeat(0))
    watch.silent.add(WORKER)
    assert sorted(watch.look(400)) == [("orphaned", "b"), ("unclaimed", "a")]
    watch.history.close()
    again = Watch(watch.folder)
    again.silent.add(WORKER)
    assert again.look(500) == []
    watch.history = again.history


def test_nothing_is_found_nor_taken_back_while_workers_cannot_be_heard(watch: Watch) -> None:
    watch.take(*life("a", end="started"), *life("b", end="started", worker=TWO), *life("c", 1200, end="started"))
    watch.silent.add(TWO)
    assert sorted(watch.look(1040)) == [("orphaned", "b"), ("stalled", "a")]
    # After an outage: what "c" had to tell may be on its way.
    watch.unknown = True
    assert watch.look(3000) == []
    watch.unknown = False
    assert [watch.task(id_)["attention"] for id_ in "abc"] == ["stalled", "orphaned", None]
    assert watch.look(3001) == [("stalled", "c")]


def test_the_search_by_attention(watch: Watch) -> None:
    watch.take(sent(), *life("b", end="started"), *life("c"))
    watch.look(1040)
    reader = Reader(watch.folder / FILE)
    found = {
        wanted: sorted(one["id"] for one in reader.tasks(Filter(attention=(wanted,))).tasks)
        for wanted in ("any", "unclaimed", "stalled", "orphaned")
    }
    assert found == {"any": ["a", "b"], "unclaimed": ["a"], "stalled": ["b"], "orphaned": []}
    assert reader.counts()["attention"] == {"unclaimed": 1, "stalled": 1, "orphaned": 0}
    reader.close()
