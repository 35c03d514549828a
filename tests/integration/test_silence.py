"""A broker that falls silent and says no goodbye: it hangs, or its host lost its power or its network."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from app.tasks import add, sleep
from tests.integration.conftest import MakeWorker
from tests.support.brokers import HOST, Broker, only
from tests.support.eventually import eventually
from tests.support.services import Worker

pytestmark = pytest.mark.timeout(900)

# Seconds for what takes a worker some 60 to 90: two of its heartbeats.
PATIENCE = 200


@contextmanager
def hanging(broker: Broker) -> Iterator[None]:
    """Its kernel takes what it is sent, and nothing answers."""
    container = broker.container.get_wrapped_container()  # type: ignore[attr-defined]
    container.pause()
    try:
        yield
    finally:
        container.unpause()


@contextmanager
def vanished(broker: Broker) -> Iterator[None]:
    """Nobody takes what it is sent."""
    container = broker.container.get_wrapped_container()  # type: ignore[attr-defined]
    name, place = network(broker)
    found = container.client.networks.get(name)
    found.disconnect(container, force=True)
    try:
        yield
    finally:
        found.connect(container, ipv4_address=place if name != "bridge" else None)


def network(broker: Broker) -> tuple[str, str]:
    """The container's network, and its address there: what is sent to a published port may be taken by the engine."""
    container = broker.container.get_wrapped_container()  # type: ignore[attr-defined]
    container.reload()
    (name, about), *_ = container.attrs["NetworkSettings"]["Networks"].items()
    return str(name), str(about["IPAddress"])


def lost(worker: Worker) -> bool:
    return "Connection to broker lost" in worker.text and not worker.ready


@pytest.mark.parametrize("silent", [hanging, vanished])
@pytest.mark.usefixtures("producer")
def test_a_worker_finds_out_that_its_broker_is_silent(
    broker: Broker, make_worker: MakeWorker, silent: Callable[[Broker], AbstractContextManager[None]]
) -> None:
    only(broker, "4.3", because="it takes half a minute, and whoever is silent has no version")
    direct = {"CELERY_BROKER_URL": broker.url("worker").replace(f"{HOST}:{broker.amqp}", f"{network(broker)[1]}:5672")}
    first, second = make_worker(values=direct), make_worker(values=direct)
    running = sleep.delay(2)
    eventually(lambda: any(f"{running.id}] received" in one.text for one in (first, second)), 30, first.tail)
    with silent(broker):
        # One is told to stop before it can know, and hears it.
        second.signal(signal.SIGTERM)
        eventually(lambda: lost(first), PATIENCE, first.tail)
        assert second.popen.wait(PATIENCE) == 0, second.tail()
        assert first.popen.poll() is None
    eventually(lambda: first.ready, PATIENCE, first.tail)
    # What ran is run again, and goes to its caller.
    assert running.get(timeout=60) == 2
    assert add.delay(2, 3).get(timeout=60) == 5
