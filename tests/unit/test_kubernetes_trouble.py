"""What an operator is told where the stack does not get ready: the cause, once, and what to do; and what `up` tries again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from deploy.errors import ExitCode, WarrenError
from deploy.platforms.kubernetes import again
from deploy.platforms.kubernetes import progress as waiting
from tests.unit.test_kubernetes import KUBECTL, READ, STACK, UP, at_once, items, made, pod, workload

__all__ = ["at_once"]

SECRET = f"{READ} get secret warren --ignore-not-found --output name"
EVENTS = f"{READ} get events"
# The stack with a broker that serves: what is wrong has nothing to do with it.
HERE = {f"{READ} get deployments,statefulsets": items(*STACK), SECRET: "secret/warren"}


def event(name: str, reason: str, message: str, at: str = UP) -> dict[str, Any]:
    return {
        "involvedObject": {"name": name},
        "reason": reason,
        "message": message,
        "lastTimestamp": at,
        "metadata": {"name": "e"},
    }


def stuck(reason: str, message: str = "", service: str = "worker", image: str = "", **state: Any) -> dict[str, Any]:
    """A pod whose container waits."""
    waits = {"name": service, "restartCount": 0, "state": {"waiting": {"reason": reason, "message": message}}, **state}
    found = pod(f"{service}-a", service, ready=False, phase="Pending", containerStatuses=[waits])
    found["spec"]["containers"][0]["image"] = image or "warren-app:0123"
    return found


def homeless(name: str, message: str, service: str = "worker", claim: str = "") -> dict[str, Any]:
    """A pod that no node takes."""
    unscheduled = [{"type": "PodScheduled", "status": "False", "message": message}]
    found = pod(name, service, ready=False, phase="Pending", conditions=unscheduled, containerStatuses=[])
    found["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "200m", "memory": "1Gi"}}
    found["spec"]["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}] if claim else []
    return found


def told(*found: dict[str, Any], answers: dict[str, Any] | None = None) -> list[str]:
    """What `up` says of these pods in the end, without the place and the last line."""
    platform, _ = made({**HERE, f"{READ} get pods": items(*found), **(answers or {})})
    platform.kubectl.runner.answers[f"{READ} get deployments,statefulsets"] = items(workload("worker", 0), *STACK[:3])  # type: ignore[attr-defined]
    with pytest.raises(WarrenError) as caught:
        waiting.until_ready(platform.kubectl, 0)
    assert caught.value.code is ExitCode.TIMEOUT
    *lines, last = str(caught.value).splitlines()
    assert last == "dev/warren: what came up is left as it is; see `invoke logs`, and `invoke up` to go on"
    return [line.removeprefix("dev/warren: ") for line in lines]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            stuck("ErrImagePull"),
            "nodes can't get the image warren-app:0123 (worker-a); `invoke build --push REGISTRY` puts it where",
        ),
        (
            stuck(
                "ImagePullBackOff", "ErrImagePull: lookup registry.example: no such host", image="registry.example/a:1"
            ),
            "nodes can't get the image registry.example/a:1: they don't reach its registry (worker-a); "
            "is its name right (WARREN_APP_IMAGE)?",
        ),
        (
            stuck("ImagePullBackOff", "ErrImagePull: 401 unauthorized", "rabbitmq", "registry.example/rabbitmq:4.3"),
            "its registry refuses, or has none of that name (rabbitmq-a); is its name right (WARREN_RABBITMQ_IMAGE)? "
            "Else nodes need a login",
        ),
        (
            stuck("ImagePullBackOff", "ErrImagePull: r/a:1: not found", image="r/a:1"),
            "its registry has none of that name",
        ),
        (stuck("InvalidImageName", image="r/A:1"), "r/A:1 is no name of an image (worker-a); mend WARREN_APP_IMAGE"),
        (stuck("ImagePullBackOff", "ErrImagePull: odd", image="r/a:1"), "can't get the image r/a:1 (worker-a); is its"),
        (
            stuck("RunContainerError", "no such file"),
            "worker can't start: RunContainerError: no such file (worker-a)",
        ),
        (
            stuck("CrashLoopBackOff", lastState={"terminated": {"reason": "OOMKilled"}}),
            "worker is killed, as it needs more memory than its limit (worker-a); raise `resources` in an overlay",
        ),
        (
            homeless(
                "rabbitmq-1", "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.", "rabbitmq"
            ),
            "each broker node needs a node of its own (`kubectl get nodes`); with fewer than three take the overlay dev",
        ),
        (
            homeless(
                "flower-a", "0/3 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity", "flower"
            ),
            "its volume is on a node that is away",
        ),
        (
            homeless("flower-a", "0/3 nodes are available: 2 node(s) had volume node affinity conflict", "flower"),
            "its volume is on a node that is away",
        ),
        (
            homeless("worker-a", "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector."),
            "an overlay of yours asks for labels that no such node has",
        ),
        (homeless("worker-a", "0/3 nodes are available: 3 node(s) were unschedulable."), "see `kubectl get nodes`"),
        (
            stuck("CreateContainerConfigError", 'configmap "mine" not found'),
            "there is no ConfigMap mine (worker-a); make it",
        ),
        (
            stuck("CreateContainerConfigError", "couldn't find key token in Secret warren/mine"),
            "the Secret mine lacks the key token (worker-a); add it",
        ),
        (stuck("CreateContainerConfigError", "what nobody knows"), "what nobody knows (worker-a)"),
    ],
)
def test_each_cause_is_told_with_what_to_do(home: Path, found: dict[str, Any], said: str) -> None:
    (line,) = told(found)
    assert said in line


def test_a_cause_is_told_once_and_first_with_the_pods_that_it_concerns(home: Path) -> None:
    full = "0/3 nodes are available: 3 Insufficient memory. no new claims to deallocate, preemption: 0/3 nodes are"
    running = pod("flower-a", "flower", ready=False)
    assert told(running, homeless("rabbitmq-0", full, "rabbitmq"), homeless("worker-a", full)) == [
        "no node takes it: 0/3 nodes are available: 3 Insufficient memory (rabbitmq-0 asks for 200m cpu, 1Gi memory, "
        "worker-a asks for 200m cpu, 1Gi memory); add a node, free one (`kubectl describe nodes` shows what is taken), or ask "
        "for less (WARREN_RABBITMQ_MEMORY_MB, or `resources` in an overlay of yours)",
        "flower-a waits for that",
    ]
    many = [{**stuck("ErrImagePull"), "metadata": {"name": f"w-{n}", "labels": {}}} for n in range(9)]
    assert "(w-0, w-1, w-2, w-3, w-4, w-5 and 3 more)" in told(*many)[0]


def test_where_all_wait_for_the_broker_that_is_said(home: Path) -> None:
    starting = {"name": "rabbitmq", "restartCount": 0, "started": False, "state": {"running": {"startedAt": UP}}}
    broker = pod("rabbitmq-0", "rabbitmq", ready=False, containerStatuses=[starting])
    events = items(
        event("rabbitmq-0", "Unhealthy", "Startup probe failed:\n refused", "2026-11-22T12:00:09Z"),
        event("rabbitmq-0", "Unhealthy", "older"),
    )
    answers = {EVENTS: events, f"{READ} logs rabbitmq-0": "recovering 1 of 2\nrecovering  2 of 2\n"}
    assert told(broker, pod("worker-a", ready=False), answers=answers) == [
        "rabbitmq-0 is starting; Startup probe failed: refused; its last line: recovering 2 of 2",
        "worker-a waits for that",
    ]


def test_a_volume_that_can_not_be_made(home: Path) -> None:
    unbound = homeless("flower-a", "0/3 nodes are available: pod has unbound immediate", "flower", "flower")
    answers = {EVENTS: items(event("flower", "ProvisioningFailed", 'storageclass "fast" not found'))}
    (line,) = told(unbound, answers=answers)
    assert line.startswith(
        'volumes can\'t be made: storageclass "fast" not found (flower-a); `kubectl get storageclass`'
    )


def test_a_namespace_that_admits_no_more(home: Path) -> None:
    quota = 'create failed: pods "rabbitmq-0" is forbidden: exceeded quota: small, used: 5'
    denied = [{"type": "ReplicaFailure", "message": 'pods "worker-b" is forbidden: violates PodSecurity "restricted"'}]
    worker, broker = workload("worker", 0), workload("rabbitmq", 0)
    worker["status"] |= {"replicas": 0, "conditions": denied}
    broker["status"]["replicas"] = 0
    platform, _ = made({EVENTS: items(event("rabbitmq", "FailedCreate", quota)), f"{READ} get pods": items()})
    platform.kubectl.runner.answers[f"{READ} get deployments,statefulsets"] = items(worker, broker)  # type: ignore[attr-defined]
    with pytest.raises(WarrenError) as caught:
        waiting.until_ready(platform.kubectl, 0)
    assert str(caught.value).splitlines()[:2] == [
        'dev/warren: the namespace admits no such pod: violates PodSecurity "restricted" (worker); see what your overlay '
        "changes of it",
        "dev/warren: the namespace admits no more pods: exceeded quota: small, used: 5 (rabbitmq); raise the quota "
        "(`kubectl get quota`)",
    ]


NOT_FOUND = 'secret "warren" not found'
UNMOUNTED = f'MountVolume.SetUp failed for volume "secrets" : {NOT_FOUND}'


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (None, "neither the Secret warren is there nor the Job that makes it (rabbitmq-a, worker-a); try `invoke up`"),
        (
            "Failed",
            "the Job make-secrets could not make the Secret warren (rabbitmq-a, worker-a); `invoke up` starts it",
        ),
        ("Complete", "the Secret warren has been deleted (rabbitmq-a, worker-a); `invoke up` has it made anew"),
        ("", "the Job make-secrets has not made the Secret warren yet (rabbitmq-a, worker-a)"),
    ],
)
def test_a_secret_that_is_not_there(home: Path, job: str | None, said: str) -> None:
    ended = {"status": {"conditions": [{"type": job, "status": "True"}] if job else []}}
    answers = {
        SECRET: "",
        f"{READ} get job make-secrets": "" if job is None else json.dumps(ended),
        EVENTS: items(event("rabbitmq-a", "FailedMount", UNMOUNTED)),
    }
    broker = stuck("PodInitializing", service="rabbitmq")
    (line,) = told(broker, stuck("CreateContainerConfigError", NOT_FOUND), answers=answers)
    assert line.startswith(said)


def test_a_secret_that_came_since_is_not_missing(home: Path) -> None:
    answers = {EVENTS: items(event("rabbitmq-a", "FailedMount", UNMOUNTED))}
    (line,) = told(stuck("PodInitializing", service="rabbitmq"), answers=answers)
    assert line == f"rabbitmq-a: {UNMOUNTED}"


def test_all_keys_that_a_secret_lacks_are_named_at_once(home: Path) -> None:
    broker = stuck("PodInitializing", service="rabbitmq")
    broker["spec"]["volumes"] = [{"name": "secrets", "secret": {"secretName": "warren"}}]
    lacks = 'MountVolume.SetUp failed for volume "secrets" : references non-existent secret key: ops'
    monitor = stuck("CreateContainerConfigError", "couldn't find key monitor in Secret warren/warren", "monitor")
    there = json.dumps({"data": dict.fromkeys(["admin", "worker", "flower", "producer", "tls.crt", "tls.key"], "YQ==")})
    answers = {
        f"{READ} get secret warren --ignore-not-found --output json": there,
        EVENTS: items(event("rabbitmq-a", "FailedMount", lacks)),
    }
    (line,) = told(broker, monitor, answers=answers)
    assert line.startswith(
        "the Secret warren lacks the keys erlang-cookie, flower-cookie, flower-login, flower-metrics, mon"
    )
    assert "ops" in line.partition("(")[0] and "(rabbitmq-a, monitor-a); add what is missing" in line


def test_a_password_that_the_broker_refuses(home: Path) -> None:
    log = "Cannot connect: (403) ACCESS_REFUSED - Login was refused\nTraceback\nRestartFreqExceeded: 5 in 1s\n"
    (line,) = told(pod("worker-a", ready=False), pod("rabbitmq-0", "rabbitmq"), answers={f"{READ} logs worker-a": log})
    assert line.startswith("the broker refuses the password of worker (worker-a); was the Secret warren changed?")


def test_what_is_broken_is_told_at_once_and_a_setting_alone(home: Path) -> None:
    answers = {
        f"{READ} get deployments,statefulsets": items(workload("worker", 0)),
        f"{READ} get pods": items(stuck("CrashLoopBackOff", "back-off 10s")),
        f"{READ} logs worker-a --tail 20 --container worker --previous": "error: WARREN_QUEUES=A is not a list\n",
    }
    platform, _ = made(answers, up_timeout=3600)
    with pytest.raises(WarrenError) as caught:
        platform.up(None)
    assert caught.value.code is ExitCode.SETTINGS
    assert str(caught.value) == "dev/warren: worker-a: WARREN_QUEUES=A is not a list"


def test_scaling_does_not_mind_what_else_is_broken(home: Path) -> None:
    platform, _ = made({f"{READ} get pods": items(stuck("CrashLoopBackOff", service="flower"), pod("worker-a"))})
    platform.scale(2, set())


def test_while_nothing_changes_it_says_what_it_waits_for(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waiting, "SILENCE", -1)
    answers = {
        f"{READ} get deployments,statefulsets": [
            items(workload("worker", 0)),
            items(workload("worker", 0)),
            items(*STACK),
        ],
        f"{READ} get pods": items(homeless("worker-a", "0/1 nodes are available: 1 Insufficient cpu.")),
    }
    platform, _ = made(answers)
    waiting.until_ready(platform.kubectl, 3600)
    said = [line for line in capsys.readouterr().err.splitlines() if "waiting: " in line]
    assert len(said) == 1
    assert said[0].startswith(
        "dev/warren: waiting: no node takes it: 0/1 nodes are available: 1 Insufficient cpu (worker-a"
    )


def test_how_many_are_new_is_told_while_they_are_replaced() -> None:
    rolling = workload("worker", 3, 3)
    rolling["status"] |= {"replicas": 4, "readyReplicas": 4, "updatedReplicas": 1}
    assert waiting.line([rolling, workload("rabbitmq", 1, 1)]) == "rabbitmq 1/1, worker 3/3 (1 new)"


# --- what begins anew


@pytest.mark.parametrize("found", [stuck("ImagePullBackOff"), stuck("CrashLoopBackOff")])
def test_what_an_earlier_up_left_without_hope_begins_anew(home: Path, found: dict[str, Any]) -> None:
    platform, runner = made({SECRET: "secret/warren", f"{READ} get pods": items(found, pod("rabbitmq-0", "rabbitmq"))})
    platform.up(None)
    deleted = [line for line in runner.ran if " delete " in line]
    assert deleted == [f"{KUBECTL} delete pods worker-a --ignore-not-found --wait=false"]


def test_what_could_not_mount_a_secret_begins_anew(home: Path) -> None:
    waits = stuck("PodInitializing", service="rabbitmq")
    platform, _ = made(
        {**HERE, f"{READ} get pods": items(waits), EVENTS: items(event("rabbitmq-a", "FailedMount", UNMOUNTED))}
    )
    assert again.left_behind(platform.kubectl) == ["rabbitmq-a"]


@pytest.mark.parametrize(("serves", "begin"), [(False, ["rabbitmq-0", "worker-a", "monitor-a"]), (True, [])])
def test_all_begin_anew_where_the_passwords_are_gone_unless_the_broker_runs_with_them(
    home: Path, serves: bool, begin: list[str]
) -> None:
    waits = stuck("CreateContainerConfigError", NOT_FOUND)
    there = items(pod("rabbitmq-0", "rabbitmq", ready=serves), waits, pod("monitor-a", "monitor"))
    platform, _ = made({SECRET: "", f"{READ} get pods": there})
    assert again.left_behind(platform.kubectl) == begin


@pytest.mark.parametrize(
    ("refused", "anew"),
    [
        (
            'The Job "make-secrets" is invalid: spec.template: Invalid value: {"labels":{}}: field is immutable',
            "job/make-secrets",
        ),
        (
            'The PriorityClass "warren-broker" is invalid: preemptionPolicy: Invalid value: "Never": field is immutable',
            "priorityclass/warren-broker",
        ),
    ],
)
def test_what_can_not_be_changed_is_made_anew(home: Path, refused: str, anew: str) -> None:
    error = WarrenError(f"`kubectl apply` ended with exit code 1: {refused}", ExitCode.FAILED)
    platform, runner = made({f"{KUBECTL} apply": [error, ""]})
    platform.up(None)
    assert [line.split()[5] for line in runner.ran] == ["apply", "delete", "apply"]
    assert runner.ran[1].split()[6] == anew


def test_nothing_in_a_namespace_names_those_that_have_a_stack(home: Path) -> None:
    asked = "kubectl --context dev --request-timeout=10s get deployments --all-namespaces"
    nothing = {f"{READ} get pods": items(), f"{READ} get deployments,statefulsets": items()}
    platform, _ = made({**nothing, asked: "shop billing"})
    assert platform.troubles() == ["stacks of this cluster are in billing, shop (WARREN_PROJECT)"]
    platform, _ = made({f"{READ} get pods": items(), asked: WarrenError("forbidden", ExitCode.FAILED)})
    assert platform.troubles() == []


def test_a_status_leaves_out_what_only_takes_its_time(home: Path) -> None:
    platform, _ = made(
        {**HERE, f"{READ} get pods": items(pod("flower-a", "flower", ready=False), stuck("ErrImagePull"))}
    )
    (line,) = platform.troubles()
    assert line.startswith("dev/warren: nodes can't get the image warren-app:0123 (worker-a)")


def test_a_page_of_a_cluster_that_is_away_can_not_be_opened(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away = "The connection to the server 127.0.0.1:1 was refused - did you specify the right host or port?"
    program = home / "kubectl"
    program.write_text(f"#!/bin/sh\necho '{away}' >&2\nexit 1\n")
    program.chmod(0o755)
    platform, _ = made()
    monkeypatch.setenv("PATH", str(home), prepend=os.pathsep)
    with pytest.raises(WarrenError, match="the cluster does not answer; is it up") as caught:
        _ = platform.endpoints().flower
    assert caught.value.code is ExitCode.PLATFORM
