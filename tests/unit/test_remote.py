"""app/remote.py: which limits a worker's tasks get from a message, the settings and remote control."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.worker.request import Request

from app import remote


class Bucket:
    """Tasks that a limit holds back."""

    def __init__(self, *held: Any) -> None:
        self.contents = deque(held)

    def pop(self) -> Any:
        return self.contents.popleft()


class Consumer:
    def __init__(self, buckets: dict[str, Bucket | None]) -> None:
        self.strategies: dict[str, str] = {}
        self.task_buckets = buckets
        self.fresh: Bucket | None = None
        self.did: list[tuple[Any, ...]] = []

    def reset_rate_limits(self) -> None:
        self.task_buckets = dict.fromkeys(self.task_buckets, self.fresh)

    def _limit_move_to_pool(self, request: Any) -> None:
        self.did.append(("run", request))

    def _limit_task(self, request: Any, bucket: Bucket, tokens: int) -> None:
        self.did.append(("hold", request, bucket, tokens))


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.setattr(remote, "usual", {})
    app = Celery("of a test", set_as_current=False, task_time_limit=300, task_soft_time_limit=270)

    @app.task(name="add", shared=False)
    def add() -> None: ...

    app.finalize()
    monkeypatch.setattr(type(app.tasks["add"]), "start_strategy", lambda *_: "made anew")
    return SimpleNamespace(app=app, consumer=Consumer({"add": Bucket(("first", 1), ("second", 2))}))


def limits_of_a_message(state: SimpleNamespace) -> tuple[float | None, float | None]:
    """Hard and soft, of one that was sent with the usual limits."""
    task = state.app.tasks["add"]
    made: Any = task.Request if isinstance(task.Request, type) else Request
    request = made.__new__(made)
    request.time_limits = (300, 270)
    hard, soft = request.time_limits
    return hard, soft


@pytest.mark.parametrize(
    ("soft", "hard", "limits"),
    [(5, 6, (6, 5)), (None, 280, (280, 270)), (5, None, (300, 5)), (None, 60, (60, None)), (None, None, (300, 270))],
)
def test_limits_go_before_those_of_messages(
    state: SimpleNamespace, soft: int | None, hard: int | None, limits: tuple[int | None, int | None]
) -> None:
    remote.time_limit(state, "add", hard=7, soft=3)
    assert "ok" in remote.time_limit(state, "add", hard=hard, soft=soft)
    task = state.app.tasks["add"]
    assert (task.time_limit, task.soft_time_limit) == limits_of_a_message(state) == limits
    assert state.consumer.strategies == {"add": "made anew"}


def test_no_limit_goes_beyond_that_of_the_workers_pool(state: SimpleNamespace) -> None:
    remote.time_limit(state, "add", hard=500, soft=100)
    assert limits_of_a_message(state) == (300, 100)


def test_statistics_tell_the_pool(state: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    from celery.worker import control

    monkeypatch.setattr(control, "stats", lambda *_, **__: {"pid": 7})
    monkeypatch.setenv("WARREN_POOLS", "heavy")
    monkeypatch.setenv("WARREN_POOL_HEAVY_QUEUES", "video")
    assert remote.stats(state) == {"pid": 7, "worker_pool": "default"}
    monkeypatch.setenv("WARREN_POOL", "heavy")
    assert remote.stats(state) == {"pid": 7, "worker_pool": "heavy"}


def test_a_task_that_there_is_not(state: SimpleNamespace) -> None:
    assert remote.time_limit(state, "nope", hard=1) == {"error": "unknown task"}
    assert remote.rate_limit(state, "nope", "1/s") == {"error": "unknown task"}
    assert state.consumer.strategies == {}


def test_what_was_held_back_runs_without_a_limit(state: SimpleNamespace) -> None:
    assert "ok" in remote.rate_limit(state, "add", None)
    assert state.consumer.did == [("run", "first"), ("run", "second")]


def test_what_was_held_back_is_under_the_new_limit(state: SimpleNamespace) -> None:
    fresh = state.consumer.fresh = Bucket()
    assert "ok" in remote.rate_limit(state, "add", "5/s")
    assert state.consumer.did == [("hold", "first", fresh, 1), ("hold", "second", fresh, 2)]


def test_what_is_no_limit_changes_nothing(state: SimpleNamespace) -> None:
    assert "error" in remote.rate_limit(state, "add", "often")
    assert state.consumer.did == []


def test_workers_have_these_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from celery.worker.control import Panel

    for name in ("time_limit", "rate_limit", "stats"):
        monkeypatch.setitem(Panel.data, name, None)
    remote.mend()
    assert (Panel.data["time_limit"], Panel.data["rate_limit"]) == (remote.time_limit, remote.rate_limit)
