"""Paused queues: nothing is taken from them, also by workers that come later, until they are resumed."""

from __future__ import annotations

from typing import Any

from celery import Celery

from app.revokes.log import append, make, paused
from tests.integration.conftest import MakeWorker
from tests.support.brokers import Broker
from tests.support.eventually import eventually
from tests.support.services import Worker


def consumed(ops: Celery) -> dict[str, set[str]]:
    """The queues that each worker consumes."""
    answers: dict[str, Any] = ops.control.inspect(timeout=2).active_queues() or {}
    return {node: {queue["name"] for queue in queues} for node, queues in answers.items()}


def test_a_pause_holds_for_workers_that_run_start_and_reconnect(
    broker: Broker, worker: Worker, make_worker: MakeWorker, producer: Celery, ops: Celery
) -> None:
    append(ops, make(queue="mail", paused=True))
    try:
        eventually(lambda: consumed(ops) == {worker.node: {"default"}}, 60, "it has left the queue")
        assert set(paused(broker.url("ops"))) == {"mail"}
        later = make_worker()
        assert consumed(ops)[later.node] == {"default"}
        for connection in broker.api("GET", "connections").body:
            if connection["user"] == "worker":
                broker.api("DELETE", f"connections/{connection['name'].replace(' ', '%20')}")
        waiting = producer.send_task("app.tasks.add", args=[2, 3], queue="mail")
        other = producer.send_task("app.tasks.add", args=[4, 5])
        assert other.get(timeout=60) == 9
        both = {worker.node: {"default"}, later.node: {"default"}}
        eventually(lambda: consumed(ops) == both, 60, "they are back, without the queue")
        assert waiting.state == "PENDING"
    finally:
        append(ops, make(queue="mail"))
    assert waiting.get(timeout=60) == 5
    both = {worker.node: {"default", "mail"}, later.node: {"default", "mail"}}
    eventually(lambda: consumed(ops) == both, 60, "they consume it again")
    assert paused(broker.url("ops")) == {}


def test_who_never_consumed_a_queue_does_not_begin_to_when_it_is_resumed(make_worker: MakeWorker, ops: Celery) -> None:
    worker = make_worker(options=("--queues", "default"))
    append(ops, make(queue="mail", paused=True))
    append(ops, make(queue="mail"))
    append(ops, make(queue="default", paused=True))
    eventually(lambda: consumed(ops) == {worker.node: set()}, 60, "it consumes nothing")
    append(ops, make(queue="default"))
    eventually(lambda: consumed(ops) == {worker.node: {"default"}}, 60, "it consumes its own queue only")


def test_a_queue_that_was_resumed_is_consumed_by_who_starts_then(make_worker: MakeWorker, ops: Celery) -> None:
    append(ops, make(queue="mail", paused=True))
    append(ops, make(queue="mail"))
    assert consumed(ops) == {}
    worker = make_worker()
    assert consumed(ops) == {worker.node: {"default", "mail"}}
