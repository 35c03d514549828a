"""Events go from the receiver's thread to the web server's, and with their place in the log to the file."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import pytest
from celery import Celery
from tornado.ioloop import IOLoop

from app.events.position import Position
from app.flower import events as module
from app.flower.events import Events
from app.flower.receiver import Batch
from app.flower.state import State
from app.settings import AppSettings
from tests.support.events import body, life
from tests.support.eventually import eventually

Play = Callable[[Events], None]


def run(folder: Path, play: Play, **options: Any) -> Events:
    """Runs Flower's events, with ``play`` in the place of their receiver, until that has ended; and stops them."""

    async def main() -> Events:
        values = {
            **{"db": str(folder / "flower"), "persistent": True, "enable_events": False, "state_save_interval": 0},
            **{"max_workers": 10, "max_tasks": 100, "purge_offline_workers": 60, **options},
        }
        events = Events(Celery("none"), IOLoop.current(), SimpleNamespace(**values), AppSettings())
        failures: list[BaseException] = []

        def receive() -> None:
            try:
                play(events)
            except BaseException as error:
                failures.append(error)

        events.run = receive  # type: ignore[method-assign]
        events.start()
        while events.is_alive():
            await asyncio.sleep(0.01)
        events.stop()
        assert not failures, failures
        return events

    return asyncio.run(asyncio.wait_for(main(), 60))


def batch(events: Events, offset: int, *told: dict[str, Any]) -> Batch:
    events._inlet.connected(10**9)
    text = body(list(told))
    return Batch(Position(offset, crc32(text)), events._inlet.events(offset, text))


def states(events: Events) -> dict[str, str]:
    return {id_: task.state for id_, task in events.state.tasks.items()}


def test_events_are_taken_and_kept(tmp_path: Path) -> None:
    def first(events: Events) -> None:
        events.take([batch(events, 0, *life("a", 0)), batch(events, 3, *life("b", 0, "started"))])
        # They are, when it returns.
        assert states(events) == {"a": "SUCCESS", "b": "STARTED"}
        assert events.position == Position(3, crc32(body(life("b", 0, "started"))))

    clock = run(tmp_path, first)._inlet.clock

    def second(events: Events) -> None:
        assert states(events) == {"a": "SUCCESS", "b": "STARTED"}
        assert events.position == Position(3, crc32(body(life("b", 0, "started"))))
        assert events._inlet.clock == clock

    run(tmp_path, second)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["flower.state"]


def test_many_events_go_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE", 0)
    turns = 0

    def play(events: Events) -> None:
        def turn() -> None:
            nonlocal turns
            turns += 1
            if states(events).get("task-49") is None:
                events.io_loop.add_callback(turn)

        events.io_loop.add_callback(turn)
        events.take([batch(events, number, *life(f"task-{number}", 0)) for number in range(50)])
        assert len(events.state.tasks) == 50

    run(tmp_path, play)
    # Requests have their turn in between.
    assert turns >= 50


def test_an_event_that_the_state_chokes_on_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def choke(self: State, event: dict[str, Any], take: Any = State.event) -> None:
        if event["uuid"] == "bad":
            raise TypeError("never thought of")
        take(self, event)

    monkeypatch.setattr(State, "event", choke)

    def play(events: Events) -> None:
        events.take([batch(events, 7, *life("bad", 0), *life("good", 0))])
        assert states(events) == {"good": "SUCCESS"}
        assert events.position is not None

    run(tmp_path, play)
    assert "an event at offset 7 of the log is skipped" in caplog.messages[0]


def test_it_is_saved_once_the_end_of_the_log_is_seen(tmp_path: Path) -> None:
    def play(events: Events) -> None:
        events.take([batch(events, 0, *life("a", 0))])
        assert not (tmp_path / "flower.state").exists()
        events._inlet.look()
        eventually((tmp_path / "flower.state").exists, 20)
        eventually(lambda: events._saved_at == events.position, 20)

    events = run(tmp_path, play)
    # And not again, since nothing happened.
    assert not (tmp_path / "flower.state.previous").exists()
    assert events.health.caught_up


def test_another_log_is_read_from_its_beginning(tmp_path: Path) -> None:
    def play(events: Events) -> None:
        events.take([batch(events, 900, *life("old", 0))])
        events.start_over()
        assert events.position is None
        events.take([batch(events, 0, *life("new", 0))])

    run(tmp_path, play)
    events = run(tmp_path, lambda _: None)
    # What the old one told is told by nobody else any more.
    assert states(events) == {"old": "SUCCESS", "new": "SUCCESS"}
    assert events.position is not None
    assert events.position.offset == 0


def test_without_persistence_nothing_is_written(tmp_path: Path) -> None:
    def play(events: Events) -> None:
        events.take([batch(events, 0, *life("a", 0))])
        events._inlet.look()

    run(tmp_path, play, persistent=False)
    assert list(tmp_path.iterdir()) == []


def test_a_slow_disk_delays_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from threading import Event

    gate = Event()
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (gate.wait(30), fsync(descriptor)))

    def play(events: Events) -> None:
        events.take([batch(events, 0, *life("a", 0))])
        events._inlet.look()
        eventually(lambda: events._saving, 20)
        for number in range(1, 20):
            events.take([batch(events, number, *life(f"task-{number}", 0))])
            events.io_loop.add_callback(events.save_state)
        assert events._saved_at is None
        gate.set()

    run(tmp_path, play)
    # What came while the first was written is there too, from the stop.
    assert len(states(run(tmp_path, lambda _: None))) == 20


def test_a_stop_does_not_wait_for_what_is_not_taken(tmp_path: Path) -> None:
    events = run(tmp_path, lambda _: None)
    # Its loop has ended.
    thread = Thread(target=lambda: events._wait(lambda: None))
    events.io_loop = SimpleNamespace(add_callback=lambda _: None)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


def test_workers_that_are_gone_are_purged(tmp_path: Path) -> None:
    gone: list[set[str]] = []

    def play(events: Events) -> None:
        events.on_purge = gone.append
        events.take([batch(events, 0, *life("a", 0, worker="celery@gone"))])
        events.io_loop.add_callback(events.purge)
        eventually(lambda: gone, 20)

    assert len(run(tmp_path, play).state.workers) == 0
    assert gone == [{"celery@gone"}]


def test_a_deaf_receiver_ends_flower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    codes: list[int] = []
    monkeypatch.setattr(module, "WATCH_EVERY", 0.01)
    monkeypatch.setattr(os, "_exit", codes.append)

    def play(events: Events) -> None:
        events.health._pulse -= 1000
        eventually(lambda: codes, 20)

    run(tmp_path, play)
    assert codes[0] == 1
    assert "nothing was heard of the receiver" in caplog.messages[0]
