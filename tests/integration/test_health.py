"""The worker's health: what probes see while the broker is away, and when the worker hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from celery import Celery

from app.health import RECONNECT_LIMIT, TICK_LIMIT
from app.tasks import sleep
from deploy.paths import ROOT
from tests.integration.conftest import MakeWorker
from tests.support import hang
from tests.support.brokers import RECOVERED, Broker, only
from tests.support.eventually import eventually
from tests.support.processes import ended
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
        eventually(lambda: check(worker, "ready") == 1, 60, worker.tail)
        assert check(worker, "alive") == 0
        # The loop does not tick while the worker looks for its broker.
        age(worker, RECONNECT_LIMIT - 60)
        assert check(worker, "alive") == 0
        age(worker, RECONNECT_LIMIT + 1)
        assert check(worker, "alive") == 1
    finally:
        broker.start()
    eventually(lambda: check(worker, "ready") == 0, RECOVERED, worker.tail)
    assert check(worker, "alive") == 0


@pytest.mark.usefixtures("broker")
def test_a_hanging_worker_is_neither_ready_nor_alive(worker: Worker) -> None:
    worker.signal(signal.SIGSTOP)
    age(worker, TICK_LIMIT + 1)
    assert (check(worker, "ready"), check(worker, "alive")) == (1, 1)
    worker.signal(signal.SIGCONT)
    eventually(lambda: check(worker, "ready") == 0, 60, worker.tail)
    assert check(worker, "alive") == 0


@pytest.mark.usefixtures("producer")
def test_a_worker_that_hangs_ends_with_all_that_it_runs(broker: Broker, make_worker: MakeWorker, ops: Celery) -> None:
    only(broker, "4.3", because="it takes a quarter of a minute, and the broker has no part in it")
    first = make_worker(options=hang.INCLUDE)
    sent = sleep.delay(3)
    eventually(lambda: f"{sent.id}] received" in first.text, 60, first.tail)
    (process,) = first.children
    ops.control.broadcast("hang", destination=[first.node])
    assert first.popen.wait(60) == 1, first.tail()
    assert "the event loop has stood still too long" in first.text
    eventually(lambda: ended(process), 60, "the process that ran the task has ended too")
    make_worker()
    assert sent.get(timeout=60) == 3


@pytest.mark.usefixtures("producer")
def test_a_broker_that_takes_no_messages_ends_no_worker(broker: Broker, make_worker: MakeWorker) -> None:
    only(broker, "4.3", "system", because="it takes half a minute, and 4.0 has the alarms of 4.3")
    worker = make_worker(options=hang.INCLUDE)
    # A result would wait for the broker too.
    sent = sleep.apply_async((hang.TICK_LIMIT + 10,), ignore_result=True)
    eventually(lambda: f"{sent.id}] received" in worker.text, 60, worker.tail)
    with broker.memory_alarm():
        eventually(lambda: check(worker, "ready") == 1, 60, worker.tail)
        # Longer than this worker's watchdog waits for a loop that hangs: its task, which runs on, is done.
        eventually(lambda: f"{sent.id}] succeeded" in worker.text, 120, worker.tail)
        assert check(worker, "alive") == 0
        assert worker.popen.poll() is None, worker.tail()
    eventually(lambda: check(worker, "ready") == 0, RECOVERED, worker.tail)
    assert worker.end() == 0
    # It was acknowledged, and does not run again.
    assert broker.waiting("default") == 0
    assert "the broker takes messages again" in worker.text
