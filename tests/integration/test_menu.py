"""The operator's menu on a real broker, with real workers and the monitor."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery import Celery

from app.tasks import add, fail, sleep
from app.tasks import retry as retried
from deploy import monitor_api
from deploy.commands import limits, queues, workers
from deploy.commands import retry as retrying
from deploy.errors import ExitCode, WarrenError
from deploy.session import Session
from tests.integration.conftest import MakeWorker
from tests.support.brokers import Broker
from tests.support.eventually import eventually
from tests.support.services import Monitor, Worker
from tests.support.sessions import session

Printed = pytest.CaptureFixture[str]


@pytest.fixture
def s(broker: Broker, monitor: Monitor) -> Session:
    made = session(broker, monitor)

    def up_to_date() -> bool:
        try:
            return monitor_api.behind(made.endpoints) is None
        except WarrenError:
            return False

    eventually(up_to_date, 60, lambda: f"the monitor is ready; {monitor.tail()}")
    return made


def told(capsys: Printed, command: Any, *values: Any) -> Any:
    """What ``command`` prints as JSON, which it is asked for by its last argument."""
    capsys.readouterr()
    command(*values, True)
    return json.loads(capsys.readouterr().out)


def state(s: Session, id_: str) -> str:
    return str((monitor_api.task(s.endpoints, s.secrets, id_) or {}).get("state"))


@pytest.mark.usefixtures("patient")
def test_what_workers_tell_of_themselves(
    s: Session, worker: Worker, make_worker: MakeWorker, producer: Celery, capsys: Printed
) -> None:
    other = make_worker(options=("--queues", "mail"), concurrency=2)
    sent = sleep.delay(100)
    eventually(lambda: sent.state == "STARTED", 60)
    active = told(capsys, workers.inspect, s, "active", "")
    assert active["silent"] == []
    assert {node: [task["id"] for task in tasks] for node, tasks in active["answers"].items()} == {
        worker.node: [sent.id],
        other.node: [],
    }
    for kind in ("reserved", "scheduled", "registered", "stats", "conf"):
        assert set(told(capsys, workers.inspect, s, kind, "")["answers"]) == {worker.node, other.node}
        workers.inspect(s, kind, other.node, False)
    assert broker_password(s) not in json.dumps(told(capsys, workers.inspect, s, "conf", ""))
    lines = {line["name"]: line for line in told(capsys, workers.workers, s, True)}
    mine, mail = lines[worker.node], lines[other.node]
    assert (mine["alive"], mine["active"], mine["concurrency"], mine["queues"]) == (True, 1, 1, ["default", "mail"])
    assert (mail["alive"], mail["active"], mail["concurrency"], mail["queues"]) == (True, 0, 2, ["mail"])
    assert mine["memory"] > 10_000_000


def broker_password(s: Session) -> str:
    return s.secrets["worker"]


def test_who_is_frozen_is_said_and_the_others_are_told(
    s: Session, worker: Worker, make_worker: MakeWorker, capsys: Printed
) -> None:
    import os
    import signal

    frozen = make_worker()
    os.kill(frozen.popen.pid, signal.SIGSTOP)
    try:
        with pytest.raises(WarrenError, match=f"1 of 2 workers did not answer within 1 s: {frozen.node}") as caught:
            workers.workers(s, False, True)
    finally:
        os.kill(frozen.popen.pid, signal.SIGCONT)
    assert caught.value.code is ExitCode.TIMEOUT
    alive = {line["name"]: line["alive"] for line in json.loads(capsys.readouterr().out)}
    assert alive == {worker.node: True, frozen.node: False}


def test_a_purge_empties_its_queue_and_no_other(s: Session, broker: Broker, producer: Celery, capsys: Printed) -> None:
    for number in range(5):
        add.apply_async((1, number), queue="mail", ignore_result=True)
    add.apply_async((2, 3), ignore_result=True)
    with pytest.raises(WarrenError, match="deletes 5 waiting tasks for good") as caught:
        queues.purge(s, "mail", False, False)
    assert caught.value.code is ExitCode.REFUSED
    assert broker.waiting("mail") == 5
    assert told(capsys, queues.purge, s, "mail", True) == {"queue": "mail", "purged": 5}
    assert (broker.waiting("mail"), broker.waiting("default")) == (0, 1)
    assert told(capsys, queues.purge, s, "mail", False) == {"queue": "mail", "purged": 0}


def test_queues_tell_how_long_the_oldest_waits(s: Session, producer: Celery, capsys: Printed) -> None:
    add.apply_async((1, 1), queue="mail", ignore_result=True)
    first = add.apply_async((2, 2), ignore_result=True)
    eventually(lambda: state(s, first.id) == "PENDING", 60)

    def ages() -> dict[str, Any]:
        return {row["queue"]: row["oldest_seconds"] for row in told(capsys, queues.queues, s, False)}

    # The broker counts every few seconds.
    eventually(lambda: (ages()["mail"] or 0) >= (ages()["default"] or 1e9), 60, lambda: f"ages: {ages()}")
    assert ages()["dead_letters"] is None


@pytest.mark.usefixtures("patient")
def test_pause_and_resume(s: Session, worker: Worker, producer: Celery, capsys: Printed) -> None:
    try:
        assert told(capsys, queues.pause, s, ["mail"]) == {
            "paused": True,
            "workers": 1,
            "silent": [],
            "consumers": {"mail": []},
        }
        sent = add.apply_async((2, 3), queue="mail")
        assert add.delay(4, 5).get(timeout=60) == 9
        assert sent.state == "PENDING"
        (held,) = told(capsys, queues.pause, s, [])
        assert held["queue"] == "mail"
        rows = {row["queue"]: row["state"] for row in told(capsys, queues.queues, s, False)}
        assert (rows["mail"], rows["default"]) == ("paused", "running")
    finally:
        resumed = told(capsys, queues.resume, s, ["mail"])
    assert resumed["consumers"] == {"mail": [worker.node]}
    assert sent.get(timeout=60) == 5
    assert told(capsys, queues.pause, s, []) == []


@pytest.mark.usefixtures("patient")
def test_a_rate_limit_holds_until_it_is_taken_away(
    s: Session, worker: Worker, producer: Celery, capsys: Printed
) -> None:
    set_ = told(capsys, limits.rate_limit, s, ["add", "1/h"])
    assert (set_["name"], set_["workers"], set_["refused"]) == ("app.tasks.add", [worker.node], {})
    assert told(capsys, limits.rate_limit, s, [])["limits"] == [
        {"name": "app.tasks.add", "rate_limit": "1/h", "workers": [worker.node]}
    ]
    assert add.delay(1, 1).get(timeout=60) == 2
    second = add.delay(2, 2)
    eventually(lambda: state(s, second.id) == "RECEIVED", 60)
    told(capsys, limits.rate_limit, s, ["add", "0"])
    assert told(capsys, limits.rate_limit, s, [])["limits"] == []
    assert add.delay(3, 3).get(timeout=60) == 6


def test_a_time_limit_ends_the_next_task(s: Session, worker: Worker, producer: Celery, capsys: Printed) -> None:
    limits.time_limit(s, ["sleep"], "1", "2", False, False)
    # With the usual limits in its message, as who has the task's code writes it.
    sent = sleep.delay(250)
    sent.get(timeout=60, propagate=False)
    assert "TimeLimitExceeded" in repr(sent.result)
    assert told(capsys, limits.time_limit, s, [], "", "", False)["limits"][0]["soft_time_limit"] == "1"
    limits.time_limit(s, ["sleep"], "", "", True, False)
    assert told(capsys, limits.time_limit, s, [], "", "", False)["limits"] == []
    assert sleep.delay(3).get(timeout=60) == 3


def test_a_failed_task_is_sent_again_with_its_arguments(
    s: Session, worker: Worker, producer: Celery, capsys: Printed
) -> None:
    sent = fail.delay("on purpose")
    eventually(lambda: state(s, sent.id) == "FAILURE", 60)
    (done,) = told(capsys, retrying.retry, s, [sent.id], "", "", "", False)
    assert (done["retry_of"], done["name"], done["error"]) == (sent.id, "app.tasks.fail", None)
    eventually(lambda: state(s, done["id"]) == "FAILURE", 60)
    again = monitor_api.task(s.endpoints, s.secrets, done["id"]) or {}
    assert again["exception"] == "RuntimeError('on purpose')"
    with pytest.raises(WarrenError) as caught:
        retrying.retry(s, [], "app.tasks.fail", "1h", "", False, False)
    assert caught.value.code is ExitCode.REFUSED
    assert sent.id in capsys.readouterr().out
    long = fail.delay("x" * 5000)
    eventually(lambda: state(s, long.id) == "FAILURE", 60)
    with pytest.raises(WarrenError, match="arguments are cut") as caught:
        retrying.retry(s, [long.id], "", "", "", False, False)
    assert caught.value.code is ExitCode.FAILED


def test_what_the_broker_holds_for_later(
    s: Session, broker: Broker, worker: Worker, producer: Celery, ops: Celery, capsys: Printed
) -> None:
    first = add.apply_async((1, 1), countdown=5000)
    second = add.apply_async((2, 2), countdown=9000)
    again = retried.delay(2, 7000)
    ops.control.revoke(second.id)

    def held() -> dict[str, Any]:
        return dict(told(capsys, queues.schedule, s, 50))

    try:
        eventually(lambda: held()["count"] == held()["in_broker"] == 3, 60, lambda: f"three are held: {held()}")
        found = [(task["id"], task["state"], task["revoked"]) for task in held()["tasks"]]
        assert found == [(first.id, "PENDING", False), (again.id, "RETRY", False), (second.id, "PENDING", True)]
    finally:
        with broker.connection() as connection:
            for name in broker.queues():
                if name.startswith("celery_delayed_"):
                    connection.channel().queue_purge(name)
