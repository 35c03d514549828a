"""What the history forgets, by age and by number."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.monitor.history import retention
from app.monitor.history.filter import Filter
from app.monitor.history.reader import Reader
from app.monitor.history.retention import prune
from app.monitor.history.schema import FILE
from app.monitor.history.store import History
from app.monitor.history.workers import REMEMBERED
from tests.support.events import BASE, event, heartbeat, life, take

DAY = 86_400.0
NO_LIMIT = 10**9


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    made = History(tmp_path)
    yield made
    made.close()


def left(folder: Path, **fields: Any) -> list[str]:
    reader = Reader(folder / FILE)
    try:
        return sorted(one["id"] for one in reader.tasks(Filter(limit=1000, **fields)).tasks)
    finally:
        reader.close()


def checked(history: History) -> None:
    assert history.connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    history.connection.execute("INSERT INTO task_text (task_text, rank) VALUES ('integrity-check', 1)")


def test_what_changed_last_long_ago_goes(history: History, tmp_path: Path) -> None:
    for day in range(10):
        take(history, *life(f"day {day}", day * DAY, args=f"('needle {day}',)", end=("succeeded", "failed")[day % 2]))
    # Begun on the first day, and still of interest.
    take(history, event("sent", 0, "long"), event("succeeded", 9.5 * DAY, "long"))
    assert prune(history, BASE + 10 * DAY, 3, NO_LIMIT) is False
    assert left(tmp_path) == ["day 7", "day 8", "day 9", "long"]
    assert history.tasks == 4
    # What is gone is not found by its text either, and what is there is.
    assert left(tmp_path, text="needle") == ["day 7", "day 8", "day 9"]
    assert history.connection.execute("SELECT count(*) FROM task_text WHERE task_text MATCH 'nee'").fetchone() == (3,)
    assert history.connection.execute("SELECT min(minute) * 60 FROM minute").fetchone()[0] >= BASE + 7 * DAY - 60
    checked(history)


def test_of_too_many_the_oldest_go(history: History, tmp_path: Path) -> None:
    for number in range(20):
        take(history, *life(f"{number:02}", number * 60))
    assert prune(history, BASE + 3600, 30, 5) is False
    assert left(tmp_path) == ["15", "16", "17", "18", "19"]
    assert history.tasks == 5
    checked(history)


def test_both_at_once(history: History, tmp_path: Path) -> None:
    for day in range(10):
        take(history, *life(f"day {day}", day * DAY))
    prune(history, BASE + 10 * DAY, 5, 2)
    assert left(tmp_path) == ["day 8", "day 9"]
    assert history.tasks == 2


def test_a_great_many_go_a_piece_at_a_time(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "AT_ONCE", 10)
    take(history, *(one for number in range(35) for one in life(str(number), number)))
    rounds = 1
    while prune(history, BASE + DAY, 30, 5):
        rounds += 1
    assert (rounds, history.tasks) == (4, 5)
    take(history, *(one for number in range(100, 125) for one in life(str(number), number)))
    while prune(history, BASE + 100 * DAY, 30, NO_LIMIT):
        pass
    assert history.tasks == 0
    checked(history)


def test_a_task_that_comes_back_begins_anew(history: History, tmp_path: Path) -> None:
    take(history, *life("a", args="('old',)"))
    prune(history, BASE + 100 * DAY, 30, NO_LIMIT)
    take(history, event("received", 100 * DAY, "a", args="('new',)"))
    assert left(tmp_path, text="old") == []
    assert left(tmp_path, text="new") == ["a"]
    checked(history)


def test_forgetting_that_fails_forgets_nothing(history: History, tmp_path: Path) -> None:
    take(history, *life("a"))
    history.connection.execute("CREATE TRIGGER no BEFORE DELETE ON task BEGIN SELECT raise(ABORT, 'no'); END")
    with pytest.raises(sqlite3.DatabaseError):
        prune(history, BASE + 100 * DAY, 30, NO_LIMIT)
    assert history.tasks == 1
    history.connection.execute("DROP TRIGGER no")
    assert left(tmp_path) == ["a"]
    checked(history)


def test_workers_that_fell_silent_go_after_a_day(history: History, tmp_path: Path) -> None:
    take(history, heartbeat(0, "celery@old"), heartbeat(DAY, "celery@new"))
    prune(history, BASE + REMEMBERED + 10, 30, NO_LIMIT)
    assert list(history.workers.known) == ["celery@new"]
    reader = Reader(tmp_path / FILE)
    assert [one["name"] for one in reader.workers()] == ["celery@new"]
    reader.close()


def test_a_mass_of_workers_is_bounded(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.monitor.history.workers.LIMIT", 10)
    take(history, *(heartbeat(number, f"pod-{number:02}") for number in range(25)))
    prune(history, BASE + 30, 30, NO_LIMIT)
    assert sorted(history.workers.known) == [f"pod-{number}" for number in range(15, 25)]
    assert history.connection.execute("SELECT count(*) FROM worker").fetchone() == (10,)
