"""Workers, as their own events tell of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import time

import pytest

from app.monitor.history.reader import ALIVE, Reader
from app.monitor.history.schema import FILE
from app.monitor.history.store import History
from app.monitor.history.workers import Worker
from tests.support.events import BASE, WORKER, event, heartbeat, take


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    made = History(tmp_path)
    yield made
    made.close()


def known(history: History) -> Worker:
    return history.workers.known[WORKER]


def test_a_heartbeat_tells_how_it_is(history: History) -> None:
    take(history, heartbeat(1, active=3, processed=9))
    assert known(history) == Worker(
        name=WORKER, heartbeat=BASE + 1, active=3, processed=9, pid=7, software="py-celery 5.7.0", load="0.50 0.25 0.10"
    )


def test_older_news_change_nothing(history: History) -> None:
    take(history, heartbeat(5, processed=9), heartbeat(3, processed=8), heartbeat(4, kind="offline"))
    assert (known(history).processed, known(history).gone) == (9, False)


def test_goodbye_and_return(history: History) -> None:
    take(history, heartbeat(1, kind="online"), heartbeat(2, active=2), heartbeat(3, kind="offline"))
    assert (known(history).gone, known(history).active, known(history).online) == (True, 0, BASE + 1)
    take(history, heartbeat(4))
    assert known(history).gone is False


def test_a_new_process_of_the_same_name_is_noticed(history: History) -> None:
    take(history, heartbeat(1, kind="online"), heartbeat(2, active=1))
    # In a container each process has the same number.
    take(history, heartbeat(9, kind="online", active=0, processed=0))
    assert known(history).online == BASE + 9
    # And its "online" may be lost with the connection.
    take(history, heartbeat(12, pid=8))
    assert known(history).online == BASE + 12


def test_a_process_that_found_its_broker_again_is_not_new(history: History) -> None:
    take(history, heartbeat(1, kind="online"), heartbeat(2, active=1, processed=4))
    take(history, heartbeat(9, kind="online", active=1, processed=4))
    assert known(history).online == BASE + 1


def test_the_table_is_what_is_known(history: History, tmp_path: Path) -> None:
    take(history, heartbeat(1, kind="online"), heartbeat(2, "celery@two", kind="offline"), event("started", 3, "a"))
    history.close()
    again = History(tmp_path)
    assert again.workers.known == history.workers.known
    assert set(again.workers.known) == {WORKER, "celery@two"}
    again.close()


def test_how_workers_are_shown(history: History, tmp_path: Path) -> None:
    now = time()
    take(
        history,
        heartbeat(now - 30, "a", kind="online"),
        heartbeat(now - 1, "a", active=2),
        heartbeat(now - ALIVE - 5, "b"),
        heartbeat(now - 1, "c", kind="offline"),
        heartbeat(now - 1, "d", loadavg=None, sw_ident=None, active=None, processed=None, pid=None),
    )
    reader = Reader(tmp_path / FILE)
    shown = {one["name"]: one for one in reader.workers()}
    reader.close()
    assert {name: one["alive"] for name, one in shown.items()} == {"a": True, "b": False, "c": False, "d": True}
    assert (shown["a"]["active"], shown["a"]["load"], shown["a"]["software"]) == (
        2,
        [0.5, 0.25, 0.1],
        "py-celery 5.7.0",
    )
    assert shown["a"]["since"] is not None
    assert [shown["d"][field] for field in ("active", "processed", "pid", "software", "load", "since")] == [None] * 6
