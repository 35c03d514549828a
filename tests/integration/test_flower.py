"""What Flower shows is what happened, whenever it was started."""

from __future__ import annotations

import random
import signal
import urllib.parse
from threading import Event, Thread
from time import monotonic

import pytest
from celery import Celery, group

from app import eventlog
from app.tasks import add, fail
from tests.integration.conftest import MakeFlower, MakeWorker
from tests.support.brokers import Broker, only
from tests.support.eventually import eventually
from tests.support.login import basic
from tests.support.services import Flower

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("producer")]

# Seconds. On a machine with nothing else to do Flower is ready after some two.
STARTS_WITHIN = 2.0

ENDS = {"task-succeeded": "SUCCESS", "task-failed": "FAILURE", "task-revoked": "REVOKED"}


def ended(broker: Broker, ids: set[str]) -> dict[str, str]:
    """Which of these tasks the log has the end of, and how each ended."""
    return {
        event["uuid"]: ENDS[event["type"]]
        for entry in eventlog.replay(broker.url("ops"))
        for event in entry.events
        if event["type"] in ENDS and event["uuid"] in ids
    }


def shown(flower: Flower, ids: set[str]) -> dict[str, str]:
    return {id_: task["state"] for id_, task in flower.tasks().items() if id_ in ids}


def counted(flower: Flower, name: str, *labels: str) -> float:
    """The sum of a metric's values, of those with all ``labels``."""
    lines = str(flower.get("/metrics")).splitlines()
    found = [line for line in lines if line.startswith(f"{name}{{") and all(label in line for label in labels)]
    return sum(float(line.split()[-1]) for line in found)


def test_tasks_that_ran_before_its_first_start(
    broker: Broker, make_worker: MakeWorker, make_flower: MakeFlower, ops: Celery
) -> None:
    gone = make_worker(concurrency=2)
    sent = [one.id for one in group([add.s(number, 1) for number in range(980)]).apply_async()]
    sent += [fail.delay().id for _ in range(15)]
    eventually(lambda: broker.waiting("default") == 0, 120, gone.tail)
    eventually(lambda: len(ended(broker, set(sent))) == 995, 60, gone.tail)
    gone.kill()
    waiting = [add.delay(1, 1).id for _ in range(5)]
    ops.control.revoke(waiting)
    worker = make_worker()
    ids = {*sent, *waiting}
    eventually(lambda: len(ended(broker, ids)) == 1000, 60, worker.tail)

    flower = make_flower()
    flower.wait()
    found = shown(flower, ids)
    assert found == ended(broker, ids)
    assert sorted(found.values()) == ["FAILURE"] * 15 + ["REVOKED"] * 5 + ["SUCCESS"] * 980
    one = flower.task(sent[0])
    assert (one["args"], one["result"], one["worker"]) == ("(0, 1)", "1", gone.node)
    # Who was killed is not alive for being heard of, and who lives is.
    eventually(lambda: flower.get("/api/workers?status=1")[gone.node] is False, 60, flower.tail)
    eventually(lambda: flower.get("/api/workers?status=1")[worker.node], 60, flower.tail)
    assert counted(flower, "flower_worker_online", gone.node) == 0
    eventually(lambda: counted(flower, "flower_worker_online", worker.node) == 1, 60, flower.tail)
    # What happened before it was there is not counted as if it happened now.
    assert counted(flower, "flower_events_total", "task-succeeded") == 0
    assert add.delay(2, 3).get(timeout=60) == 5
    eventually(lambda: counted(flower, "flower_events_total", "task-succeeded") == 1, 60, flower.tail)
    assert counted(flower, "flower_worker_prefetched_tasks", worker.node) == 0

    flower.restart(signal.SIGTERM)
    assert "damaged" not in flower.text
    assert shown(flower, ids) == found
    # Asked with the rights of a monitoring user, which the broker's page shows too.
    names = "queues/warren?disable_stats=true&enable_queue_totals=true"
    assert broker.api("GET", names, role="flower").status == 200
    # Which gets a second to answer Flower.
    eventually(lambda: "default" in str(flower.get("/broker")), 60, flower.tail)


def test_who_may_see_what(broker: Broker, make_flower: MakeFlower) -> None:
    flower = make_flower(FLOWER_URL_PREFIX="/flower", FLOWER_METRICS_TOKEN="let-me-in", FLOWER_READ_ONLY="true")
    flower.wait()
    login, wrong = basic(*flower.login), basic("operator", "guess")
    for page in ("/", "/tasks", "/workers", "/broker", "/api/tasks", "/api/workers", "/metrics"):
        path = f"/flower{page}"
        assert [flower.ask(path)[0], flower.ask(path, authorization=wrong)[0]] == [401, 401], path
        assert flower.ask(path, authorization=login)[0] == 200, path
    assert flower.ask("/flower/metrics", authorization="Bearer let-me-in")[0] == 200
    assert flower.ask("/flower/metrics", authorization="Bearer guess")[0] == 401
    assert flower.ask("/flower/api/tasks", authorization="Bearer let-me-in")[0] == 401
    for page in ("/healthcheck", "/readyz", "/flower/healthcheck", "/flower/readyz"):
        assert flower.ask(page)[0] == 200, page
    revoke = f"/flower/api/task/revoke/{urllib.parse.quote('some-id')}"
    assert flower.ask(revoke, data=b"")[0] == 401
    assert flower.ask(revoke, authorization=login, data=b"")[0] == 403


def test_killed_in_a_loop_while_tasks_run(
    broker: Broker, make_worker: MakeWorker, make_flower: MakeFlower, producer: Celery
) -> None:
    only(broker, "4.3", because="five thousand tasks take a while")
    worker = make_worker(concurrency=2)
    flower = make_flower(FLOWER_STATE_SAVE_INTERVAL="300")
    ids: list[str] = []

    # By name, since a thread has no current app.
    task = producer.tasks[add.name]

    def send() -> None:
        for number in range(5_000):
            ids.append(task.apply_async((number, 1), ignore_result=True).id)

    sender = Thread(target=send)
    sender.start()
    ready = early = 0
    until = monotonic() + 300
    while sender.is_alive() or broker.waiting("default") or not (ready and early):
        assert monotonic() < until, worker.tail()
        if ready <= early:
            # It got on: with what there was, or at all.
            eventually(lambda: flower.ready, 60, flower.tail)
            ready += 1
        else:
            # Anywhere between its start and the end of its replay.
            Event().wait(random.uniform(0, STARTS_WITHIN))
            early += 1
        flower.kill()
        flower.start()
    sender.join()
    # First, since reading the whole log again and again would slow the worker down.
    eventually(lambda: len(ended(broker, set(ids))) == 5_000, 60, worker.tail)
    flower.wait()
    # It was ready for having seen the end lately, which may have been before the last of them.
    eventually(lambda: shown(flower, set(ids)) == dict.fromkeys(ids, "SUCCESS"), 60, flower.tail)
    assert "damaged" not in flower.text
    assert "Traceback" not in flower.text
