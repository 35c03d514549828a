"""What the monitor knows of tasks that ran while it was away, stopped or killed, and of those that need attention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from app.tasks import add, fail, sleep
from tests.integration.conftest import MakeWorker
from tests.support.brokers import Broker, only
from tests.support.eventually import eventually
from tests.support.flood import check, end_of_log
from tests.support.processes import Process
from tests.support.services import Monitor, Worker

pytestmark = [pytest.mark.usefixtures("producer"), pytest.mark.timeout(600)]

# Seconds. A worker on a busy machine runs a hundred tasks a second.
PATIENCE = 240


def count(broker: Broker) -> int:
    """How many tasks are run: very many on one broker only, since they take a minute and the log is the same."""
    return 10_000 if broker.name.endswith("4.3") else 1_000


@contextmanager
def killed_every_two_seconds(monitor: Monitor) -> Iterator[None]:
    over = Event()

    def kill() -> None:
        while not over.wait(2):
            monitor.kill()
            monitor.start()

    thread = Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def all_succeeded(monitor: Monitor, sent: dict[str, str], worker: Worker) -> None:
    """Every task is there once, with right states and times."""
    found = [one for one in monitor.tasks("name=app.tasks.add") if one["id"] in sent]
    assert len(found) == len({one["id"] for one in found}) == len(sent)
    for one in found:
        assert (one["state"], one["args"], one["attempts"], one["retries"]) == ("SUCCESS", sent[one["id"]], 1, 0), one
        assert one["sent"] <= one["received"] <= one["started"] <= one["finished"] <= one["time"], one
        assert one["worker"] == worker.node, one
        assert one["runtime"] > 0, one
        assert one["wait"] >= 0, one
        assert (one["queue"], one["attention"], one["exception"]) == ("default", None, None), one


def test_tasks_that_ran_while_the_monitor_was_stopped_or_killed_again_and_again(
    broker: Broker, make_worker: MakeWorker, tmp_path: Path, processes: list[Process]
) -> None:
    only(broker, "4.3", "system", because="it takes half a minute, and 4.0 has the same log as 4.3")
    stopped, killed = (Monitor(broker, tmp_path / name) for name in ("stopped", "killed"))
    processes += [stopped, killed]
    eventually(lambda: stopped.ask("/readyz")[0] == 200, 60, stopped.tail)
    assert stopped.end() == 0
    worker = make_worker(concurrency=2)
    with killed_every_two_seconds(killed):
        sent = {add.apply_async((one, 1), ignore_result=True).id: f"({one}, 1)" for one in range(count(broker))}
        eventually(lambda: broker.waiting("default") == 0, PATIENCE, worker.tail)
        # A warm stop: what it runs it ends, and what it has to tell it tells.
        assert worker.end() == 0
    end = end_of_log(broker)
    stopped.start()
    for monitor in (stopped, killed):
        monitor.reaches(end)
        all_succeeded(monitor, sent, worker)
        check(broker, monitor.folder, list(sent))
        assert "ERROR" not in monitor.text


def test_a_failed_tasks_traceback_and_worker_outlive_the_monitor(
    broker: Broker, worker: Worker, monitor: Monitor
) -> None:
    failed = fail.delay("no such luck")
    eventually(lambda: monitor.task(failed.id).get("state") == "FAILURE", 60, monitor.tail)
    before = monitor.task(failed.id)
    assert before["worker"] == worker.node
    assert "in fail" in before["traceback"]
    assert before["exception"] == "RuntimeError('no such luck')"
    assert monitor.end() == 0
    monitor.start()
    eventually(lambda: monitor.task(failed.id) == before, 60, monitor.tail)


# --- what needs attention


@pytest.fixture
def watchful(broker: Broker, tmp_path: Path, processes: list[Process]) -> Monitor:
    """A monitor that misses tasks and workers soon."""
    made = Monitor(broker, tmp_path, {"MONITOR_UNCLAIMED_AFTER": "2", "MONITOR_SILENT_AFTER": "5"})
    processes.append(made)
    return made


def attention(monitor: Monitor, task_id: str) -> str | None:
    found = monitor.task(task_id).get("attention")
    return str(found) if found else None


def states(monitor: Monitor, task_id: str) -> list[str]:
    return [step["state"] for step in monitor.task(task_id)["steps"]]


def test_a_task_that_nobody_takes(broker: Broker, watchful: Monitor, make_worker: MakeWorker) -> None:
    sent = add.apply_async((1, 2), queue="mail")
    eventually(lambda: attention(watchful, sent.id) == "unclaimed", 60, watchful.tail)
    assert sent.id in [one["id"] for one in watchful.tasks("attention=unclaimed")]
    assert watchful.ask("/counts")[1]["attention"]["unclaimed"] >= 1
    watchful.says(f"Status: UNCLAIMED[app.tasks.add] ID {sent.id}")
    make_worker(options=("--queues", "mail"))
    eventually(lambda: watchful.task(sent.id)["state"] == "SUCCESS", 60, watchful.tail)
    assert attention(watchful, sent.id) is None
    assert sent.id not in [one["id"] for one in watchful.tasks("attention=any")]
    assert states(watchful, sent.id) == ["PENDING", "UNCLAIMED", "RECEIVED", "STARTED", "SUCCESS"]
    assert sum(f"UNCLAIMED[app.tasks.add] ID {sent.id}" in line for line in watchful.lines) == 1


def test_a_task_whose_worker_was_killed(broker: Broker, watchful: Monitor, make_worker: MakeWorker) -> None:
    only(broker, "4.3", "system", because="silence takes its time, and 4.0 delivers again as 4.3 does")
    # Before it has read what is in the log it would see nothing of the task.
    eventually(lambda: watchful.ask("/readyz")[0] == 200, 60, watchful.tail)
    first = make_worker()
    sent = sleep.delay(6)
    eventually(lambda: watchful.task(sent.id).get("state") == "STARTED", 60, watchful.tail)
    first.kill()
    # Nobody else is there who would take it.
    eventually(lambda: attention(watchful, sent.id) == "orphaned", 60, watchful.tail)
    second = make_worker()
    eventually(lambda: watchful.task(sent.id)["state"] == "SUCCESS", 60, watchful.tail)
    shown = watchful.task(sent.id)
    assert (shown["attention"], shown["attempts"], shown["worker"]) == (None, 2, second.node)
    steps = [(step["state"], step["worker"], step["note"]) for step in shown["steps"]]
    assert steps == [
        ("PENDING", None, None),
        ("RECEIVED", first.node, None),
        ("STARTED", first.node, None),
        ("ORPHANED", first.node, None),
        ("RECEIVED", second.node, "attempt 2"),
        ("STARTED", second.node, None),
        ("SUCCESS", second.node, None),
    ]
    watchful.says(f"Status: ORPHANED[app.tasks.sleep] ID {sent.id} worker={first.node}")
    workers = {one["name"]: one for one in watchful.ask("/workers")[1]["workers"]}
    assert workers[second.node]["alive"] is True


def test_a_task_that_waits_for_its_time_is_not_missed(
    broker: Broker, tmp_path: Path, processes: list[Process], worker: Worker
) -> None:
    for missed in (2, 20):
        watchful = Monitor(broker, tmp_path / str(missed), {"MONITOR_UNCLAIMED_AFTER": str(missed)})
        processes.append(watchful)
        later = add.apply_async((1, 2), countdown=3 * missed)
        assert later.get(timeout=120) == 3
        eventually(lambda: watchful.task(later.id).get("state") == "SUCCESS", 60, watchful.tail)  # noqa: B023
        # On a machine with much to do it may be taken so long after its time that it is missed.
        if "UNCLAIMED" not in states(watchful, later.id):
            break
    else:
        pytest.fail("it is missed")
    # It was due when it was taken.
    assert watchful.task(later.id)["wait"] < 2.5 * missed
