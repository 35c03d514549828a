"""A revoke holds: whoever was down, killed, cut off, or did not exist yet when it was said.

"Never ran" is told by the event log: the task was revoked, and never started.
"""

from __future__ import annotations

import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import amqp
import kombu
import pytest
from celery import Celery
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult

from app import eventlog
from app.revokes.log import EXCHANGE, STREAM, append, make, read
from app.tasks import add, sleep
from deploy.definitions import VHOST
from tests.integration.conftest import MakeWorker
from tests.support.brokers import Broker
from tests.support.eventually import eventually
from tests.support.login import basic
from tests.support.services import Flower, Monitor, Worker

pytestmark = pytest.mark.usefixtures("producer")

# Seconds. Delays that outlast the end of one worker and the start of another: the later ones on a machine with much to do.
LATER = (15, 60, 240)


def kinds(broker: Broker, task_id: str) -> list[str]:
    return [event["type"] for event in eventlog.find(broker.url("ops"), task_id)]


def never_ran(broker: Broker, *sent: AsyncResult, timeout: float = 60) -> None:
    """Waits until the tasks were revoked; fails if one was started.

    The event log or the result tells of it: a broker that is killed may lose the newest of either, and is no matter here.
    """
    for one in sent:

        def revoked(one: AsyncResult = one) -> bool:
            return "task-revoked" in kinds(broker, one.id) or one.state == "REVOKED"

        eventually(revoked, timeout, lambda one=one: f"{one.id} is revoked; {kinds(broker, one.id)}")  # type: ignore[misc]
        assert "task-started" not in kinds(broker, one.id)
        assert one.state != "SUCCESS"


def knows(ops: Celery, *workers: Worker, id: str) -> bool:
    # It ends when all have answered.
    asked = ops.control.inspect([worker.node for worker in workers], timeout=10, limit=len(workers))
    answers = asked.revoked() or {}
    return len(answers) == len(workers) and all(id in ids for ids in answers.values())


# --- who was away


def test_no_worker_was_up(broker: Broker, make_worker: MakeWorker, producer: Celery) -> None:
    by_result, by_control, runs = add.delay(1, 1), add.delay(2, 2), add.delay(3, 3)
    by_result.revoke()
    producer.control.revoke([by_control.id])
    make_worker()
    never_ran(broker, by_result, by_control)
    with pytest.raises(TaskRevokedError):
        by_result.get(timeout=60)
    assert runs.get(timeout=60) == 6


def test_the_id_was_revoked_before_the_task_was_sent(broker: Broker, make_worker: MakeWorker, ops: Celery) -> None:
    early, late = str(uuid.uuid4()), str(uuid.uuid4())
    ops.control.revoke(early)
    waits = add.apply_async((1, 1), task_id=early)
    worker = make_worker()
    never_ran(broker, waits)
    ops.control.revoke(late)
    eventually(lambda: knows(ops, worker, id=late), 60, worker.tail)
    never_ran(broker, add.apply_async((1, 1), task_id=late))


def test_all_workers_were_killed_and_a_delayed_task_comes_later(
    broker: Broker, make_worker: MakeWorker, ops: Celery
) -> None:
    workers = [make_worker(), make_worker()]
    busy = [sleep.delay(100), sleep.delay(100)]
    eventually(lambda: all(one.state == "STARTED" for one in busy), 60, "they run")
    waits = add.delay(1, 1)
    ops.control.revoke([waits.id, *(one.id for one in busy)])
    eventually(lambda: knows(ops, *workers, id=waits.id), 60, workers[0].tail)
    for worker in workers:
        worker.kill()
    # What ran comes back to the queue, and was revoked.
    last = make_worker()
    never_ran(broker, waits)
    for one in busy:
        with pytest.raises(TaskRevokedError):
            one.get(timeout=60)
    for delay in LATER:
        delayed = add.apply_async((2, 2), countdown=delay)
        ops.control.revoke(delayed.id)
        eventually(lambda last=last, delayed=delayed: knows(ops, last, id=delayed.id), 60, last.tail)  # type: ignore[misc]
        last.kill()
        last = make_worker()
        if "task-revoked" not in kinds(broker, delayed.id):
            never_ran(broker, delayed, timeout=delay + 60)
            return
    pytest.fail("the time of each task came before that of the last worker")


