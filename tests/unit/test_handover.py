"""A worker that stops and the processes that it gave tasks to; with a real one in tests/integration/test_delivery.py."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker import state

from app import handover
from app.handover import Handover, hand_over


class Child:
    """A process of a pool, as far as the worker sees it."""

    def __init__(self) -> None:
        self.outqR_fd, self.tells = os.pipe()
        self.takes, self.inqW_fd = os.pipe()
        self.alive = True

    def _is_alive(self) -> bool:
        return self.alive

    def close(self) -> None:
        for file in (self.outqR_fd, self.tells, self.takes, self.inqW_fd):
            os.close(file)


@pytest.fixture
def child() -> Iterator[Child]:
    made = Child()
    yield made
    made.close()


def job(child: Child | None, *, accepted: bool = False, writer: Callable[[], Any] | None = None) -> SimpleNamespace:
    return SimpleNamespace(_accepted=accepted, _write_to=child, _writer=writer)


def pool_of(*jobs: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(_cache=dict(enumerate(jobs)), _fileno_to_outq={})


def hub_of(child: Child, callback: Any) -> SimpleNamespace:
    return SimpleNamespace(readers={child.outqR_fd: (callback, (child.outqR_fd,))})


def test_it_reads_until_the_task_has_begun(child: Child) -> None:
    given = job(child)

    def take(file: int) -> None:
        assert os.read(file, 1) == b"a"
        given._accepted = True

    os.write(child.tells, b"a")
    hand_over(pool_of(given), hub_of(child, take))
    assert given._accepted


def test_a_message_that_was_read_in_part_is_read_on(child: Child) -> None:
    given = job(child)

    def rest() -> Iterator[None]:
        assert os.read(child.outqR_fd, 1) == b"a"
        yield
        assert os.read(child.outqR_fd, 1) == b"b"
        given._accepted = True

    os.write(child.tells, b"ab")
    hand_over(pool_of(given), hub_of(child, rest()))
    assert given._accepted


def test_a_task_that_was_written_in_part_is_written_on(child: Child) -> None:
    written: list[str] = []

    def write() -> Iterator[None]:
        yield
        written.append("rest")
        given._accepted = True

    unfinished = write()
    next(unfinished)
    given = job(child, writer=lambda: None if given._accepted else unfinished)
    hand_over(pool_of(given), SimpleNamespace(readers={}))
    assert written == ["rest"]


@pytest.mark.parametrize("begun", ["no process", "begun", "dead"])
def test_nothing_to_wait_for(child: Child, begun: str, caplog: pytest.LogCaptureFixture) -> None:
    child.alive = begun != "dead"
    given = job(None if begun == "no process" else child, accepted=begun == "begun")
    caplog.set_level(logging.INFO)
    hand_over(pool_of(given), hub_of(child, pytest.fail))
    assert not caplog.messages


def test_a_process_that_never_begins_is_left_and_told_of(child: Child, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    hand_over(pool_of(job(child)), hub_of(child, pytest.fail), 0)
    assert caplog.messages == [
        "waiting until 1 tasks begin that processes were given",
        "1 tasks that did not begin within 0 s may run twice",
    ]


def test_a_process_that_talks_on_and_never_begins_is_left_too(child: Child, caplog: pytest.LogCaptureFixture) -> None:
    os.write(child.tells, b"a")
    turns = iter(range(1000))

    def look(_: int) -> None:
        if next(turns) == 999:
            pytest.fail("it reads without end")

    hand_over(pool_of(job(child)), hub_of(child, look), 0)
    assert caplog.messages == ["1 tasks that did not begin within 0 s may run twice"]


@pytest.mark.parametrize("error", [OSError("no such pipe"), EOFError("half a message")])
def test_a_process_whose_pipe_is_broken_is_not_asked_again(child: Child, error: Exception) -> None:
    removed: list[int] = []

    def broken(_: int) -> None:
        child.alive = False
        raise error

    hub = hub_of(child, broken)
    hub.remove_reader = removed.append
    os.write(child.tells, b"a")
    hand_over(pool_of(job(child)), hub, 0)
    assert removed == [child.outqR_fd]


@pytest.mark.parametrize(
    ("pool", "hub", "terminate"),
    [(None, object(), None), (object(), object(), None), (pool_of(), None, None), (pool_of(), object(), 0)],
    ids=["no pool of processes", "another Celery's pool", "no event loop", "a cold stop"],
)
def test_workers_that_stop_as_they_always_did(
    pool: object, hub: object, terminate: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "hand_over", lambda *_: pytest.fail("it waits"))
    monkeypatch.setattr(state, "should_terminate", terminate)
    worker = SimpleNamespace(pool=SimpleNamespace(_pool=pool), hub=hub)
    Handover(worker).close(worker)
