"""What Flower knows after a replay is what it would know had it been there."""

from __future__ import annotations

import gc
import weakref
from time import time
from typing import Any

import pytest

from app.events.position import Position
from app.flower.health import Health
from app.flower.receiver import Inlet
from app.flower.snapshot import Snapshot, restore
from app.flower.state import State
from tests.support.events import BASE, NAME, Event, body, event, heartbeat, life, new_id


def made(tasks: int = 100) -> State:
    return State(max_workers_in_memory=50, max_tasks_in_memory=tasks)


def take(state: State, *events: Event, old: bool = True, inlet: Inlet | None = None) -> State:
    inlet = inlet or Inlet(None, Health(30, 300))  # type: ignore[arg-type]
    inlet.connected(1_000_000 if old else -1)
    for offset, one in enumerate(events):
        for heard in inlet.events(offset, body(one)):
            state.event(heard)
    return state


def copied(state: State, tasks: int = 100) -> State:
    copy = made(tasks)
    position, clock = restore(iter(list(Snapshot(state, Position(7, 8), 9).pieces())), copy)
    assert (position, clock) == (Position(7, 8), 9)
    return copy


def ids(state: State) -> list[str]:
    """Of all tasks, as pages and the API find them."""
    return sorted(state.search_engine.search(state.tasks).task_ids)


def found(state: State, query: str) -> list[str]:
    return list(state.search_engine.search(state.tasks, query).task_ids)


def value(metric: Any, *labels: str) -> float:
    child = metric._metrics.get(labels)
    return float(child._value.get()) if child else 0.0


# --- tasks


def test_the_states_of_tasks() -> None:
    ends = {end: new_id() for end in ("sent", "received", "started", "succeeded", "failed", "retried", "revoked")}
    state = take(made(), *(one for end, id_ in ends.items() for one in life(id_, 0, end)))
    shown = {end: state.tasks[id_].state for end, id_ in ends.items()}
    assert shown == {
        "sent": "PENDING",
        "received": "RECEIVED",
        "started": "STARTED",
        "succeeded": "SUCCESS",
        "failed": "FAILURE",
        "retried": "RETRY",
        "revoked": "REVOKED",
    }
    assert state.tasks[ends["failed"]].exception == "ValueError('no')"


def test_a_task_that_a_stopping_worker_gave_back_runs_again() -> None:
    id_ = new_id()
    state = take(
        made(), *life(id_, 0, "started"), event("cancelled", 5, id_), *life(id_, 6, "started", worker="celery@two")[1:]
    )
    assert (state.tasks[id_].state, state.tasks[id_].worker.hostname) == ("STARTED", "celery@two")
    take(state, event("succeeded", 9, id_, "celery@two", runtime=1.0, result="3"))
    assert state.tasks[id_].state == "SUCCESS"


def test_only_so_many_tasks_are_kept_and_found() -> None:
    names = [new_id() for _ in range(30)]
    state = take(made(10), *(one for number, id_ in enumerate(names) for one in life(id_, number)))
    assert sorted(state.tasks) == sorted(names[-10:]) == ids(state)
    assert len(state.search_engine.documents) == 10
    take(state, *life("the-newest-one", 100))
    assert found(state, "newest-one") == ["the-newest-one"]
    assert found(state, names[20]) == []
    assert len(state.search_engine.documents) == 10
    assert state._taskheap == []


def test_what_is_found_is_how_it_is_now() -> None:
    id_ = new_id()
    state = take(made(), *life(id_, 0, "started"))
    assert found(state, "state:STARTED") == [id_]
    take(state, event("succeeded", 9, id_, runtime=1.0, result="'violet'"))
    assert found(state, "state:STARTED") == []
    assert found(state, "violet") == [id_]


def test_indexing_goes_in_pieces() -> None:
    state = take(made(), *(one for _ in range(5) for one in life()))
    assert not state.search_engine.catch_up(3)
    assert len(state.search_engine.documents) == 3
    assert state.search_engine.catch_up(3)
    assert len(ids(state)) == 5


