"""Where is my task? Each answer by the situation that it tells of, with the monitor and without."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from celery import Celery

from app.tasks import add, fail, retry, sleep
from deploy import monitor_api, where
from deploy.commands import queues
from deploy.where import Answer
from tests.integration.conftest import MakeWorker
from tests.support.brokers import Broker
from tests.support.eventually import eventually
from tests.support.services import Monitor
from tests.support.sessions import session

# Seconds for which the workers' heartbeats and events may be under way; the answers themselves are right at once.
SOON = 60


class Asker:
    """Asks where a task is, with and without the monitor."""

    def __init__(self, broker: Broker, monitor: Monitor, **settings: Any) -> None:
        self.sessions = {"monitor": session(broker, monitor, **settings), "no monitor": session(broker, **settings)}

    def answers(self, id_: str) -> dict[str, Answer]:
        return {name: where.find(s, [id_])[id_] for name, s in self.sessions.items()}

    def soon(self, id_: str, kind: str, *words: str) -> Answer:
        """The monitor's answer once both are of ``kind`` and have the ``words``."""
        last: dict[str, Answer] = {}

        def right() -> bool:
            last.update(self.answers(id_))
            return all(one.kind == kind and all(word in one.line for word in words) for one in last.values())

        eventually(right, SOON, lambda: f"{kind} with {words}; the answers are {last}")
        return last["monitor"]


@pytest.fixture
def ask(broker: Broker, monitor: Monitor) -> Asker:
    made = Asker(broker, monitor)
    ready = made.sessions["monitor"].endpoints
    eventually(lambda: monitor_api.behind(ready) is None or None, 60, lambda: f"the monitor is ready; {monitor.tail()}")
    return made


def test_waiting_and_no_worker_is_up(ask: Asker, producer: Celery) -> None:
    first, second = add.delay(1, 2), add.delay(3, 4)
    answer = ask.soon(second.id, "waiting", "in queue default since", "none is up", "invoke scale-workers 1")
    assert (answer.queue, answer.consumers, answer.before) == ("default", 0, 1)
    assert ask.answers(first.id)["monitor"].before == 0


def test_waiting_and_the_workers_take_from_other_queues(ask: Asker, producer: Celery, make_worker: MakeWorker) -> None:
    make_worker(options=("--queues", "mail"))
    sent = add.delay(1, 2)
    ask.soon(sent.id, "waiting", "no worker takes tasks from default: 1 is up, but it takes tasks from mail")


def test_waiting_reserved_and_running(ask: Asker, producer: Celery, make_worker: MakeWorker) -> None:
    worker = make_worker()
    running, waiting = sleep.delay(100), add.delay(1, 2)
    last = add.delay(1, 3)
    ask.soon(running.id, "running", f"running on {worker.node} for", "of at most 300 s")
    answer = ask.soon(waiting.id, "waiting", "1 worker takes tasks from default")
    assert (answer.before, answer.consumers) == (0, 1)
    assert ask.soon(last.id, "waiting").before == 1


def test_reserved_by_a_busy_worker(ask: Asker, producer: Celery, make_worker: MakeWorker) -> None:
    worker = make_worker(options=("--prefetch-multiplier", "2"))
    running, reserved = sleep.delay(100), add.delay(1, 2)
    answer = ask.soon(
        reserved.id, "reserved", f"reserved by {worker.node}", f"busy with app.tasks.sleep {running.id} for"
    )
    assert answer.worker == worker.node


def test_waiting_in_a_queue_that_is_paused(
    ask: Asker, broker: Broker, producer: Celery, make_worker: MakeWorker
) -> None:
    make_worker()
    s = ask.sessions["monitor"]
    queues.pause(s, ["default"], True)
    try:
        sent = add.delay(1, 2)
        ask.soon(sent.id, "waiting", "default was paused at", "`invoke resume default`")
    finally:
        queues.resume(s, ["default"], True)
    ask.soon(sent.id, "succeeded")


def test_scheduled(ask: Asker, producer: Celery) -> None:
    sent = add.apply_async((1, 2), countdown=3600)
    answer = ask.soon(sent.id, "scheduled", "held by the broker", "in 59m")
    assert (answer.queue, bool(answer.until)) == ("default", True)