@pytest.mark.parametrize("way", ["ended", "killed"])
def test_the_broker_was_started_anew(broker: Broker, make_worker: MakeWorker, way: str) -> None:
    waits, runs = add.delay(1, 1), add.delay(2, 2)
    waits.revoke()
    broker.kill() if way == "killed" else broker.end()
    broker.start()
    make_worker()
    never_ran(broker, waits)
    assert runs.get(timeout=120) == 4


def test_a_worker_joined_later(broker: Broker, make_worker: MakeWorker, ops: Celery) -> None:
    first = make_worker()
    revoked = str(uuid.uuid4())
    ops.control.revoke(revoked)
    eventually(lambda: knows(ops, first, id=revoked), 60, first.tail)
    later = make_worker()
    assert knows(ops, later, id=revoked)
    first.end()
    never_ran(broker, add.apply_async((1, 1), task_id=revoked))


def test_a_worker_missed_the_broadcast(
    broker: Broker, worker: Worker, make_worker: MakeWorker, producer: Celery, ops: Celery
) -> None:
    other = make_worker()
    for _ in range(10):
        revoked = str(uuid.uuid4())
        append(producer, make([revoked], by="nobody@nowhere"))
        # Milliseconds: the stream and the queue of tasks are not in step with each other.
        eventually(lambda revoked=revoked: knows(ops, worker, other, id=revoked), 60, worker.tail)  # type: ignore[misc]
        never_ran(broker, add.apply_async((1, 1), task_id=revoked))
    for one in (worker, other):
        assert f"revoked by nobody@nowhere: {revoked}" in one.text


def test_the_connection_was_lost_and_came_back(
    broker: Broker, worker: Worker, producer: Celery, make_worker: MakeWorker
) -> None:
    said = len(worker.text)
    broker.kill()
    broker.start()
    # Not broadcast: the worker may be back already, or not.
    waits, runs = add.apply_async((1, 1), countdown=3), add.apply_async((2, 2), countdown=3)
    append(producer, make([waits.id]))
    never_ran(broker, waits)
    assert runs.get(timeout=60) == 4
    assert "revoked: " in worker.text[said:]


def test_what_is_confirmed_before_a_worker_is_ready_does_not_run(
    broker: Broker, make_worker: MakeWorker, producer: Celery
) -> None:
    moments = ["", "Connected to", "revoked: ", "Connected to", "revoked: "]
    for moment in moments:
        # Many, so that one of them would be taken at once.
        waits = [add.delay(1, 1) for _ in range(3)]
        worker = make_worker(wait=False)
        eventually(lambda worker=worker, moment=moment: moment in worker.text, 60, worker.tail)  # type: ignore[misc]
        append(producer, make([one.id for one in waits]))
        if not worker.ready:
            never_ran(broker, *waits)
        worker.kill()


# --- what is revoked


def test_stamped_headers(broker: Broker, make_worker: MakeWorker, producer: Celery) -> None:
    batch, other = uuid.uuid4().hex, uuid.uuid4().hex

    def stamped(value: str) -> AsyncResult:
        signature = add.s(1, 2)
        signature.stamp(batch=value)
        return signature.apply_async()

    before, running_later, untouched = stamped(batch), stamped(other), add.delay(1, 1)
    producer.control.revoke_by_stamped_headers({"batch": [batch]})
    worker = make_worker()
    never_ran(broker, before)
    assert (running_later.get(timeout=60), untouched.get(timeout=60)) == (3, 2)
    append(producer, make(headers={"batch": other}))
    eventually(lambda: f"batch={other}" in worker.text, 60, worker.tail)
    never_ran(broker, stamped(other), stamped(batch))


