"""A broker that RabbitMQ's cluster operator made: its labels and its StatefulSet are the operator's."""

from __future__ import annotations

import itertools
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from deploy.errors import ExitCode, WarrenError
from deploy.platforms.kubernetes import operated, progress
from tests.unit.test_kubernetes import KUBECTL, READ, STACK, at_once, items, made, pod, workload

__all__ = ["at_once"]  # for every test here, too

THERE = "'app.kubernetes.io/part-of in (warren,rabbitmq)'"
ITS = "app.kubernetes.io/name=rabbitmq,app.kubernetes.io/part-of=rabbitmq"
BROKERS = "rabbitmqclusters.rabbitmq.com"


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


def cluster(generation: int = 2, observed: int = 2, **condition: str) -> str:
    """A RabbitmqCluster of which the operator has seen the generation ``observed``."""
    status = {
        "observedGeneration": observed,
        "conditions": [{"type": "ReconcileSuccess", "status": "True", **condition}],
    }
    metadata = {"name": "rabbitmq", "generation": generation, "labels": {"app.kubernetes.io/part-of": "warren"}}
    return json.dumps({"metadata": metadata, "status": status})


def test_down_keeps_its_data_unless_they_may_go(home: Path) -> None:
    """Also where the operator has no StatefulSet of it, yet or any more."""
    answers = {
        **ANSWERS,
        f"{READ} get statefulsets --selector {THERE}": items(),
        f"{READ} get rabbitmqclusters.rabbitmq.com rabbitmq": cluster(),
        f"{READ} get pods --selector {ITS}": items(pod("rabbitmq-server-0", "rabbitmq")),
        f"{READ} get persistentvolumeclaims": items(
            by_operator({"metadata": {"name": "persistence-rabbitmq-server-0"}}),
            by_operator({"metadata": {"name": "persistence-other-server-0"}}, "other"),
        ),
    }
    platform, runner = made(answers)
    platform.down(volumes=False)
    stopped = [
        f"{KUBECTL} label pods rabbitmq-server-0 --overwrite skipPreStopChecks=true",
        f"{KUBECTL} exec rabbitmq-server-0 --container rabbitmq -- bash -c {shlex.quote(operated.SEEN)}",
        f"""{KUBECTL} patch {BROKERS}/rabbitmq --type merge --patch '{{"spec": {{"replicas": 0}}}}'""",
        f"{KUBECTL} wait pods --selector {ITS} --for=delete --timeout=660s",
    ]
    assert runner.ran[-4:] == stopped
    platform, runner = made(answers)
    platform.down(volumes=True)
    assert runner.ran[-6:-2] == stopped
    assert runner.ran[-2] == f"{KUBECTL} delete {BROKERS}/rabbitmq --cascade=foreground --timeout=660s"
    claim = "persistentvolumeclaims persistence-rabbitmq-server-0"
    assert runner.ran[-1] == f"{KUBECTL} delete {claim} --ignore-not-found --timeout=120s"


def test_where_the_cluster_knows_no_operator_there_is_none_of_it(home: Path) -> None:
    unknown = WarrenError(
        "`kubectl get` ended with exit code 1: error: the server doesn't have a resource type", ExitCode.FAILED
    )
    platform, _ = made({f"{READ} get rabbitmqclusters.rabbitmq.com rabbitmq": unknown})
    assert operated.ours(platform.kubectl) is None


def test_what_the_operator_has_not_made_yet_is_waited_for(home: Path) -> None:
    """Until then what is settled is its broker of before."""
    asked = f"{READ} get rabbitmqclusters.rabbitmq.com rabbitmq"
    # Once more, to know that it is ours.
    platform, runner = made({**ANSWERS, asked: [cluster(), cluster(3, 2), cluster(3, 3)]})
    progress.until_ready(platform.kubectl, 60)
    assert sum(line.startswith(asked) for line in runner.read_) == 3
    refused = cluster(3, 2, status="False", message="invalid override")
    platform, _ = made({**ANSWERS, asked: refused})
    with pytest.raises(WarrenError, match=r"RabbitMQ's operator says of the broker: invalid override"):
        progress.until_ready(platform.kubectl, 0)


def test_nodes_that_are_replaced_one_after_another_get_the_time_limit_each(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = itertools.count(step=8)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    turns = []
    for new in range(4):
        broker = workload("rabbitmq", 3 if new == 3 else 2, 3)
        broker["status"] |= {"updatedReplicas": new, "updateRevision": "b", "currentRevision": "a"}
        turns.append(items(broker))
    platform, _ = made({f"{READ} get deployments,statefulsets": turns})
    progress.until_ready(platform.kubectl, 20)
