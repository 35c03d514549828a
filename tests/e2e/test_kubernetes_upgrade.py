"""The broker's image from RabbitMQ 4.0 to 4.3, as docs/upgrade.md has it: what the broker held before, it holds afterwards.

The tests share one stack, on one node, and run in the order in which they stand here.
"""

from __future__ import annotations

import json

import pytest

from deploy.paths import ROOT
from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.ledger import LEDGER, LONG, Ledger

OLD, NEW = "rabbitmq:4.0-management", "rabbitmq:4.3-management"

# Seconds until a delayed task is due: longer than the broker takes to be there again would be too long to wait for.
LATER = 45

# What nobody changes meanwhile.
KEPT = ("dead_letters", "celery.revoked")

# Tasks that wait for a worker while the broker is replaced.
WAITING = 100

# One more for later, and one that is revoked.
OTHERS = f"""
from app import celery
from celery import uuid
send = lambda name, *args, **more: celery.send_task(name, args=args, ignore_result=True, **more)
send("ledger_tasks.enter", "later-0", 0, countdown={LATER})
send("ledger_tasks.enter", "revoked-0", 0, task_id=(never := uuid()))
celery.control.revoke(never)
"""

# What the monitor's history has, by state.
HISTORY = """
import json, os, urllib.request
from collections import Counter
asked = urllib.request.Request("http://127.0.0.1:5556/tasks?limit=500&name=ledger_tasks.enter")
asked.add_header("Authorization", "Bearer " + os.environ["MONITOR_TOKEN"])
print(json.dumps(Counter(one["state"] for one in json.load(urllib.request.urlopen(asked))["tasks"])))
"""


class Stack(Ledger):
    def run(self, program: str) -> None:
        self.exec("deployment/producer", "python3", "-c", program)

    def workers(self, count: int) -> None:
        self.cluster.kubectl("scale", "deployment/worker", f"--replicas={count}")
        self.awaited(self.ready)

    def held(self) -> dict[str, int]:
        """How many messages each durable queue has."""
        listed = self.queues("name", "type", "messages")
        return {one["name"]: one["messages"] for one in listed if one["type"] in ("quorum", "stream")}

    def version(self) -> str:
        return self.exec("rabbitmq-0", "rabbitmqctl", "--silent", "version").strip()

    def known(self) -> dict[str, int]:
        """How many tasks of the ledger the monitor knows, by state."""
        return dict(json.loads(self.exec("deployment/monitor", "python3", "-c", HISTORY)))

    def apply_with(self, broker: str) -> None:
        self.apply(LEDGER, images=(broker,))


@pytest.fixture(scope="module")
def stack(cluster: Cluster, app_image: str, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    cluster.load(OLD)
    made = Stack(cluster, tmp_path_factory.mktemp("upgrade"), ROOT / "k8s" / "overlays" / "dev", app_image)
    made.apply_with(OLD)
    made.await_ready()
    return made


@pytest.fixture(scope="module")
def before(stack: Stack) -> dict[str, int]:
    """What the old broker has when it is replaced."""
    assert stack.version().startswith("4.0.")
    assert stack.send("done-", 20, 0).wait(LONG) == 0
    stack.all_done("done-", 20)
    stack.run('from app import celery; celery.send_task("no.such.task", ignore_result=True)')
    eventually(lambda: stack.held()["dead_letters"] == 1, LONG, "what no worker knows is put aside")
    stack.workers(0)
    assert stack.send("waiting-", WAITING, 0, rate=1000).wait(LONG) == 0
    stack.run(OTHERS)
    stack.exec("rabbitmq-0", "rabbitmqctl", "enable_feature_flag", "all")
    # The broker counts every few seconds only.
    eventually(lambda: tasks(stack.held()) == WAITING + 2 and stack.held()["celery.revoked"], LONG, "all of them wait")
    return stack.held()


def kept(before: dict[str, int], now: dict[str, int]) -> bool:
    """Whether what lives in queues and streams is there. The last events of a worker that left may be counted late."""
    return now["celery.events"] >= before["celery.events"] and all(now[name] == before[name] for name in KEPT)


def tasks(held: dict[str, int]) -> int:
    """How many tasks wait, for a worker or for their time."""
    return sum(messages for queue, messages in held.items() if queue == "default" or "delayed" in queue)


def test_a_newer_broker_has_all_that_the_older_one_had(stack: Stack, before: dict[str, int]) -> None:
    stack.apply_with(NEW)
    eventually(lambda: stack.version().startswith("4.3.") and stack.ready(), LONG, "the new broker serves")

    def same() -> bool:
        now = stack.held()
        return tasks(now) == WAITING + 2 and kept(before, now)

    eventually(same, LONG, lambda: f"{before} became {stack.held()}")


def test_every_task_runs_on_the_newer_broker_but_the_revoked_one(stack: Stack, before: dict[str, int]) -> None:
    stack.workers(1)
    stack.all_done("waiting-", WAITING)
    stack.all_done("later-", 1)
    eventually(lambda: tasks(stack.held()) == 0, LONG, "no task waits")
    assert not stack.entries("began", "revoked-")
    assert stack.held()["dead_letters"] == 1
    eventually(lambda: stack.known() == {"SUCCESS": 20 + WAITING + 1, "REVOKED": 1}, LONG, lambda: f"{stack.known()}")


def test_it_starts_again_with_all_that_is_new_enabled(stack: Stack, before: dict[str, int]) -> None:
    stack.exec("rabbitmq-0", "rabbitmqctl", "enable_feature_flag", "all")
    stack.workers(0)
    earlier = stack.held()
    stack.cluster.kubectl("delete", "pod", "rabbitmq-0")
    stack.await_ready()
    eventually(lambda: kept(earlier, stack.held()), LONG, lambda: f"{earlier} became {stack.held()}")
