"""What other people run under the names that ours has: it is neither shown nor changed, and never deleted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.errors import ExitCode, WarrenError
from tests.unit.test_kubernetes import OTHERS, READ, at_once, items, made, pod, workload
from tests.unit.test_kubernetes_operator import ANSWERS, ITS, by_operator, cluster

__all__ = ["at_once"]  # for every test here, too

BROKERS = f"{READ} get rabbitmqclusters.rabbitmq.com rabbitmq"
CLAIMS = f"{READ} get persistentvolumeclaims --selector app.kubernetes.io/name=rabbitmq"
ALL_CLAIMS = f"{READ} get persistentvolumeclaims --output"
STATEFULSET = f"{READ} get statefulset rabbitmq"
NAME, INSTANCE = "app.kubernetes.io/name", "app.kubernetes.io/instance"

THEIRS = json.dumps({**json.loads(cluster()), "metadata": {"name": "rabbitmq", "labels": {"team": "payments"}}})

# One that a team has by the operator, with the name that ours has.
OPERATED: dict[str, Any] = {
    **ANSWERS,
    BROKERS: THEIRS,
    f"{READ} get pods --selector app.kubernetes.io/part-of=warren": items(pod("worker-a")),
    f"{READ} get pods --selector {ITS}": items(by_operator(pod("rabbitmq-server-0", "rabbitmq"))),
    f"{READ} get persistentvolumeclaims": items(by_operator({"metadata": {"name": "persistence-rabbitmq-server-0"}})),
}


def claim(name: str, noted: str = "", **labels: str) -> dict[str, Any]:
    notes = {"annotations": {"warren/rabbitmq-image": noted}} if noted else {}
    named = {NAME: "rabbitmq", **{f"app.kubernetes.io/{key}": value for key, value in labels.items()}}
    return {"metadata": {"name": name, "labels": named, **notes}}


@pytest.mark.parametrize("volumes", [True, False])
def test_down_leaves_a_broker_by_the_operator_alone(home: Path, volumes: bool) -> None:
    platform, runner = made(OPERATED)
    platform.down(volumes)
    assert [line.split()[5:7] for line in runner.ran] == [
        ["delete", "deployments"],
        ["delete", "deployments,statefulsets"],
    ]


def test_nor_is_it_shown_or_restarted_or_taken_for_a_stack(home: Path) -> None:
    platform, _ = made(OPERATED)
    assert [one.name for one in platform.status()] == ["worker-a"]
    assert platform.workload("rabbitmq") == "statefulset/rabbitmq"
    # Alone in its namespace.
    alone = {
        f"{READ} get pods": items(by_operator(pod("rabbitmq-server-0", "rabbitmq"))),
        f"{READ} get namespace warren": json.dumps({"metadata": {"name": "warren"}}),
        f"{READ} get deployments,statefulsets,daemonsets,cronjobs,pods": "statefulset.apps/rabbitmq-server\n",
        BROKERS: THEIRS,
    }
    platform, runner = made(alone)
    with pytest.raises(WarrenError, match=r"other things run in this namespace \(statefulset.apps/rabbitmq-server\)"):
        platform.up(None)
    assert runner.ran == []


def test_who_may_not_look_at_brokers_sees_the_pods_as_before(home: Path) -> None:
    said = 'rabbitmqclusters.rabbitmq.com "rabbitmq" is forbidden: User "jo" cannot get resource "rabbitmqclusters"'
    forbidden = WarrenError(f"`kubectl` ended with exit code 1: {said}", ExitCode.FAILED)
    platform, runner = made({**OPERATED, BROKERS: forbidden})
    assert [one.name for one in platform.status()] == ["rabbitmq-server-0", "worker-a"]
    platform.down(volumes=True)
    assert not any("rabbitmq" in line for line in runner.ran)


@pytest.mark.parametrize(
    ("owner", "found", "ours"),
    [
        # Ours while it is there, whatever its labels are by then.
        (workload("rabbitmq"), claim("data-rabbitmq-0"), True),
        (workload("rabbitmq"), claim("data-rabbitmq-0", instance="shop"), True),
        # By a chart, and one that took over what ours had left.
        (workload("rabbitmq", labels={NAME: "rabbitmq"}), claim("data-rabbitmq-0", instance="rabbitmq"), False),
        (workload("rabbitmq", labels={}), claim("data-rabbitmq-0"), False),
        (workload("rabbitmq", labels={}), claim("data-rabbitmq-0", "rabbitmq:4.3", **{"part-of": "warren"}), False),
        # What is left: of a chart, and of ours.
        (None, claim("data-rabbitmq-0", instance="rabbitmq"), False),
        (None, claim("data-rabbitmq-0"), True),
        (None, claim("data-rabbitmq-0", "rabbitmq:4.3", instance="shop"), True),
        (None, claim("data-rabbitmq-0", instance="shop", **{"part-of": "warren"}), True),
    ],
)
def test_the_claims_that_down_deletes(home: Path, owner: Any, found: dict[str, Any], ours: bool) -> None:
    answers = {CLAIMS: items(found), ALL_CLAIMS: items(found), f"{READ} get pods": items()}
    platform, runner = made({**answers, STATEFULSET: json.dumps(owner) if owner else ""})
    platform.down(volumes=True)
    assert any("delete persistentvolumeclaims data-rabbitmq-0 " in line for line in runner.ran) is ours


def test_up_does_not_advise_to_delete_the_broker_that_it_is_to_use(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    platform, _ = made({**OTHERS, STATEFULSET: json.dumps(workload("rabbitmq", labels={INSTANCE: "rabbitmq"}))})
    platform.up(None)
    assert "our own broker" not in capsys.readouterr().err


def test_workers_of_others_are_not_scaled(home: Path) -> None:
    theirs = {f"{READ} get deployment worker": json.dumps(workload("worker", labels={NAME: "worker"}))}
    platform, runner = made({**theirs, f"{READ} get pods": items()})
    with pytest.raises(WarrenError, match="dev/warren: nothing runs"):
        platform.scale(0, set())
    assert runner.ran == []
