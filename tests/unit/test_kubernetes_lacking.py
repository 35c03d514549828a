"""Pods, Secrets and namespaces that are not there, or about to go: what is told of them, and what is tried again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.errors import ExitCode, WarrenError
from deploy.platforms.kubernetes import again, passwords, trouble
from deploy.platforms.kubernetes.asked import Rank, Reason
from tests.unit.test_kubernetes import ANSWERS, KUBECTL, READ, UP, items, made, pod, workload

OVERVIEW = f"{READ} get pods,horizontalpodautoscalers.autoscaling,deployments,statefulsets"


def of(kind: str, service: str, pods: int, wanted: int, **metadata: Any) -> dict[str, Any]:
    found = workload(service, pods, wanted, labels={"app.kubernetes.io/name": service}, **metadata)
    found["status"]["replicas"] = pods
    return {"kind": kind, **found}


def test_a_service_without_pods_is_shown_all_the_same(home: Path) -> None:
    stopping = pod("flower-a", "flower")
    stopping["metadata"]["deletionTimestamp"] = UP
    found = items(
        pod("rabbitmq-0", "rabbitmq"),
        pod("worker-a"),
        stopping,
        of("StatefulSet", "rabbitmq", 1, 3),
        of("Deployment", "worker", 1, 1),
        # None is what is wanted of these.
        of("Deployment", "worker-heavy", 0, 0),
        of("Deployment", "monitor", 0, 0),
        of("Deployment", "flower", 0, 1),
        # What `down` deletes.
        of("Deployment", "worker-old", 0, 1, deletionTimestamp=UP),
    )
    platform, _ = made({OVERVIEW: found})
    told = [
        (one.service, one.name, one.state, one.since.partition(" for ")[0])
        for one in platform.overview()[0]
        if not one.ready
    ]
    assert told == [
        ("rabbitmq", "rabbitmq", "starting", "2 pods are not there"),
        ("monitor", "monitor", "stopped", "scaled to 0"),
        ("flower", "flower", "starting", "1 pod is not there"),
        ("flower", "flower-a", "running", "stopping"),
    ]


def test_a_broker_that_its_operator_stopped_is_no_stack(home: Path) -> None:
    broker = items(of("StatefulSet", "rabbitmq", 0, 0))
    asked = "kubectl --context dev --request-timeout=10s get deployments --all-namespaces"
    job = pod("make-secrets-x", "make-secrets", ready=False, phase="Succeeded")
    answers = {
        f"{READ} get pods": items(job),
        f"{READ} get deployments,statefulsets": broker,
        OVERVIEW: items(job, of("StatefulSet", "rabbitmq", 0, 0)),
        asked: "shop",
    }
    platform, _ = made(answers)
    assert platform.overview()[0] == []
    assert platform.troubles() == ["stacks of this cluster are in shop (WARREN_PROJECT)"]


def test_where_no_pod_was_admitted_it_is_told_why_and_not_where_other_stacks_are(home: Path) -> None:
    flower = of("Deployment", "flower", 0, 1)
    flower["status"]["conditions"] = [
        {"type": "ReplicaFailure", "status": "True", "message": 'pods "f" is forbidden: exceeded quota: small'}
    ]
    platform, _ = made({f"{READ} get pods": items(), f"{READ} get deployments,statefulsets": items(flower)})
    assert platform.troubles() == [
        "dev/warren: the namespace admits no more pods: exceeded quota: small (flower); raise the quota (`kubectl get quota`)"
    ]


def test_what_was_not_admitted_is_tried_again_at_once(home: Path) -> None:
    short = items(
        of("ReplicaSet", "flower-1", 0, 0),
        of("ReplicaSet", "flower-2", 0, 1),
        of("StatefulSet", "rabbitmq", 1, 3),
        of("ReplicaSet", "worker-1", 2, 2),
    )
    platform, runner = made({f"{READ} get replicasets,statefulsets": short})
    again.admit(platform.kubectl)
    (line,) = runner.ran
    assert line.startswith(f"{KUBECTL} annotate --overwrite replicaset/flower-2 statefulset/rabbitmq warren/tried=2")
    platform, runner = made()
    platform.up(None)
    assert not any("annotate" in line for line in runner.ran)


@pytest.mark.parametrize(("job", "secret"), [("make-secrets", "warren"), ("make-keda-login", "warren-keda")])
@pytest.mark.parametrize(
    ("reason", "there", "anew"), [("CrashLoopBackOff", "", True), ("CrashLoopBackOff", "{}", False), ("", "", False)]
)
def test_a_job_that_got_nowhere_begins_anew(
    home: Path, job: str, secret: str, reason: str, there: str, anew: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    waits = [{"name": "make-secrets", "restartCount": 3, "state": {"waiting": {"reason": reason}}}]
    # The pods of both have one name in their labels.
    crashing = pod(f"{job}-x", "make-secrets", ready=False, containerStatuses=waits)
    crashing["metadata"]["labels"]["batch.kubernetes.io/job-name"] = job
    jobs = ({"metadata": {"name": name}, "status": {}} for name in ("make-secrets", "make-keda-login"))
    answers = {
        f"{READ} get jobs": items(*jobs),
        f"{READ} get secret warren --": "",
        f"{READ} get secret warren-keda --": "",
        f"{READ} get secret {secret} --": there,
        f"{READ} get pods": items(crashing),
    }
    platform, runner = made(answers)
    passwords.let_be_made(platform.kubectl)
    assert runner.ran == ([f"{KUBECTL} delete job/{job}"] if anew else [])
    assert ("got nowhere" in capsys.readouterr().err) is anew


def test_what_an_overlay_adds_is_none_of_the_stack(home: Path) -> None:
    redis = {
        "kind": "Deployment",
        "metadata": {"name": "redis", "labels": {"app.kubernetes.io/name": "redis"}},
        "spec": {},
    }
    platform, _ = made({f"{READ} get pods": items(pod("worker-a", "worker"), redis)})
    assert [one.service for one in platform.overview()[0]] == ["worker"]


def test_nothing_is_built_for_a_namespace_that_is_being_deleted(home: Path) -> None:
    going = json.dumps({"metadata": {"name": "warren", "deletionTimestamp": UP}})
    platform, runner = made(
        # Its pods take their time.
        {f"{READ} get pods": items(pod("worker-a")), f"{READ} get namespace warren": going},
        app_image="warren-app",
    )
    with pytest.raises(
        WarrenError, match="dev/warren: this namespace is being deleted; wait until it is gone"
    ) as caught:
        platform.up(None)
    assert caught.value.code is ExitCode.FAILED
    assert runner.ran == []


@pytest.mark.parametrize("rank", [None, Rank.FOLLOWS, Rank.CRASH])
def test_what_waits_for_a_pod_that_does_not_stop_is_told_what_ends_it(home: Path, rank: Rank | None) -> None:
    stopping = pod("rabbitmq-0", "rabbitmq", ready=False)
    stopping["metadata"] |= {"deletionTimestamp": UP, "deletionGracePeriodSeconds": 600}
    # It ends its tasks.
    ending = pod("worker-a")
    ending["metadata"]["deletionTimestamp"] = UP
    platform, _ = made({**ANSWERS, f"{READ} get pods": items(stopping, ending)})
    met = {Reason(rank, "worker waits"): ["worker-a"]} if rank is not None else {}
    first = str(trouble.error(platform.kubectl, met)).splitlines()[0]
    if rank is Rank.CRASH:
        assert first == "dev/warren: worker waits (worker-a)"
        return
    # A delete by --force would let another node have its volume while this one still runs.
    end = f"{KUBECTL} exec rabbitmq-0 --container rabbitmq -- bash -c 'kill -9 -1'"
    said, _, then = first.partition("; ")
    assert said.startswith("dev/warren: what comes next waits for rabbitmq-0 (stopping for ")
    assert said.endswith(", 600 s at most)")
    assert then == f"where it hangs, `{end}` ends it"


def test_a_broker_that_does_not_answer_is_named_by_its_place(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.platforms.kubernetes.forward.Forwarded.opened", lambda *_: {5672: 1, 15672: 2})
    where = made()[0].endpoints()
    # A forward's port tells nobody anything.
    assert (where.broker, where.broker_api) == ("dev/warren", "dev/warren")
    assert "`invoke restart rabbitmq` starts it anew" in where.no_answer
