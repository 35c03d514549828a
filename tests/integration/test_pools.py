"""Worker pools on a real broker: whose limits hold, and that a pause of a pool is one of all its queues."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from celery.result import AsyncResult

from app.pools import Pool
from app.tasks import sleep
from deploy import where
from deploy.commands import queues, workers
from deploy.paths import ROOT
from tests.integration.conftest import MakeWorker
from tests.support.brokers import Broker, only
from tests.support.eventually import eventually
from tests.support.processes import PYTHON, Process
from tests.support.services import Monitor
from tests.support.sessions import session
from tests.support.tasks import INCLUDE, send_sleep

# Seconds. The default pool's soft limit is a second less, and enough for a task that only sends another.
SHORT, LONG = 6, 3600
# Far from both, also where a busy machine looks at its clocks late.
BETWEEN = 10

pytestmark = pytest.mark.usefixtures("patient")

HEAVY = Pool(name="heavy", queues=("mail",), time_limit=LONG)
POOLS = {
    "WARREN_QUEUES": "default",
    "WARREN_TASK_TIME_LIMIT": str(SHORT),
    "WARREN_POOLS": HEAVY.name,
    "WARREN_POOL_HEAVY_QUEUES": "mail",
    "WARREN_POOL_HEAVY_TIME_LIMIT": str(LONG),
}
OF_HEAVY = {**POOLS, "WARREN_POOL": HEAVY.name}

LIMIT = (SoftTimeLimitExceeded, TimeLimitExceeded)


@pytest.fixture(autouse=True)
def one_broker(broker: Broker) -> None:
    only(
        broker, "4.3", because="the broker has no part in who sets which limit, and tests of queues' pauses run on all"
    )


def test_each_pool_has_its_own_limits_whoever_sends(
    broker: Broker, make_worker: MakeWorker, monitor: Monitor, producer: Celery, capsys: pytest.CaptureFixture[str]
) -> None:
    default = make_worker(values=POOLS, options=INCLUDE, concurrency=2)
    heavy = make_worker(values=OF_HEAVY, options=INCLUDE, concurrency=4)
    s = session(broker, monitor, queues=("default",), task_time_limit=SHORT, pools=(HEAVY,))
    workers.workers(s, False, True)
    rows = {row["name"]: (row["pool"], row["queues"]) for row in json.loads(capsys.readouterr().out)}
    assert rows == {default.node: ("default", ["default"]), heavy.node: ("heavy", ["mail"])}

    # By who has the code, and by a worker of the other pool, whose own limit is the short one.
    from_worker = send_sleep.delay(BETWEEN, "mail").get(timeout=60)
    long = [sleep.apply_async((BETWEEN,), queue="mail"), AsyncResult(from_worker, app=producer)]
    short = sleep.delay(BETWEEN)
    # Who gives a limit gets it, also one that is shorter than the pool's soft limit.
    given = sleep.apply_async((1000,), queue="mail", time_limit=2)
    running = sleep.apply_async((1000,), queue="mail")
    eventually(lambda: running.state == "STARTED", 60)
    answer = eventually(lambda: (one := where.find(s, [running.id])[running.id]).kind == "running" and one, 60)
    assert f"of at most {LONG} s" in answer.line
    with pytest.raises(LIMIT):
        short.get(timeout=60)
    with pytest.raises(LIMIT):
        given.get(timeout=60)
    assert long[0].get(timeout=60) == BETWEEN
    # Its result goes to the worker that sent it; the event log tells of it.
    eventually(lambda: where.find(s, [from_worker])[from_worker].kind == "succeeded", 60)


# The project of somebody who has never heard of pools: its own base class, and a limit for one task.
SHOP = """
from time import sleep
from celery import Celery, Task

class Base(Task):
    pass

celery = Celery("shop", task_cls=Base)

@celery.task
def render(seconds):
    sleep(seconds)
    return seconds

@celery.task(base=Base, time_limit=2)
def hurry(seconds):
    sleep(seconds)
"""

CLIENT = f"""
from shop import hurry, render
from app import celery

sent = [one.apply_async(({BETWEEN},), queue="mail") for one in (render, hurry)]
print(sent[0].get(timeout=60))
print(type(sent[1].get(timeout=60, propagate=False)).__name__)
"""


def test_so_have_the_tasks_of_a_foreign_project(
    broker: Broker, make_worker: MakeWorker, tmp_path: Path, processes: list[Process]
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "shop.py").write_text(SHOP)
    foreign = {"CELERY_APP": "shop:celery", "PYTHONPATH": f"{ROOT}:{project}"}
    make_worker(values={**OF_HEAVY, **foreign}, cwd=project, concurrency=2)
    client = Process(
        [PYTHON, "-c", CLIENT],
        {**POOLS, **foreign, "CELERY_BROKER_URL": broker.url("producer")},
        tmp_path / "client.log",
        project,
    )
    processes.append(client)
    assert client.popen.wait(120) == 0, client.tail()
    assert client.lines[0] == str(BETWEEN)
    assert client.lines[1] in {"SoftTimeLimitExceeded", "TimeLimitExceeded"}


def test_a_pools_pause_holds_for_workers_that_come_later(
    broker: Broker, make_worker: MakeWorker, producer: Celery, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = Pool(name="heavy", queues=("mail",), time_limit=60)
    s = session(broker, queues=("default",), pools=(pool,))
    first = make_worker(values=OF_HEAVY)
    make_worker(values=POOLS)
    assert told(capsys, partial(queues.pause, pool="heavy"), s, [])["consumers"] == {"mail": []}
    try:
        later = make_worker(values=OF_HEAVY)
        waiting = producer.send_task("app.tasks.add", args=[2, 3], queue="mail")
        assert producer.send_task("app.tasks.add", args=[4, 5]).get(timeout=60) == 9
        assert waiting.state == "PENDING"
    finally:
        resumed = told(capsys, partial(queues.resume, pool="heavy"), s, [])
    assert set(resumed["consumers"]["mail"]) <= {first.node, later.node}
    assert waiting.get(timeout=60) == 5


def told(capsys: pytest.CaptureFixture[str], command: Any, *values: Any) -> Any:
    """What ``command`` prints as JSON."""
    capsys.readouterr()
    command(*values, as_json=True)
    return json.loads(capsys.readouterr().out)