def test_twenty_thousand_ids(broker: Broker, make_worker: MakeWorker, producer: Celery, ops: Celery) -> None:
    ids = [str(uuid.uuid4()) for _ in range(20_000)]
    producer.control.revoke(ids)
    first, last = (add.apply_async((1, 1), task_id=one) for one in (ids[0], ids[-1]))
    worker = make_worker()
    never_ran(broker, first, last)
    (known,) = ops.control.inspect([worker.node], timeout=10).revoked().values()
    assert set(ids) <= set(known)


def test_of_a_thousand_waiting_tasks_three_hundred_are_revoked(
    broker: Broker, make_worker: MakeWorker, monitor: Monitor, producer: Celery
) -> None:
    sent = [add.apply_async((number, 1), ignore_result=True) for number in range(1000)]
    revoked = {one.id for one in sent[::3][:300]}
    producer.control.revoke(revoked)
    make_worker(concurrency=4)
    ids = {one.id for one in sent}

    def counted(kind: str) -> Counter[str]:
        events = (event for entry in eventlog.replay(broker.url("ops")) for event in entry.events)
        return Counter(event["uuid"] for event in events if event["type"] == kind and event["uuid"] in ids)

    eventually(lambda: len(counted("task-succeeded")) + len(counted("task-revoked")) == 1000, 120, "all have ended")
    assert counted("task-started") == counted("task-succeeded") == dict.fromkeys(ids - revoked, 1)
    assert counted("task-revoked") == dict.fromkeys(revoked, 1)
    assert broker.waiting("default") == 0

    def history(state: str) -> set[str]:
        return {task["id"] for task in monitor.tasks(f"state={state}")} & ids

    eventually(lambda: history("REVOKED") == revoked, 60, monitor.tail)
    eventually(lambda: history("SUCCESS") == ids - revoked, 60, monitor.tail)


# --- who revokes


def test_a_producer_may_revoke_but_not_end(broker: Broker, worker: Worker, producer: Celery) -> None:
    running, waits = sleep.delay(100), add.delay(1, 1)
    eventually(lambda: running.state == "STARTED", 60, "it runs")
    waits.revoke()
    with pytest.raises(amqp.AccessRefused):
        running.revoke(terminate=True)
    eventually(lambda: f"revoked by {read_last(broker).by}: {running.id}" in worker.text, 60, worker.tail)
    assert running.state == "STARTED"
    worker.kill()


def test_a_producer_of_stock_celery_revokes_as_the_docs_say(broker: Broker, make_worker: MakeWorker) -> None:
    # docs/topology.md, "A producer of your own".
    web = Celery("web", broker=broker.url("producer"), set_as_current=False)
    web.conf.broker_transport_options = {"confirm_publish": True}
    waits = add.delay(1, 1)
    with web.connection_for_write() as connection:
        record = {"at": time.time(), "by": "web", "ids": [waits.id]}
        kombu.Producer(connection).publish(record, exchange="celery.revoked", routing_key="", serializer="json")
    make_worker()
    never_ran(broker, waits)
    assert read_last(broker).by == "web"


def read_last(broker: Broker) -> Any:
    return list(read(broker.url("ops")))[-1]


def test_a_revoke_leaves_no_word_and_no_queue_on_workers(
    broker: Broker, worker: Worker, producer: Celery, ops: Celery
) -> None:
    done, running = add.delay(1, 1), sleep.delay(100)
    assert done.get(timeout=60) == 2
    eventually(lambda: running.state == "STARTED", 60, "it runs")
    said, queues = len(worker.text), broker.queues()
    ops.control.revoke([str(uuid.uuid4()), done.id])
    waits = add.delay(1, 1)
    ops.control.revoke(waits.id)
    ops.control.revoke(running.id, terminate=True)
    with pytest.raises(TaskRevokedError):
        running.get(timeout=60)
    never_ran(broker, waits)
    # Those of earlier tests may vanish meanwhile.
    assert broker.queues() - queues == set()
    loud = [line for line in worker.text[said:].splitlines() if "WARNING" in line or "ERROR" in line]
    # Celery says of a process that was ended that it was: that is what was asked for.
    assert [line for line in loud if "SIGTERM" not in line] == []


