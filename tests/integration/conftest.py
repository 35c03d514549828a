"""The brokers and processes that the tests run on.

WARREN_TEST_BROKERS=4.3,local runs them on some brokers only; by default on all that this machine can run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import kombu.pools
import pytest
from celery import Celery

from app import factory
from app.settings import AppSettings
from deploy.commands import control
from deploy.settings import Settings
from tests.support import containers, private_node
from tests.support.brokers import Broker
from tests.support.processes import Process
from tests.support.services import Flower, Monitor, Worker

# In the order in which they run.
BROKERS = ("4.3", "4.0", "local")


def chosen() -> list[str]:
    text = os.environ.get("WARREN_TEST_BROKERS", "")
    names = [name.strip() for name in text.split(",") if name.strip()]
    if wrong := set(names) - set(BROKERS):
        raise pytest.UsageError(
            f"WARREN_TEST_BROKERS={text}: {', '.join(sorted(wrong))} is none of {', '.join(BROKERS)}"
        )
    return [name for name in BROKERS if not names or name in names]


@pytest.fixture(scope="session", params=chosen(), ids=lambda name: f"rabbitmq-{name}")
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker with the project's definitions; shared by all tests, which leave it as they found it."""
    folder = tmp_path_factory.mktemp("broker")
    # Two queues, so that routing can go wrong; a test must not depend on how full this machine's disk is.
    deployment = Settings(queues=("default", "mail"), disk_free_limit_mb=50)
    local = request.param == "local"
    if why := private_node.missing() if local else containers.missing(request.param):
        pytest.skip(f"rabbitmq {request.param}: {why}")
    made: Broker
    if local:
        made = private_node.PrivateNode(folder, deployment)
    else:
        made = containers.ContainerBroker(request.param, folder, deployment)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(autouse=True)
def empty_queues(broker: Broker) -> Iterator[None]:
    """What a failed test leaves in a queue is no other test's work."""
    yield
    broker.empty()


class MakeWorker(Protocol):
    """Starts a worker; see :class:`tests.support.services.Worker` for its options."""

    def __call__(self, *, wait: bool = True, **options: Any) -> Worker: ...


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    """What is in this list is ended when the test is over, however it ended."""
    running: list[Process] = []
    yield running
    for process in running:
        process.kill()


@pytest.fixture
def make_worker(broker: Broker, tmp_path: Path, processes: list[Process]) -> MakeWorker:
    def make(*, wait: bool = True, **options: Any) -> Worker:
        worker = Worker(broker, tmp_path, **options)
        processes.append(worker)
        if wait:
            worker.wait()
        return worker

    return make


@pytest.fixture
def worker(make_worker: MakeWorker) -> Worker:
    """A worker that runs one task at a time."""
    return make_worker()


@pytest.fixture
def monitor(broker: Broker, tmp_path: Path, processes: list[Process]) -> Monitor:
    made = Monitor(broker, tmp_path)
    processes.append(made)
    return made


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands wait longer for the answers of workers, which a busy machine may keep from answering within a second."""
    monkeypatch.setattr(control, "REPLY_PATIENCE", 10.0)


class MakeFlower(Protocol):
    """Starts a Flower with these variables, its state in ``folder`` or that of the test; it need not be ready yet."""

    def __call__(self, folder: Path | None = None, **values: str) -> Flower: ...


@pytest.fixture
def make_flower(broker: Broker, tmp_path: Path, processes: list[Process]) -> MakeFlower:
    def make(folder: Path | None = None, **values: str) -> Flower:
        state = {"FLOWER_DB": str(folder / "flower")} if folder else {}
        made = Flower(broker, tmp_path, {**values, **state})
        processes.append(made)
        return made

    return make


@pytest.fixture
def flower(make_flower: MakeFlower) -> Flower:
    made = make_flower()
    made.wait()
    return made


@pytest.fixture
def producer(broker: Broker) -> Iterator[Celery]:
    """The user's side: the app of this process, so that ``add.delay()`` sends through it."""
    app = factory.make(settings(broker, "producer"))
    yield app
    app.close()
    # Connections are shared by their URL; those to a broker that a test has killed are of no use to the next.
    kombu.pools.reset()


@pytest.fixture
def ops(broker: Broker) -> Iterator[Celery]:
    """The operator's side: remote control."""
    app = factory.client(settings(broker, "ops"))
    yield app
    app.close()


def settings(broker: Broker, role: str) -> AppSettings:
    return AppSettings(broker_url=broker.url(role), queues=broker.settings.queues)
