"""When a worker ends itself; with one that hangs in tests/integration/test_health.py."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest
from celery.concurrency.prefork import TaskPool
from celery.concurrency.thread import TaskPool as ThreadPool

from app import health, watchdog
from app.watchdog import Watchdog


def worker(pool: type = TaskPool) -> SimpleNamespace:
    return SimpleNamespace(pool_cls=pool)


@pytest.fixture
def ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Event:
    """Set when a worker is ended; it has no time to wait for."""
    found = Event()
    monkeypatch.setattr(watchdog, "folder", lambda: tmp_path)
    monkeypatch.setattr(watchdog, "LOOK", 0.001)
    monkeypatch.setattr(watchdog, "PATIENCE", 0.0)
    monkeypatch.setattr(watchdog, "end", lambda _: found.set())
    return found


def test_one_that_does_not_tick_is_ended(ends: Event) -> None:
    Watchdog(worker()).start(worker())
    assert ends.wait(30)


def test_one_that_ticks_goes_on(ends: Event, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Event()
    times = iter(range(100))

    def alive(_: str) -> bool:
        if next(times, None) is None:
            looks.set()
        return True

    monkeypatch.setattr(health, "alive", alive)
    step = Watchdog(worker())
    step.start(worker())
    assert looks.wait(30)
    step.close(worker())
    assert not ends.is_set()


def test_patience_begins_anew_with_each_tick(ends: Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a suspended host wakes up, the first tick is yet to come."""
    monkeypatch.setattr(watchdog, "PATIENCE", 3600.0)
    looks = Event()
    answers = iter([False, True] * 50)

    def alive(_: str) -> bool:
        answer = next(answers, None)
        if answer is None:
            looks.set()
        return bool(answer)

    monkeypatch.setattr(health, "alive", alive)
    step = Watchdog(worker())
    step.start(worker())
    assert looks.wait(30)
    step.stop(worker())
    assert not ends.is_set()


def test_one_that_is_told_to_stop_is_left_to_who_told_it(ends: Event) -> None:
    step = Watchdog(worker())
    step.close(worker())
    step._watch(worker())
    assert not ends.is_set()


@pytest.mark.parametrize(("pool", "watched"), [(TaskPool, True), (ThreadPool, False)])
def test_pools_that_may_run_tasks_in_the_loop_are_not_watched(pool: type, watched: bool) -> None:
    assert Watchdog(worker(pool)).include_if(worker(pool)) is watched


def test_a_log_that_nobody_reads_does_not_keep_it_from_ending() -> None:
    code = (
        "import logging, threading, types; from app import watchdog;"
        "watchdog.LAST_WORDS = 0.1; watchdog.say = threading.Event().wait;"
        "watchdog.end(types.SimpleNamespace(pool=types.SimpleNamespace(_pool=types.SimpleNamespace(_pool=[]))))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 1


def test_its_last_words(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    watchdog.say()
    assert "the event loop has stood still too long" in caplog.text
