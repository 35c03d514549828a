"""What Flower knows of tasks and workers: its own state, made fit for a replay of hundred thousands of events.

Leans on Flower 2.2 and Celery 5.7; tests/unit/test_flower_leans.py says on what.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from celery import states
from celery.events.state import Task as CeleryTask
from celery.events.state import Worker as CeleryWorker
from flower.events import EventsState, get_prometheus_metrics
from flower.utils.search import TaskSearchEngine

__all__ = ["State"]


class NoHeap(list[Any]):
    """In the place of Celery's list of all tasks in the order of their events, which Flower 2.2 never looks at.

    It has up to 80,000 entries, and keeping them in order took half the time of a replay.
    """

    def append(self, _: Any) -> None:
        pass

    def insert(self, *_: Any) -> None:
        pass


class Task(CeleryTask):
    """Celery's, without a reference to itself: what is evicted is gone at once, and need not be looked for.

    Such a search stops everything for a third of a second.
    """

    @property
    def parent(self) -> Any:
        """The task that sent it, if that is kept. Celery's own is looked up once, and so stays when it is evicted."""
        return self.cluster_state.tasks.data.get(self.parent_id)

    @property
    def root(self) -> Any:
        return self.cluster_state.tasks.data.get(self.root_id)

    @property
    def _serializer_handlers(self) -> dict[str, Callable[[Any], Any]]:
        return {
            "children": self._serializable_children,
            "root": self._serializable_root,
            "parent": self._serializable_parent,
        }

    @_serializer_handlers.setter
    def _serializer_handlers(self, _: Any) -> None:
        pass


class Worker(CeleryWorker):
    """Celery's, where an event of a task is heard when it is received, as all others, and not when its worker's clock says."""

    def _create_event_handler(self) -> Callable[..., None]:
        handle: Callable[..., None] = super()._create_event_handler()

        def event(kind: str | None, timestamp: Any = None, local_received: Any = None, fields: Any = None) -> None:
            if kind is None:
                # So Celery calls this for a task's event: both times in the other's place.
                timestamp, local_received = local_received, timestamp
            handle(kind, timestamp, local_received, fields)

        return event


class SearchEngine(TaskSearchEngine):
    """Flower's index of tasks, brought up to date when it is asked: a task has four events and is searched for later."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: dict[str, Any] = {}

    def rebuild(self, tasks: Iterable[tuple[str, Any]]) -> None:
        self._clear()
        self._waiting = dict(tasks)

    def upsert(self, task: Any) -> None:
        self._waiting[task.uuid] = task

    def remove(self, task_id: str) -> None:
        self._waiting.pop(task_id, None)
        super().remove(task_id)

    def catch_up(self, most: int | None = None) -> bool:
        """Indexes what waits, or ``most`` tasks of it; whether nothing waits any longer."""
        for _ in range(len(self._waiting) if most is None else min(most, len(self._waiting))):
            _, task = self._waiting.popitem()
            super().upsert(task)
        return not self._waiting

    def search(self, *args: Any, **kwargs: Any) -> Any:
        self.catch_up()
        return super().search(*args, **kwargs)


class Silent:
    """In the place of the metrics while old events are replayed: what happened before this start is not counted again."""

    def observe_task(self, *_: Any) -> None:
        pass

    def observe_worker(self, *_: Any) -> None:
        pass

    def remove_workers(self, _: Any) -> int:
        return 0


class State(EventsState):
    """Flower's. Only touched by the thread of the web server."""

    Worker = Worker
    Task = Task

    def __init__(self, max_workers_in_memory: int, max_tasks_in_memory: int) -> None:
        super().__init__(
            taskheap=NoHeap(), max_workers_in_memory=max_workers_in_memory, max_tasks_in_memory=max_tasks_in_memory
        )
        self.search_engine = SearchEngine()
        self.metrics: Any = Silent()
        # When each process that sends tasks was heard last, in seconds since 1970.
        self._senders: dict[str, float] = {}

    def event(self, event: dict[str, Any]) -> None:
        if event["type"] == "task-cancelled":
            # A stopping worker gave the task back. To Celery that is a state which only an end comes after: the task
            # would not be shown as running when the next worker runs it.
            self.counter[event["hostname"]][event["type"]] += 1
            return
        if event["type"] == "task-sent":
            self._senders[event["hostname"]] = event["local_received"]
        super().event(event)

    def go_live(self) -> None:
        """Begins to count. Gauges start as the state has them, counters at zero, as those of every program that starts."""
        if not isinstance(self.metrics, Silent):
            return
        self.metrics = metrics = get_prometheus_metrics()
        for task in list(self.tasks.values()):
            if task.state == states.RECEIVED and task.worker is not None and not task.eta and task.received:
                metrics.number_of_prefetched_tasks.labels(task.worker.hostname, task.name or "").inc()
        for worker in list(self.workers.values()):
            if worker.active is not None:
                metrics.worker_number_of_currently_executing_tasks.labels(worker.hostname).set(worker.active)
        self.show_online()

    def show_online(self) -> None:
        """Tells the metrics which workers are up: of one that was killed no event does."""
        if not isinstance(self.metrics, Silent):
            for name, worker in list(self.workers.items()):
                self.metrics.worker_online.labels(name).set(int(worker.alive))

    def purge(self, older_than: float) -> set[str]:
        """Forgets workers that were last heard before ``older_than``, in seconds since 1970; their names.

        Their tasks stay, and still say where they ran. Who only sends tasks is forgotten too, with its metrics: each
        process that does has a name of its own.
        """
        gone = {name for name, worker in self.workers.items() if not worker.alive and last_heard(worker) < older_than}
        for name in gone:
            self.workers.pop(name, None)
            self.tasks_by_worker.pop(name, None)
        senders = {name for name, heard in self._senders.items() if heard < older_than}
        for name in senders:
            del self._senders[name]
        forgotten = {name for name in self.counter if name not in self.workers and name not in self._senders}
        for name in forgotten:
            del self.counter[name]
        self.metrics.remove_workers(gone | forgotten)
        return gone

    def counts(self) -> dict[str, Counter[str]]:
        """Events by worker and type."""
        return {name: counter for name, counter in self.counter.items() if name in self.workers}


def last_heard(worker: Any) -> float:
    return float(max([*worker.heartbeats, getattr(worker, "timestamp", None) or 0.0]))
