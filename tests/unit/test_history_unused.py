"""Names that nothing has any more, and those that something still has."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.monitor.history import unused
from app.monitor.history.reader import Reader
from app.monitor.history.retention import prune
from app.monitor.history.schema import FILE
from app.monitor.history.store import History
from tests.support.events import BASE, event, heartbeat, life, take

DAY = 86_400.0
NO_LIMIT = 10**9


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[History]:
    monkeypatch.setattr(unused, "FEW", 0)
    # Each piece of the work by itself, so that what happens between two of them is seen.
    for bound in ("SOME", "TASKS", "MINUTES", "AT_ONCE"):
        monkeypatch.setattr(unused, bound, 3)
    made = History(tmp_path)
    yield made
    made.close()


def words(history: History) -> set[str]:
    return {text for (text,) in history.connection.execute("SELECT text FROM word")}


def sweep(history: History, now: float = BASE, keep_days: float = 30) -> None:
    """Until every word was looked for, whatever the last sweep had begun."""
    for _ in range(100):
        prune(history, now, keep_days, NO_LIMIT)


def newest(history: History, name: str = "newest") -> None:
    """The newest word, which always stays."""
    take(history, event("received", 0, "newest", name))


def test_senders_and_workers_of_forgotten_tasks_go(history: History) -> None:
    for number in range(20):
        at = number * DAY
        take(history, event("sent", at, str(number), f"gen{number}@web", name="shop.pay", queue="mail"))
        take(history, event("received", at + 1, str(number), f"celery@{number}"))
    sweep(history, BASE + 19 * DAY + 60, 3.5)
    kept = {text for number in (16, 17, 18, 19) for text in (f"gen{number}@web", f"celery@{number}")}
    assert words(history) == {"shop.pay", "mail", *kept}


def test_what_a_task_has_in_any_place_stays(history: History, tmp_path: Path) -> None:
    take(history, event("sent", 0, "a", "gen@web", name="shop.pay", queue="mail"))
    take(history, event("received", 1, "a", "celery@first"), event("received", 9, "a", "celery@second"))
    newest(history)
    before = words(history)
    sweep(history)
    assert words(history) == before == {"gen@web", "shop.pay", "mail", "celery@first", "celery@second", "newest"}
    reader = Reader(tmp_path / FILE)
    assert [step["worker"] for step in (reader.task("a") or {})["steps"]] == [None, "celery@first", "celery@second"]
    reader.close()


def test_a_name_that_only_a_chart_has_stays(history: History) -> None:
    take(history, *life("a", name="shop.pay", worker="celery@gone"))
    newest(history)
    history.connection.execute("DELETE FROM task WHERE key = 1")
    sweep(history)
    assert words(history) == {"shop.pay", "newest"}


@pytest.mark.parametrize("moment", range(40))
def test_what_is_heard_again_meanwhile_stays(history: History, moment: int) -> None:
    """At any moment of a sweep, which takes some ten pieces here, and with a number that the writer has at hand."""
    take(history, event("received", 0, "gone", "celery@again"))
    take(history, *(one for number in range(8) for one in life(str(number), 60 * number, worker=f"celery@{number}")))
    history.connection.execute("DELETE FROM task WHERE key = 1")
    for _ in range(moment):
        prune(history, BASE, 30, NO_LIMIT)
    there = "celery@again" in words(history)
    take(history, event("received", moment, "new", "celery@again"))
    sweep(history)
    assert there or moment > 5
    task = "SELECT text FROM task JOIN word ON word.key = task.worker WHERE task.id = 'new'"
    assert history.connection.execute(task).fetchall() == [("celery@again",)]


def test_a_number_is_never_given_out_again(history: History) -> None:
    take(history, *(event("received", 0, str(number), f"celery@{number}") for number in range(10)))
    (last,) = history.connection.execute("SELECT max(key) FROM word").fetchone()
    history.connection.execute("DELETE FROM task")
    sweep(history)
    assert words(history) == {"celery@9"}
    take(history, event("received", 0, "a", "celery@new"))
    assert history.connection.execute("SELECT worker FROM task").fetchall() == [(last + 1,)]


def test_what_is_forgotten_and_then_is_not_keeps_its_names(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    take(history, *(event("received", number, str(number), f"celery@{number}") for number in range(9)))
    newest(history)
    before = words(history)

    monkeypatch.setattr(unused, "SOME", 100)

    def full() -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(history.workers, "flush", full)
        with pytest.raises(sqlite3.OperationalError):
            prune(history, BASE + 100 * DAY, 30, NO_LIMIT)
    assert history.tasks == 10
    sweep(history)
    assert words(history) == before


def test_where_there_are_few_nothing_is_looked_for(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unused, "FEW", 10)
    take(history, *(event("received", 0, str(number), f"celery@{number}") for number in range(10)))
    history.connection.execute("DELETE FROM task")
    sweep(history)
    assert len(words(history)) == 10
    take(history, heartbeat(0), event("received", 0, "a", "celery@11"))
    sweep(history)
    assert words(history) <= {"celery@11"} | {f"celery@{number}" for number in range(10)}
    assert len(words(history)) <= 10
