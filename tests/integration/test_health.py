"""The worker's health: what probes see while the broker is away, and when the worker hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from app.health import RECONNECT_LIMIT, TICK_LIMIT
from deploy.paths import ROOT
from tests.support.brokers import Broker
from tests.support.eventually import eventually
from tests.support.services import Worker


def check(worker: Worker, question: str) -> int:
    """The exit code of the probe as every platform runs it."""
    command = [sys.executable, "-I", "-S", str(ROOT / "app" / "health.py"), question, str(worker.health)]
    return subprocess.run(command, capture_output=True, check=False).returncode


def age(worker: Worker, seconds: float) -> None:
    """Makes the last tick older, instead of waiting for it to age."""
    then = time.time() - seconds
    os.utime(worker.health / "alive", (then, then))


def test_ready_and_alive_while_consuming(worker: Worker) -> None:
    assert (check(worker, "ready"), check(worker, "alive")) == (0, 0)
    assert worker.end() == 0
    assert (check(worker, "ready"), check(worker, "alive")) == (1, 1)
    assert list(worker.health.iterdir()) == []


def test_a_broker_outage_makes_a_worker_unready_but_not_dead(broker: Broker, worker: Worker) -> None:
    broker.kill()
    try:
        eventually(lambda: check(worker, "ready") == 1, 30, worker.tail)
        assert check(worker, "alive") == 0
        # The loop does not tick while the worker looks for its broker.
        age(worker, RECONNECT_LIMIT - 60)
        assert check(worker, "alive") == 0
        age(worker, RECONNECT_LIMIT + 1)
        assert check(worker, "alive") == 1
    finally:
        broker.start()
    eventually(lambda: check(worker, "ready") == 0, 60, worker.tail)
    assert check(worker, "alive") == 0


@pytest.mark.usefixtures("broker")
def test_a_hanging_worker_is_neither_ready_nor_alive(worker: Worker) -> None:
    worker.signal(signal.SIGSTOP)
    age(worker, TICK_LIMIT + 1)
    assert (check(worker, "ready"), check(worker, "alive")) == (1, 1)
    worker.signal(signal.SIGCONT)
    eventually(lambda: check(worker, "ready") == 0, 30, worker.tail)
    assert check(worker, "alive") == 0