def test_flowers_button_with_the_worker_down(broker: Broker, make_worker: MakeWorker, flower: Flower) -> None:
    def post(id_: str, query: str = "") -> int:
        request = urllib.request.Request(f"{flower.url}/api/task/revoke/{id_}{query}", data=b"", method="POST")
        request.add_header("Authorization", basic(*flower.login))
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)

    waits = add.delay(1, 1)
    assert post(waits.id) == 200
    worker = make_worker()
    never_ran(broker, waits)
    running = sleep.delay(100)
    eventually(lambda: running.state == "STARTED", 60, worker.tail)
    assert post(running.id, "?terminate=true") == 200
    with pytest.raises(TaskRevokedError):
        running.get(timeout=60)


# --- the stream


@pytest.fixture
def new_stream(broker: Broker) -> Iterator[Any]:
    """Makes the stream anew; so when the test is over, too."""

    def make_it() -> None:
        for kind in ("exchanges", "queues"):
            (made,) = [one for one in broker.definitions[kind] if one["name"] == STREAM]
            assert broker.api("PUT", f"{kind}/{VHOST}/{STREAM}", made).status in {201, 204}
        body = {"routing_key": "", "arguments": {}}
        assert broker.api("POST", f"bindings/{VHOST}/e/{EXCHANGE}/q/{STREAM}", body).status == 201

    yield make_it
    broker.api("DELETE", f"queues/{VHOST}/{STREAM}")
    make_it()


@pytest.mark.parametrize("lacks", ["queues", "exchanges"])
def test_a_stream_that_is_missing_is_said_and_followed_once_it_is_there(
    broker: Broker, make_worker: MakeWorker, producer: Celery, ops: Celery, new_stream: Any, lacks: str
) -> None:
    assert broker.api("DELETE", f"{lacks}/{VHOST}/{STREAM}").status == 204
    with pytest.raises(amqp.NotFound):
        producer.control.revoke(str(uuid.uuid4()))
    worker = make_worker()
    assert "revokes reach this worker by broadcast only" in worker.text
    assert "`invoke up` makes the stream celery.revoked" in worker.text
    assert add.delay(1, 2).get(timeout=60) == 3
    new_stream()
    eventually(lambda: "following celery.revoked" in worker.text, 60, worker.tail)
    revoked = str(uuid.uuid4())
    append(producer, make([revoked]))
    eventually(lambda: knows(ops, worker, id=revoked), 60, worker.tail)


def test_a_stream_that_was_made_anew_is_followed(
    broker: Broker, worker: Worker, producer: Celery, ops: Celery, new_stream: Any
) -> None:
    assert broker.api("DELETE", f"queues/{VHOST}/{STREAM}").status == 204
    new_stream()
    revoked = str(uuid.uuid4())
    append(producer, make([revoked]))
    eventually(lambda: knows(ops, worker, id=revoked), 60, worker.tail)


@pytest.mark.usefixtures("new_stream")
def test_what_is_no_record_is_skipped(broker: Broker, make_worker: MakeWorker, producer: Celery, ops: Celery) -> None:
    with broker.connection("ops") as connection:
        channel = connection.channel()
        channel.confirm_select()
        for body in (b"", b"\xff\xfe", b"[]", b'"x"', b'{"at": "now"}', b'{"at": 1, "ids": [7]}'):
            channel.basic_publish_confirm(amqp.Message(body), exchange=EXCHANGE, routing_key="")
    revoked, waits = str(uuid.uuid4()), add.delay(1, 1)
    producer.control.revoke([revoked, waits.id])
    worker = make_worker()
    never_ran(broker, waits)
    assert knows(ops, worker, id=revoked)
    assert worker.text.count("skipped: b") == 6
    assert [record.ids for record in read(broker.url("ops"))][-1] == (revoked, waits.id)
