"""A broker that falls silent and says no goodbye: it hangs, or its host lost its power or its network."""

from __future__ import annotations

import signal
import uuid
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


class Line:
    """A network that the broker has for itself, beside that of its published ports: nobody else gets its address meanwhile."""

    def __init__(self, broker: Broker) -> None:
        self.container = broker.container.get_wrapped_container()  # type: ignore[attr-defined]
        self.network = self.container.client.networks.create(f"warren-test-{uuid.uuid4().hex[:12]}")
        self.network.connect(self.container)

    @property
    def address(self) -> str:
        self.container.reload()
        return str(self.container.attrs["NetworkSettings"]["Networks"][self.network.name]["IPAddress"])

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Its kernel takes what it is sent, and nothing answers."""
        self.container.pause()
        try:
            yield
        finally:
            self.container.unpause()

    @contextmanager
    def vanished(self) -> Iterator[None]:
        """Nobody takes what it is sent."""
        before = self.address
        self.network.disconnect(self.container, force=True)
        try:
            yield
        finally:
            self.network.connect(self.container)
            assert self.address == before

    def close(self) -> None:
        self.network.disconnect(self.container, force=True)
        self.network.remove()


@pytest.fixture
def line(broker: Broker) -> Iterator[Line]:
    only(broker, "4.3", because="it takes half a minute, and whoever is silent has no version")
    made = Line(broker)
    yield made
    made.close()


def lost(worker: Worker) -> bool:
    return "Connection to broker lost" in worker.text and not worker.ready


@pytest.mark.parametrize("silent", [Line.hanging, Line.vanished])
@pytest.mark.usefixtures("producer")
def test_a_worker_finds_out_that_its_broker_is_silent(
    broker: Broker, line: Line, make_worker: MakeWorker, silent: Callable[[Line], AbstractContextManager[None]]
) -> None:
    # Not by the published port: what is sent there, the engine may take.
    direct = {"CELERY_BROKER_URL": broker.url("worker").replace(f"{HOST}:{broker.amqp}", f"{line.address}:5672")}
    first, second = make_worker(values=direct), make_worker(values=direct)
    running = sleep.delay(2)
    eventually(lambda: any(f"{running.id}] received" in one.text for one in (first, second)), 60, first.tail)
    with silent(line):
        # One is told to stop before it can know, and hears it.
        second.signal(signal.SIGTERM)
        eventually(lambda: lost(first), PATIENCE, first.tail)
        assert second.popen.wait(PATIENCE) == 0, second.tail()
        assert first.popen.poll() is None
    eventually(lambda: first.ready, PATIENCE, first.tail)
    # What ran is run again, and goes to its caller.
    assert running.get(timeout=60) == 2
    assert add.delay(2, 3).get(timeout=60) == 5
