"""A result reaches its caller, whatever became of the caller's connection meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import amqp
import kombu.pools
import pytest
from celery import Celery
from celery.exceptions import TimeoutError as NoResult

from app import eventlog, factory
from app.settings import AppSettings
from app.tasks import add, sleep
from deploy.paths import ROOT
from tests.support.brokers import HOST, Broker
from tests.support.eventually import eventually
from tests.support.line import Line
from tests.support.processes import environment
from tests.support.services import Worker

PATIENCE = 60


@pytest.fixture
def line(broker: Broker) -> Iterator[Line]:
    made = Line(broker.amqp)
    yield made
    made.close()


@pytest.fixture
def producer(broker: Broker, line: Line) -> Iterator[Celery]:
    url = broker.url("producer").replace(f"{HOST}:{broker.amqp}", f"{HOST}:{line.port}")
    app = factory.make(AppSettings(broker_url=url, queues=broker.settings.queues))
    yield app
    app.close()
    kombu.pools.reset()


def ended(broker: Broker, task_id: str) -> bool:
    return "task-succeeded" in [event["type"] for event in eventlog.find(broker.url("ops"), task_id)]


def has_ended(broker: Broker, task_id: str, worker: Worker) -> None:
    eventually(lambda: ended(broker, task_id), PATIENCE, worker.tail)


@pytest.mark.usefixtures("producer")
def test_the_caller_is_cut_off_while_its_tasks_end(broker: Broker, worker: Worker, line: Line) -> None:
    assert add.delay(2, 3).get(timeout=PATIENCE) == 5
    unread = add.delay(3, 4)
    has_ended(broker, unread.id, worker)
    running = sleep.delay(2)
    with line.away():
        has_ended(broker, running.id, worker)
        # It is told in time that there is none yet, and may ask again.
        with pytest.raises(NoResult):
            running.get(timeout=1)
    assert running.get(timeout=PATIENCE) == 2
    assert unread.get(timeout=PATIENCE) == 7


@pytest.mark.usefixtures("producer")
def test_results_are_sent_into_a_connection_that_is_dead(broker: Broker, worker: Worker, line: Line) -> None:
    assert add.delay(2, 3).get(timeout=PATIENCE) == 5
    running = sleep.delay(2)
    with line.deaf():
        has_ended(broker, running.id, worker)
    assert running.get(timeout=PATIENCE) == 2


def consumers(broker: Broker, queue: str) -> int:
    with broker.connection() as connection:
        return int(connection.channel().queue_declare(queue, passive=True).consumer_count)


def result_of(task_id: str) -> amqp.Message:
    """What a worker sends."""
    body = {"task_id": task_id, "status": "SUCCESS", "result": 5, "traceback": None, "children": []}
    return amqp.Message(
        json.dumps(body), content_type="application/json", content_encoding="utf-8", correlation_id=task_id
    )


@pytest.mark.usefixtures("worker")
def test_the_broker_does_not_know_that_a_connection_is_dead(broker: Broker, producer: Celery, line: Line) -> None:
    assert add.delay(2, 3).get(timeout=PATIENCE) == 5
    queue = producer.backend.oid
    line.cut(unknown_to_the_broker=True)

    def connected_anew() -> bool:
        with pytest.raises(NoResult):
            producer.AsyncResult("unknown").get(timeout=1)
        return consumers(broker, queue) == 2

    eventually(connected_anew, PATIENCE)
    with broker.connection() as connection:
        # Each of the two consumers has its turn, if the broker takes them for equal.
        for name in ("a", "b", "c"):
            connection.channel().basic_publish(result_of(name), routing_key=queue)
    assert [producer.AsyncResult(name).get(timeout=PATIENCE) for name in ("a", "b", "c")] == [5, 5, 5]


@pytest.mark.usefixtures("producer", "worker")
def test_the_broker_was_away_when_the_first_result_was_asked_for(line: Line) -> None:
    sent = add.delay(2, 3)
    with line.away(), pytest.raises(NoResult):
        sent.get(timeout=1)
    assert sent.get(timeout=PATIENCE) == 5


@pytest.mark.usefixtures("worker")
def test_a_caller_that_ends_leaves_no_queue(broker: Broker) -> None:
    code = (
        "from app import celery; from app.tasks import add; print(add.delay(2, 3).get(timeout=60), celery.backend.oid)"
    )
    values = {**broker.environment("worker"), "CELERY_BROKER_URL": broker.url("producer")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(values), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result, queue = done.stdout.split()
    assert result == "5"
    eventually(lambda: queue not in broker.queues(), 60, f"{queue} is gone")
