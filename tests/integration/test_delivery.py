"""Nothing is lost: not with a worker, not with the broker, not by a mistake of the sender."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import amqp
import pytest
from celery import Celery
from celery.exceptions import NotRegistered
from kombu.exceptions import OperationalError

from app import eventlog, factory
from app.settings import AppSettings
from app.tasks import add, sleep
from deploy.definitions import VHOST
from tests.integration.conftest import MakeWorker
from tests.support.brokers import RECOVERED, Broker
from tests.support.eventually import eventually
from tests.support.services import Worker
from tests.support.tasks import INCLUDE, die

pytestmark = pytest.mark.usefixtures("producer")


def started_on(broker: Broker, task_id: str) -> list[str]:
    """The nodes that started a task, in order."""
    events = eventlog.find(broker.url("ops"), task_id)
    return [event["hostname"] for event in events if event["type"] == "task-started"]


@pytest.fixture
def restored_policy(broker: Broker) -> Iterator[None]:
    yield
    broker.change_policy("tasks")


def dead_letter(broker: Broker) -> amqp.Message:
    return eventually(lambda: broker.take("dead_letters"), 60, "a message in dead_letters")


def headers(message: amqp.Message) -> dict[str, Any]:
    return dict(message.properties["application_headers"])


def test_a_killed_workers_task_runs_again(broker: Broker, make_worker: MakeWorker) -> None:
    for seconds in (2, 20, 100):
        first = make_worker()
        sent = sleep.delay(seconds)
        eventually(lambda: started_on(broker, sent.id), 60, first.tail)  # noqa: B023
        first.kill()
        second = make_worker()
        assert sent.get(timeout=seconds + 60) == seconds
        nodes = started_on(broker, sent.id)
        if nodes != [first.node]:
            assert nodes == [first.node, second.node]
            return
        # It was done before its worker was killed, as on a machine with much to do.
        second.end()
    pytest.fail("no task ran twice")


@pytest.mark.parametrize("size", [1, 1_000_000], ids=["small", "larger than a pipe"])
def test_a_task_that_a_stopping_worker_has_just_given_to_a_process(
    broker: Broker, make_worker: MakeWorker, ops: Celery, size: int
) -> None:
    worker = make_worker()
    (process,) = worker.children
    os.kill(process, signal.SIGSTOP)
    try:
        sent = add.delay("x" * size, "y")
        eventually(lambda: f"{sent.id}] received" in worker.text, 60, worker.tail)
        # Its event loop gives what it has received before it turns twice.
        for _ in range(2):
            assert ops.control.ping([worker.node], timeout=30, limit=1), worker.tail()
        worker.signal(signal.SIGTERM)
        # It waits for the process, which can't begin, and doesn't forget the task meanwhile.
        eventually(lambda: "waiting until 1 tasks begin" in worker.text, 60, worker.tail)
    finally:
        os.kill(process, signal.SIGCONT)
    assert worker.end() == 0
    assert len(sent.get(timeout=60)) == size + 1
    # Nothing is left to run again, and nothing of it went untold.
    assert broker.waiting("default") == 0
    assert sorted(kinds(broker, sent.id)) == ["task-received", "task-sent", "task-started", "task-succeeded"]


@pytest.mark.usefixtures("restored_policy")
def test_a_task_that_kills_its_process_ends_in_dead_letters(broker: Broker, make_worker: MakeWorker) -> None:
    broker.change_policy("tasks", delivery_limit=2)
    worker = make_worker(options=INCLUDE)
    sent = die.delay()
    message = dead_letter(broker)
    assert headers(message)["id"] == sent.id
    assert headers(message)["task"] == "tests.support.tasks.die"
    assert headers(message)["x-first-death-queue"] == "default"
    assert headers(message)["x-first-death-reason"] == "delivery_limit"
    eventually(lambda: started_on(broker, sent.id) == [worker.node] * 3, 60, lambda: str(started_on(broker, sent.id)))
    assert add.delay(1, 2).get(timeout=60) == 3


def test_an_unknown_task_ends_in_dead_letters(broker: Broker, worker: Worker, producer: Celery) -> None:
    sent = producer.send_task("no.such.task", args=[1])
    with pytest.raises(NotRegistered):
        sent.get(timeout=60)
    message = dead_letter(broker)
    assert headers(message)["id"] == sent.id
    assert headers(message)["x-first-death-reason"] == "rejected"
    assert json.loads(message.body)[0] == [1]
    assert add.delay(1, 2).get(timeout=60) == 3


def test_a_missing_queue_is_an_error_at_the_sender() -> None:
    with pytest.raises(Exception, match="no_such_queue"):
        add.apply_async((1, 2), queue="no_such_queue")


@pytest.mark.parametrize("options", [{}, {"countdown": 1}], ids=["now", "delayed"])
def test_a_queue_that_only_the_sender_knows_loses_nothing(broker: Broker, options: dict[str, int]) -> None:
    # As where WARREN_QUEUES was changed for the sender and not for the broker: that confirms, and drops by default.
    sender = factory.make(AppSettings(broker_url=broker.url("producer"), queues=("default", "ghost")))
    try:
        sent = sender.send_task("app.tasks.add", args=[1, 2], queue="ghost", **options)
    finally:
        sender.close()
    assert headers(dead_letter(broker))["id"] == sent.id


@pytest.mark.usefixtures("restored_policy")
def test_a_publish_that_the_broker_refuses_is_an_error_at_the_sender(broker: Broker) -> None:
    broker.change_policy("tasks", max_length=1)

    def refused() -> bool:
        try:
            add.apply_async((1, 2), retry=False)
        except OperationalError:
            return True
        return False

    eventually(refused, 60, "the full queue refuses a task")


# Waits for what a busy machine does late, one after another, are longer than a test has by itself.
@pytest.mark.timeout(1800)
def test_a_killed_broker_comes_back_with_everything(broker: Broker, make_worker: MakeWorker) -> None:
    worker = make_worker(options=("--queues", "default"))
    done = add.delay(2, 3)
    assert done.get(timeout=60) == 5
    # These wait in the broker: one in a queue without a worker, one for its time, one result for its reader.
    waiting = add.apply_async((3, 4), queue="mail")
    delayed = add.apply_async((4, 5), countdown=10)
    unread = add.delay(5, 6)
    eventually(lambda: "task-succeeded" in kinds(broker, unread.id), 60, worker.tail)
    before = topology(broker)

    broker.kill()
    broker.start()

    assert topology(broker) == before
    # Quorum queues and streams are recovered in the background.
    eventually(lambda: broker.waiting("mail") == 1, RECOVERED, "the waiting task is still there")
    eventually(lambda: "task-succeeded" in kinds(broker, done.id), RECOVERED, "the event log is still there")
    eventually(lambda: worker.ready, RECOVERED, worker.tail)
    make_worker(options=("--queues", "mail"))
    assert waiting.get(timeout=120) == 7
    assert unread.get(timeout=120) == 11
    assert delayed.get(timeout=120) == 9


def kinds(broker: Broker, task_id: str) -> list[str]:
    return [event["type"] for event in eventlog.find(broker.url("ops"), task_id)]


def topology(broker: Broker) -> dict[str, list[dict[str, Any]]]:
    """What the definitions made, and the broker kept; not what Celery makes beside it."""
    found, ours = broker.api("GET", f"definitions/{VHOST}").body, broker.definitions
    names = {one["name"] for kind in ("exchanges", "queues", "policies") for one in ours[kind]}
    kept = {
        kind: sorted((one for one in found[kind] if one.get("destination", one.get("name")) in names), key=str)
        for kind in ("exchanges", "queues", "bindings", "policies")
    }
    assert {kind: len(kept[kind]) for kind in kept} == {kind: len(ours[kind]) for kind in kept}
    return kept


def test_no_task_is_lost_when_all_workers_are_killed_again_and_again(broker: Broker, make_worker: MakeWorker) -> None:
    count = 400
    sent = [sleep.delay(0.1) for _ in range(count)]
    for left in (300, 200, 100):
        workers = [make_worker(concurrency=4, wait=False) for _ in range(2)]
        eventually(lambda left=left: broker.waiting("default") <= left, 60, workers[0].tail)  # type: ignore[misc]
        for worker in workers:
            worker.kill()
    make_worker(concurrency=4)
    assert [one.get(timeout=60) for one in sent] == [0.1] * count
    assert broker.waiting("dead_letters") == 0