def test_a_task_that_is_evicted_is_gone_without_a_search_for_garbage() -> None:
    gc.disable()
    try:
        state = take(made(1), *life("first", 0))
        evicted = weakref.ref(state.tasks["first"])
        assert evicted().as_dict()["children"] == []  # type: ignore[union-attr]
        take(state, *life("second", 1))
        assert evicted() is None
    finally:
        gc.enable()


# --- workers


def test_workers_after_a_replay() -> None:
    now = time()
    state = take(
        made(),
        heartbeat(now - 3600, "celery@dead"),
        *life("a", now - 3600, worker="celery@worked-and-died"),
        heartbeat(now - 1, "celery@left"),
        heartbeat(now - 1, "celery@left", "offline"),
        heartbeat(now - 1, "celery@lives"),
        # Its clock is an hour fast, and it died long ago.
        heartbeat(now - 60, "celery@back", "online"),
        heartbeat(now - 1, "celery@back"),
    )
    assert {name: worker.alive for name, worker in state.workers.items()} == {
        "celery@dead": False,
        "celery@worked-and-died": False,
        "celery@left": False,
        "celery@lives": True,
        "celery@back": True,
    }


def test_a_worker_whose_clock_is_wrong_lives_when_it_is_heard() -> None:
    now = time()
    slow, fast = "celery@slow", "celery@fast"
    state = take(made(), heartbeat(now - 3600, slow), heartbeat(now + 3600, fast), old=False)
    assert state.workers[slow].alive
    assert state.workers[fast].alive
    # What it did counts no longer than what it says.
    take(state, *life("a", now + 3600, worker=fast), old=False)
    assert max(state.workers[fast].heartbeats) <= time()


def test_offline_workers_are_forgotten_but_their_tasks_are_not() -> None:
    now = time()
    state = take(
        made(),
        *life("a", now - 90, worker="celery@gone"),
        heartbeat(now - 80, "celery@gone"),
        heartbeat(now - 80, "celery@said-bye", "offline"),
        heartbeat(now - 40, "celery@lately"),
        heartbeat(now - 1, "celery@lives"),
    )
    assert state.purge(now - 60) == {"celery@gone"}
    assert sorted(state.workers) == ["celery@lately", "celery@lives"]
    # Nor who only sends, each time by another name.
    assert sorted(state.counter) == ["celery@lately", "celery@lives"]
    assert state.tasks["a"].worker.hostname == "celery@gone"
    assert copied(state).tasks["a"].worker.hostname == "celery@gone"
    assert sorted(copied(state).workers) == ["celery@lately", "celery@lives"]


# --- metrics


def test_the_past_is_not_counted_and_the_present_is() -> None:
    name = f"celery@{new_id()}"
    now = time()
    state = take(
        made(),
        *life("a", now - 9, worker=name),
        *life("b", now - 9, "received", worker=name),
        heartbeat(now - 1, name, active=1),
    )
    state.go_live()
    metrics = state.metrics
    assert value(metrics.events, name, "task-succeeded", NAME) == 0
    assert value(metrics.number_of_prefetched_tasks, name, NAME) == 1
    assert value(metrics.worker_online, name) == 1
    assert value(metrics.worker_number_of_currently_executing_tasks, name) == 1
    take(state, event("started", now, "b", name), event("succeeded", now, "b", name, runtime=1.0), old=False)
    assert value(metrics.number_of_prefetched_tasks, name, NAME) == 0
    assert value(metrics.events, name, "task-succeeded", NAME) == 1
    # Going live twice, after another connection, counts nothing again.
    state.go_live()
    assert value(metrics.worker_number_of_currently_executing_tasks, name) == 1
    state.workers[name].heartbeats[:] = [now - 100]
    state.show_online()
    assert value(metrics.worker_online, name) == 0


