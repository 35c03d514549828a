"""Revoke and retry from the monitor, on a real broker and with its rights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery import Celery
from celery.exceptions import TaskRevokedError

from app.revokes.log import read
from app.tasks import add, sleep
from tests.integration.conftest import MakeWorker
from tests.support.brokers import Broker
from tests.support.eventually import eventually
from tests.support.monitor_history import Book
from tests.support.monitor_site import Site, serve
from tests.support.services import Worker


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    made = Book(tmp_path)
    yield made
    made.close()


@pytest.fixture
def site(broker: Broker, book: Book) -> Iterator[Site]:
    with serve(
        make=book.open,
        monitor_ops_url=broker.url("ops"),
        monitor_producer_url=broker.url("producer"),
        queues=broker.settings.queues,
    ) as made:
        yield made


@pytest.fixture
def as_monitor(monkeypatch: pytest.MonkeyPatch, broker: Broker) -> Callable[[], None]:
    """Puts the monitor's own address, whose user may only read the event log, where the monitor has it."""
    return lambda: monkeypatch.setenv("CELERY_BROKER_URL", broker.url("monitor"))


def test_a_running_task_is_ended(
    worker: Worker,
    producer: Celery,
    book: Book,
    site: Site,
    as_monitor: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = sleep.delay(100)
    eventually(lambda: running.state == "STARTED", 60, "it runs")
    book.task("app.tasks.sleep", id=running.id, ago=1, ended=None, worker=worker.node)
    book.event("worker-heartbeat", "", 0, hostname=worker.node)
    as_monitor()
    answer = site.post(f"/tasks/{running.id}/revoke", '{"terminate": true}')
    monkeypatch.undo()
    assert answer.json == {"id": running.id, "terminate": True, "answered": [worker.node], "silent": []}
    eventually(lambda: running.state == "REVOKED", 60, "it has ended")
    assert add.delay(1, 2).get(timeout=60) == 3


def test_a_revoke_is_there_before_the_workers(
    make_worker: MakeWorker, producer: Celery, book: Book, site: Site
) -> None:
    waiting = add.delay(1, 1)
    book.event("task-sent", waiting.id, 1, name="app.tasks.add", args="(1, 1)", kwargs="{}", queue="default")
    answer = site.post(f"/tasks/{waiting.id}/revoke")
    assert answer.json == {"id": waiting.id, "terminate": False, "answered": [], "silent": []}
    make_worker()
    with pytest.raises(TaskRevokedError):
        waiting.get(timeout=60)


def test_a_revoke_holds_with_no_worker_up(
    broker: Broker, producer: Celery, book: Book, site: Site, make_worker: MakeWorker
) -> None:
    waits = add.delay(1, 1)
    book.task("app.tasks.add", id=waits.id, ago=1, ended=None)
    answer = site.post(f"/tasks/{waits.id}/revoke")
    assert answer.json == {"id": waits.id, "terminate": False, "answered": [], "silent": []}
    kept = [record for record in read(broker.url("ops")) if waits.id in record.ids]
    assert [record.by for record in kept] == ["token@127.0.0.1"]
    make_worker()
    with pytest.raises(TaskRevokedError):
        waits.get(timeout=60)


def test_a_failed_task_is_sent_again(
    worker: Worker, producer: Celery, broker: Broker, book: Book, site: Site, as_monitor: Callable[[], None]
) -> None:
    from app import eventlog

    book.task("app.tasks.add", id="failed", ended="task-failed", sent={"args": "(20, 22)"})
    as_monitor()
    answer = site.post("/tasks/failed/retry")
    assert answer.status == 200, answer.text

    def result() -> str | None:
        events = eventlog.find(broker.url("ops"), answer.json["id"])
        return next((str(event["result"]) for event in events if event["type"] == "task-succeeded"), None)

    assert eventually(result, 60, "it has run") == "42"


def test_a_broker_that_is_away_is_told(book: Book, broker: Broker) -> None:
    book.task("app.tasks.add", id="failed", ended="task-failed")
    with serve(make=book.open, monitor_producer_url="amqp://producer:x@127.0.0.1:1/warren") as site:
        answer = site.post("/tasks/failed/retry")
        assert (answer.status, "the broker does not answer" in answer.json["error"]) == (503, True)
    with serve(
        make=book.open, monitor_producer_url=broker.url("producer").replace("producer:", "producer:wrong")
    ) as site:
        answer = site.post("/tasks/failed/retry")
        assert (answer.status, "the broker refuses this" in answer.json["error"]) == (502, True), answer.json
