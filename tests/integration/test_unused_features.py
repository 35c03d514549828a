"""Nothing of Warren uses what RabbitMQ has announced to remove."""

from __future__ import annotations

import pytest
from celery import Celery

from app.tasks import add, sleep
from tests.support.brokers import Broker
from tests.support.eventually import eventually
from tests.support.services import Flower, Monitor, Worker


def test_no_deprecated_feature_is_in_use(
    broker: Broker, worker: Worker, monitor: Monitor, flower: Flower, producer: Celery, ops: Celery
) -> None:
    if broker.version < (4, 0):
        pytest.skip("RabbitMQ tells of deprecated features since 4.0")
    assert add.delay(2, 3).get(timeout=60) == 5
    assert add.apply_async((3, 4), countdown=1).get(timeout=60) == 7
    running = sleep.delay(100)
    monitor.says(f"Status: STARTED[app.tasks.sleep] ID {running.id}")
    ops.control.revoke(running.id, terminate=True)
    monitor.says(f"Status: REVOKED[app.tasks.sleep] ID {running.id}")
    eventually(lambda: worker.node in flower.get("/api/workers"), 60, "Flower knows the worker")
    # With all of them still connected.
    assert broker.api("GET", "deprecated-features").status == 200
    assert broker.api("GET", "deprecated-features/used").body == []