def test_who_sends_is_counted_until_it_is_forgotten() -> None:
    left, sends = (f"gen1@{new_id()}" for _ in range(2))
    worker = f"celery@{new_id()}"
    now = time()
    state = made()
    state.go_live()
    for name, heard in ((left, now - 90), (sends, now)):
        for one in (event("sent", heard, new_id(), name), event("received", heard, new_id(), worker)):
            state.event({**one, "local_received": heard, "clock": 1})
    state.event({**heartbeat(now, worker), "local_received": now, "clock": 2})

    def series(name: str) -> int:
        return sum(labels[0] == name for labels in state.metrics.events._metrics)

    # For as long as workers are kept that are gone: a series that vanished in between would lose counts.
    state.purge(now - 100)
    assert [series(name) for name in (left, sends, worker)] == [1, 1, 1]
    state.purge(now - 60)
    assert [series(name) for name in (left, sends, worker)] == [0, 1, 1]
    assert sorted(state.counter) == sorted([sends, worker])
    state.purge(now + 1)
    assert [series(name) for name in (left, sends, worker)] == [0, 0, 1]


# --- saved and restored


def test_a_copy_is_the_same() -> None:
    now = time()
    state = take(
        made(),
        *(one for end in ("sent", "received", "succeeded", "failed", "retried") for one in life(end=end, at=now - 99)),
        *life("parent", now - 50),
        *life("child", now - 40, parent_id="parent", root_id="parent"),
        heartbeat(now - 1),
        heartbeat(now - 85, "celery@two"),
        heartbeat(now - 80, "celery@two", "offline"),
    )
    copy = copied(state)
    assert [task.as_dict() | {"worker": None} for task in copy.tasks.values()] == [
        task.as_dict() | {"worker": None} for task in state.tasks.values()
    ]
    assert [one.worker and one.worker.hostname for one in copy.tasks.values()] == [
        one.worker and one.worker.hostname for one in state.tasks.values()
    ]
    assert [one.id for one in copy.tasks["parent"].children] == ["child"]
    assert copy.tasks["child"].parent is copy.tasks["parent"]
    assert copy.counter == {name: count for name, count in state.counter.items() if name in state.workers}
    assert (copy.event_count, copy.task_count) == (state.event_count, state.task_count)
    assert {name: worker.heartbeats for name, worker in copy.workers.items()} == {
        name: worker.heartbeats for name, worker in state.workers.items()
    }
    assert {name: worker.alive for name, worker in copy.workers.items()} == {"celery@one": True, "celery@two": False}
    assert copy.task_types() == state.task_types() == [NAME]
    assert ids(copy) == ids(state)
    assert len(copy.tasks_by_type[NAME]) == 7
    # It goes on as the other would.
    waiting = next(id_ for id_, task in copy.tasks.items() if task.state == "RECEIVED")
    take(copy, event("succeeded", now, waiting, runtime=1.0))
    assert copy.tasks[waiting].state == "SUCCESS"


def test_a_snapshot_does_not_change_with_its_state() -> None:
    state = take(made(), *life("a", 0, "started"), heartbeat(5))
    snapshot = Snapshot(state, Position(1, 2), 3)
    take(state, event("succeeded", 6, "a"), heartbeat(7), *life("b", 8))
    copy = made()
    restore(snapshot.pieces(), copy)
    assert {id_: task.state for id_, task in copy.tasks.items()} == {"a": "STARTED"}
    assert copy.counter["celery@one"]["worker-heartbeat"] == 1
    assert copy.workers["celery@one"].heartbeats == [BASE + 1, BASE + 1.25, BASE + 5]


def test_of_more_tasks_than_may_be_kept_the_newest_are() -> None:
    state = take(made(), *(one for number in range(9) for one in life(f"task-{number}", number)))
    copy = copied(state, 4)
    assert sorted(copy.tasks) == ids(copy) == ["task-5", "task-6", "task-7", "task-8"]


@pytest.mark.parametrize("head", [{}, {"position": 7}, None, [], {"position": [1, 2], "events": "x", "tasks": 0}])
def test_what_is_no_snapshot(head: Any) -> None:
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        restore(iter([head]), made())
