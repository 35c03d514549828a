"""What a user does in the first hour, step by step."""

from __future__ import annotations

import re
import signal
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from celery.exceptions import TaskRevokedError

from app import eventlog
from app.tasks import add, fail, sleep
from tests.support.brokers import Broker
from tests.support.browser import go, page
from tests.support.clients import client
from tests.support.eventually import eventually
from tests.support.processes import Process
from tests.support.services import Flower, Monitor, Worker

pytestmark = pytest.mark.usefixtures("producer")


@pytest.fixture(scope="module", autouse=True)
def empty_queues(broker: Broker) -> Iterator[None]:
    """Once, since the worker is there all the time."""
    yield
    broker.empty()


@pytest.fixture(scope="module")
def worker(broker: Broker, empty_queues: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker that runs one task at a time, all through the first hour."""
    made = Worker(broker, tmp_path_factory.mktemp("worker"))
    try:
        made.wait()
        yield made
    finally:
        made.kill()


def types(broker: Broker, task_id: str) -> list[str]:
    """The kinds of a task's events, in order."""
    return [event["type"] for event in eventlog.find(broker.url("ops"), task_id)]


def test_send_and_get(worker: Worker, ops: Celery) -> None:
    running = sleep.delay(100)
    assert running.ready() is False
    ops.control.revoke(running.id, terminate=True)
    sent = sleep.delay(1)
    assert sent.get(timeout=60) == 1
    assert sent.ready() is True
    with pytest.raises(RuntimeError, match="as you asked"):
        fail.delay().get(timeout=60)


def test_ready_without_get(worker: Worker, ops: Celery) -> None:
    assert add.delay(2, 3).get(timeout=60) == 5
    # From here on a consumer takes all results, also of those that nobody gets: Celery's rpc:// alone says "pending".
    running, polled = sleep.delay(100), sleep.delay(1)
    eventually(lambda: running.state == "STARTED", 60, lambda: running.state)
    assert (running.ready(), polled.ready()) == (False, False)
    ops.control.revoke(running.id, terminate=True)
    eventually(polled.ready, 60, lambda: polled.state)
    assert (polled.state, polled.result) == ("SUCCESS", 1)
    failed = fail.delay()
    eventually(failed.failed, 60, lambda: failed.state)
    # And what is polled first can be got later.
    assert polled.get(timeout=60) == 1
    both = [add.delay(1, 1), add.delay(2, 2)]
    eventually(both[1].ready, 60, lambda: both[1].state)
    assert [one.get(timeout=60) for one in both] == [2, 4]


def test_revoke_a_waiting_task(broker: Broker, worker: Worker, ops: Celery) -> None:
    running, waiting = sleep.delay(100), add.delay(1, 1)
    ops.control.revoke(waiting.id)
    eventually(
        lambda: waiting.id in ops.control.inspect([worker.node]).revoked()[worker.node], 60, "the worker knows of it"
    )
    ops.control.revoke(running.id, terminate=True)
    with pytest.raises(TaskRevokedError):
        waiting.get(timeout=60)
    assert waiting.state == "REVOKED"
    assert add.delay(1, 2).get(timeout=60) == 3
    eventually(lambda: "task-revoked" in types(broker, waiting.id), 60, "the event log tells of it")
    assert "task-started" not in types(broker, waiting.id)


def test_revoke_a_running_task(broker: Broker, worker: Worker, ops: Celery) -> None:
    running = sleep.delay(100)
    eventually(lambda: running.state == "STARTED", 60, "it runs")
    ops.control.revoke(running.id, terminate=True)
    with pytest.raises(TaskRevokedError):
        running.get(timeout=60)
    assert running.state == "REVOKED"
    assert add.delay(1, 2).get(timeout=60) == 3
    assert worker.ready
    eventually(lambda: types(broker, running.id)[-1] == "task-revoked", 60, "the event log tells of it")


def test_the_monitor_prints_five_kinds_of_lines(worker: Worker, monitor: Monitor, ops: Celery) -> None:
    added, failed, running = add.delay(2, 3), fail.delay(), sleep.delay(100)
    eventually(lambda: running.state == "STARTED", 60, "it runs")
    ops.control.revoke(running.id, terminate=True)
    for state, name, one in (
        ("RECEIVED", "add", added),
        ("STARTED", "add", added),
        ("SUCCESS", "add", added),
        ("FAILURE", "fail", failed),
        ("REVOKED", "sleep", running),
    ):
        line = monitor.says(f"Status: {state}[app.tasks.{name}] ID {one.id}")
        assert re.match(rf"Status: {state}\[app\.tasks\.{name}\] ID {one.id}\b", line)


@pytest.mark.browser
def test_flower_shows_and_ends_tasks_and_remembers_them(worker: Worker, flower: Flower) -> None:
    eventually(lambda: worker.node in flower.get("/api/workers"), 60, "Flower knows the worker")
    done, running = add.delay(2, 3), sleep.delay(100)
    assert done.get(timeout=60) == 5
    eventually(lambda: flower.task(done.id)["state"] == "SUCCESS", 60, "Flower's API shows the result")
    eventually(lambda: flower.task(running.id)["state"] == "STARTED", 60, "Flower's API shows the start")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        flower.get(f"/api/task/info/{done.id}", login=False)

    with page(*flower.login) as browser:
        go(browser, f"{flower.url}/tasks")
        browser.get_by_text(done.id).first.wait_for()
        go(browser, f"{flower.url}/task/{running.id}")
        browser.locator("#task-terminate").click()
        with pytest.raises(TaskRevokedError):
            running.get(timeout=60)
        eventually(lambda: flower.task(running.id)["state"] == "REVOKED", 60, "Flower's API shows the end")

        flower.restart(signal.SIGTERM)
        assert flower.task(done.id)["state"] == "SUCCESS"
        go(browser, f"{flower.url}/task/{running.id}")
        browser.get_by_text("REVOKED").first.wait_for()
    assert add.delay(1, 2).get(timeout=60) == 3


@pytest.mark.parametrize("asks", [False, True], ids=["after sending", "while waiting"])
def test_a_client_that_leaves_before_its_result(
    broker: Broker, worker: Worker, tmp_path: Path, processes: list[Process], asks: bool
) -> None:
    said = len(worker.text)
    gone = client(broker, tmp_path, f"sent = sleep.delay(2); print(sent.id); {'sent.get()' if asks else ''}")
    processes.append(gone)
    task_id = eventually(lambda: "".join(gone.lines), 60, gone.tail)
    eventually(lambda: "task-started" in types(broker, task_id), 60, "it runs")
    gone.kill()
    eventually(lambda: "task-succeeded" in types(broker, task_id), 60, worker.tail)
    (ended,) = [event for event in eventlog.find(broker.url("ops"), task_id) if event["type"] == "task-succeeded"]
    assert ended["result"] == "2"
    assert add.delay(1, 2).get(timeout=60) == 3
    assert worker.ready
    assert "ERROR" not in worker.text[said:]


def test_a_delayed_task_holds_up_no_other(worker: Worker) -> None:
    later = add.apply_async((1, 1), countdown=5)
    assert add.delay(2, 3).get(timeout=60) == 5
    assert later.ready() is False
    assert later.get(timeout=60) == 2