def test_a_retry_is_scheduled(ask: Asker, producer: Celery, make_worker: MakeWorker) -> None:
    make_worker()
    sent = retry.delay(3, 3600)
    ask.soon(sent.id, "scheduled", "retry 1", "held by the broker")


def test_stalled(broker: Broker, monitor: Monitor, producer: Celery, make_worker: MakeWorker) -> None:
    worker = make_worker()
    sent = sleep.delay(100)
    # As after five minutes and more, for who asks: a limit long past.
    ask = Asker(broker, monitor, task_time_limit=-40)
    ask.soon(sent.id, "stalled", f"stalled: it has been running on {worker.node}", "longer than it may")


def test_orphaned_and_redelivered(ask: Asker, producer: Celery, make_worker: MakeWorker) -> None:
    worker = make_worker()
    sent = sleep.delay(100)
    ask.soon(sent.id, "running", worker.node)
    worker.kill()
    ask.soon(sent.id, "orphaned", f"{worker.node} died", "while it ran this", "none is up")
    other = make_worker()
    answer = ask.soon(sent.id, "redelivered", f"running on {other.node}", "attempt 2", f"{worker.node} died")
    assert answer.worker == other.node


def test_done_and_failed(ask: Asker, producer: Celery, make_worker: MakeWorker) -> None:
    worker = make_worker()
    good, bad = add.delay(20, 22), fail.delay("no money")
    answer = ask.soon(good.id, "succeeded", "done at", worker.node, ": 42")
    assert (answer.reason, answer.ended) == ("42", True)
    answer = ask.soon(bad.id, "failed", "failed at", worker.node, "no money")
    assert answer.ended


def test_revoked_with_no_worker_up(ask: Asker, producer: Celery, ops: Celery, make_worker: MakeWorker) -> None:
    waiting, held = add.delay(1, 2), add.apply_async((1, 2), countdown=3600)
    unsent = str(uuid.uuid4())
    ops.control.revoke([waiting.id, held.id, unsent])
    answer = ask.soon(waiting.id, "revoked", "revoked at", " by ", "still waits in queue default", "none is up")
    assert answer.by
    ask.soon(held.id, "revoked", "the broker holds it until")
    ask.soon(unsent, "revoked", "if it is sent")
    worker = make_worker()
    ask.soon(waiting.id, "revoked", "revoked at", " by ", f"{worker.node} discarded it at")


def test_terminated(ask: Asker, producer: Celery, ops: Celery, make_worker: MakeWorker) -> None:
    worker = make_worker()
    running = sleep.delay(100)
    ask.soon(running.id, "running")
    ops.control.revoke(running.id)
    ask.soon(running.id, "running", "revoked at", "while it ran", "--terminate")
    ops.control.revoke(running.id, terminate=True)
    ask.soon(running.id, "revoked", f"{worker.node} ended it (terminated by signal")


def test_expired(ask: Asker, producer: Celery, make_worker: MakeWorker) -> None:
    in_queue = add.apply_async((1, 2), expires=1)
    ask.soon(in_queue.id, "dead", "in dead_letters since", "expired in default before a worker took it")


def test_rejected_by_workers_that_do_not_know_it(ask: Asker, producer: Celery, make_worker: MakeWorker) -> None:
    make_worker()
    sent = producer.send_task("shop.unheard_of")
    answer = ask.soon(sent.id, "dead", "a worker rejected it", "NotRegistered", f"invoke dead-letters show {sent.id}")
    assert answer.reason == "rejected"


def test_no_queue_for_it(ask: Asker, producer: Celery) -> None:
    sent = producer.send_task("app.tasks.add", (1, 2), exchange="tasks", routing_key="elsewhere")
    ask.soon(sent.id, "dead", "there is no queue elsewhere for it")


def test_purged(ask: Asker, producer: Celery, broker: Broker) -> None:
    sent = add.delay(1, 2)
    ask.soon(sent.id, "waiting")
    broker.empty()
    ask.soon(sent.id, "unknown", "not found", "which is empty, and no worker has it", "purged?")


def test_never_sent(ask: Asker) -> None:
    ask.soon(str(uuid.uuid4()), "unknown", "no event of the last 7D mentions it")
