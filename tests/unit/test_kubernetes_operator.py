"""A broker that RabbitMQ's cluster operator made: its labels and its StatefulSet are the operator's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_kubernetes import KUBECTL, READ, STACK, at_once, items, made, pod, workload

__all__ = ["at_once"]  # for every test here, too

THERE = "'app.kubernetes.io/part-of in (warren,rabbitmq)'"


def by_operator(found: dict[str, Any], name: str = "rabbitmq") -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "rabbitmq"}
    return {**found, "metadata": {**found["metadata"], "labels": labels}}


BROKER = by_operator(workload("rabbitmq-server", 3, 3))
ANOTHER = by_operator(workload("other-server", 0, 3), "other")
ANSWERS = {
    f"{READ} get pods --selector {THERE}": items(
        pod("worker-a"), by_operator(pod("rabbitmq-server-0", "rabbitmq")), by_operator(pod("other-0"), "other")
    ),
    f"{READ} get statefulsets --selector {THERE}": items(BROKER, ANOTHER),
    f"{READ} get deployments,statefulsets --selector {THERE}": items(
        *(one for one in STACK if one["metadata"]["name"] != "rabbitmq"), BROKER, ANOTHER
    ),
}


def test_status_lists_it_and_no_other(home: Path) -> None:
    platform, _ = made(ANSWERS)
    assert [one.name for one in platform.status()] == ["rabbitmq-server-0", "worker-a"]


def test_it_is_waited_for_restarted_and_reached_under_its_own_name(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    platform, runner = made(ANSWERS)
    platform.restart(["rabbitmq", "worker"])
    assert runner.ran[1:] == [f"{KUBECTL} rollout restart statefulset/rabbitmq-server deployment/worker"]
    assert "ready: rabbitmq 3/3, worker 1/1" in capsys.readouterr().err
    platform.exec("rabbitmq", ["rabbitmqctl", "status"])
    assert runner.attached == [f"{KUBECTL} exec --stdin rabbitmq-server-0 --container rabbitmq -- rabbitmqctl status"]


def test_down_keeps_its_data_unless_they_may_go(home: Path) -> None:
    broker = "rabbitmqclusters.rabbitmq.com/rabbitmq"
    its = "app.kubernetes.io/name=rabbitmq,app.kubernetes.io/part-of=rabbitmq"
    platform, runner = made(ANSWERS)
    platform.down(volumes=False)
    assert runner.ran[-2:] == [
        f"""{KUBECTL} patch {broker} --type merge --patch '{{"spec": {{"replicas": 0}}}}'""",
        f"{KUBECTL} wait pods --selector {its} --for=delete --timeout=660s",
    ]
    platform, runner = made(ANSWERS)
    platform.down(volumes=True)
    assert runner.ran[-2] == f"{KUBECTL} delete {broker} --timeout=660s"
    assert "persistentvolumeclaims" in runner.ran[-1]
