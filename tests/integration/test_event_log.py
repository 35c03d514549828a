"""The event log keeps what happens, whether or not anybody reads it."""

from __future__ import annotations

import re
import uuid

import pytest
from celery import Celery
from celery.exceptions import TaskRevokedError

from app import eventlog
from app.tasks import add, sleep
from tests.support.brokers import RECOVERED, Broker
from tests.support.eventually import eventually
from tests.support.services import Monitor, Worker

LIFE = ["task-sent", "task-received", "task-started", "task-succeeded"]


def types(broker: Broker, task_id: str) -> list[str]:
    return [event["type"] for event in eventlog.find(broker.url("monitor"), task_id)]


# Waits for what a busy machine does late, one after another, are longer than a test has by itself.
@pytest.mark.timeout(1800)
def test_events_that_nobody_reads_are_kept(broker: Broker, worker: Worker, producer: Celery) -> None:
    one = add.delay(2, 3)
    assert one.get(timeout=60) == 5
    # The sender writes the first of them itself, on a connection of its own.
    eventually(lambda: sorted(types(broker, one.id)) == sorted(LIFE), 60, lambda: str(types(broker, one.id)))
    broker.kill()
    broker.start()
    # Streams are recovered in the background.
    eventually(lambda: sorted(types(broker, one.id)) == sorted(LIFE), RECOVERED, "they are still there")
    events = {event["type"]: event for event in eventlog.find(broker.url("ops"), one.id)}
    assert events["task-sent"]["name"] == "app.tasks.add"
    assert events["task-succeeded"]["result"] == "5"
    # And it goes on.
    eventually(lambda: worker.ready, RECOVERED, worker.tail)
    two = add.delay(3, 4)
    eventually(lambda: "task-succeeded" in types(broker, two.id), 60, worker.tail)


def test_a_restarted_monitor_neither_loses_nor_repeats_a_line(
    worker: Worker, monitor: Monitor, producer: Celery
) -> None:
    before = add.delay(1, 1)
    monitor.says(f"Status: SUCCESS[app.tasks.add] ID {before.id}")
    assert monitor.end() == 0
    meanwhile = add.delay(2, 2)
    assert meanwhile.get(timeout=60) == 4
    monitor.start()
    monitor.says(f"Status: SUCCESS[app.tasks.add] ID {meanwhile.id}")
    after = add.delay(3, 3)
    monitor.says(f"Status: SUCCESS[app.tasks.add] ID {after.id}")
    for one in (before, meanwhile, after):
        said = [line.split("[")[0] for line in monitor.lines if one.id in line]
        assert sorted(said) == ["Status: PENDING", "Status: RECEIVED", "Status: STARTED", "Status: SUCCESS"]


def test_a_revoke_leaves_nothing_behind(broker: Broker, worker: Worker, producer: Celery, ops: Celery) -> None:
    running = sleep.delay(100)
    eventually(lambda: running.state == "STARTED", 60, "it runs")
    queues = broker.queues()
    ids = [str(uuid.uuid4()) for _ in range(3)]
    ops.control.revoke(ids)
    ops.control.revoke(running.id, terminate=True)
    with pytest.raises(TaskRevokedError):
        running.get(timeout=60)
    known = eventually(lambda: ops.control.inspect([worker.node]).revoked()[worker.node], 60, "the worker answers")
    assert {*ids, running.id} <= set(known)
    ops.close()
    # What earlier tests left may go meanwhile; RabbitMQ 3.10 lists a new queue, as this producer's for replies, late.
    before = queues | {producer.backend.oid}
    eventually(
        lambda: broker.queues() <= before, 60, lambda: f"no queue but {before}; here: {broker.queues() - before}"
    )
    assert [line for line in worker.lines if re.search(r"WARNING|ERROR|CRITICAL|Traceback", line)] == []
