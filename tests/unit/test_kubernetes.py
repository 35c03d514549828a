"""The kubernetes platform: the commands of kubectl that it runs, and what it makes of their answers."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.pools import Pool
from deploy.commands import manifests
from deploy.errors import ExitCode, WarrenError
from deploy.platforms import choose
from deploy.platforms.kubernetes import Kubernetes, passwords, pods
from deploy.platforms.kubernetes import progress as waiting
from deploy.platforms.kubernetes.pools import scaled
from deploy.run import Runner
from deploy.session import Session
from deploy.settings import Settings
from tests.unit.conftest import FakeRunner, Menu

KUBECTL = "kubectl --context dev --namespace warren"
READ = f"{KUBECTL} --request-timeout=10s"
WORKERS = "app.kubernetes.io/part-of=warren,app.kubernetes.io/component=worker"
CONFIG = {
    "current-context": "dev",
    "contexts": [{"name": "dev", "context": {"cluster": "dev"}}],
    "clusters": [{"name": "dev", "cluster": {"server": "https://127.0.0.1:6443"}}],
}
UP = "2026-11-22T12:00:00Z"


def pod(
    name: str, service: str = "worker", *, ready: bool = True, image: str = "warren-app:0123", **status: Any
) -> dict[str, Any]:
    container = {"name": service, "restartCount": 0, "started": True, "state": {"running": {"startedAt": UP}}}
    return {
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": service}},
        "spec": {"containers": [{"name": service, "image": image}]},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "containerStatuses": [container],
            **status,
        },
    }


def workload(name: str, ready: int = 1, wanted: int = 1, **metadata: Any) -> dict[str, Any]:
    labels = {"app.kubernetes.io/part-of": "warren"}
    return {
        "metadata": {"name": name, "generation": 2, "labels": labels, **metadata},
        "spec": {"replicas": wanted},
        "status": {"observedGeneration": 2, "replicas": wanted, "readyReplicas": ready, "updatedReplicas": wanted},
    }


def items(*found: dict[str, Any]) -> str:
    return json.dumps({"items": found})


STACK = [workload(name) for name in ("flower", "monitor", "rabbitmq", "worker")]
ANSWERS: dict[str, Any] = {
    "kubectl config view": json.dumps(CONFIG),
    f"{READ} get pods": items(
        pod("worker-a"), pod("worker-b"), pod("rabbitmq-0", "rabbitmq"), pod("make-secrets-x", "make-secrets")
    ),
    f"{READ} get deployment worker": json.dumps(workload("worker", 2, 2)),
    f"{READ} get deployments,statefulsets": items(*STACK),
}

# The Secret with all that it is to have.
WHOLE = json.dumps({"metadata": {"name": "warren"}, "data": dict.fromkeys(passwords.KEYS, "b2xk")})


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "INTERVAL", 0)


def made(answers: dict[str, Any] | None = None, *, dry: bool = False, **settings: Any) -> tuple[Kubernetes, FakeRunner]:
    runner = FakeRunner({**ANSWERS, **(answers or {})}, dry=dry)
    # Of an image that is named whole none is built.
    chosen = Settings(**{"app_image": "warren-app:0123", **settings})
    return Kubernetes(chosen, runner), runner  # type: ignore[arg-type]


def test_it_is_chosen_by_name_and_needs_no_secrets_here(home: Path) -> None:
    platform = choose("kubernetes", Settings(), FakeRunner())  # type: ignore[arg-type]
    assert isinstance(platform, Kubernetes)
    assert not (home / ".warren" / "secrets").exists()


def test_up_applies_and_waits_and_says_where(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    platform, runner = made({f"{READ} get deployments,statefulsets": [items(workload("worker", 0)), items(*STACK)]})
    platform.up(None)
    (apply,) = runner.ran
    assert apply.startswith(f"{KUBECTL} apply --kustomize ") and apply.endswith(".warren/kubernetes/overlay")
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("dev/warren: ") for line in lines)
    assert lines[1:] == [
        "dev/warren: ready: worker 0/1",
        "dev/warren: ready: rabbitmq 1/1, worker 1/1, monitor 1/1, flower 1/1",
    ]
    assert (home / ".warren" / "kubernetes" / "context").read_text() == "dev\nhttps://127.0.0.1:6443\n"


@pytest.mark.parametrize(
    ("asked", "setting", "generation", "scaled"),
    [
        (4, 1, 7, ["--replicas=4"]),
        (2, 1, 7, []),
        (None, 3, 1, ["--replicas=3"]),
        # It was scaled before, by whomever.
        (None, 3, 2, []),
        # The overlay's number stays where the settings say none.
        (None, 1, 1, []),
        (0, 1, 1, ["--replicas=0"]),
    ],
)
def test_the_number_of_workers(home: Path, asked: int | None, setting: int, generation: int, scaled: list[str]) -> None:
    there = workload("worker", 2, 2, generation=generation)
    platform, runner = made({f"{READ} get deployment worker": json.dumps(there)}, workers=setting)
    platform.up(asked)
    assert [line.split()[-1] for line in runner.ran if " scale " in line] == scaled


def test_an_apply_takes_over_a_number_that_an_earlier_one_set(home: Path) -> None:
    applied = {"kubectl.kubernetes.io/last-applied-configuration": json.dumps({"spec": {"replicas": 3}})}
    found = items(workload("worker", 5, 5, annotations=applied), workload("worker-heavy", 2, 2))
    platform, _ = made({f"{READ} get deployments --selector {WORKERS}": found})
    assert scaled(platform.kubectl) == {"worker": 5, "worker-heavy": None}


def test_up_ends_pools_that_the_settings_have_no_more(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = f"{WORKERS},app.kubernetes.io/managed-by=invoke"
    found = items(workload("worker-old"), workload("worker-heavy"))
    heavy = Pool(name="heavy", queues=("video",), time_limit=600, concurrency="1", workers=1)
    platform, runner = made({f"{READ} get deployments --selector {ours}": found}, pools=(heavy,))
    platform.up(None)
    assert [line for line in runner.ran if " delete " in line] == [
        f"{KUBECTL} delete deployment/worker-old poddisruptionbudget/worker-old --ignore-not-found --wait=false"
    ]
    assert "worker-old ends: no such pool is in WARREN_POOLS" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("state", "secret", "again"),
    [("Complete", "", True), ("Failed", "", True), ("", "", False), ("Complete", WHOLE, False)],
)
def test_passwords_that_are_gone_are_made_again(home: Path, state: str, secret: str, again: bool) -> None:
    """The Job that made them once stays, and is in the way."""
    job: dict[str, Any] = {"metadata": {"name": "make-secrets"}, "status": {}}
    if state:
        job["status"] = {"conditions": [{"type": state, "status": "True"}]}
    answers = {f"{READ} get jobs": items(job), f"{READ} get secret warren --": secret}
    platform, runner = made(answers)
    platform.apply()
    deleted = [f"{KUBECTL} delete job/make-secrets"] if again else []
    assert [line for line in runner.ran if " delete " in line] == deleted
    assert " apply " in runner.ran[-1]


def test_a_secret_of_ones_own_that_lacks_something_is_told_before_anything_is_applied(home: Path) -> None:
    platform, runner = made({f"{READ} get secret warren": json.dumps({"metadata": {}, "data": {"ops": "b2xk"}})})
    with pytest.raises(WarrenError, match="is one of your own and lacks admin, worker, producer"):
        platform.up(None)
    assert runner.ran == []


def test_a_dry_up_changes_nothing(home: Path) -> None:
    platform, runner = made(dry=True)
    platform.up(3)
    assert runner.ran == []
    assert any(line.startswith(f"{KUBECTL} apply --kustomize") for line in runner.shown)
    assert not (home / ".warren" / "kubernetes").exists()


@pytest.mark.parametrize(
    ("updated", "expected"),
    [
        # A rollout that has just begun: none is new yet, and zero is left out.
        ({"updateRevision": "b", "currentRevision": "a"}, False),
        ({"updateRevision": "b", "currentRevision": "a", "updatedReplicas": 2}, False),
        ({"updateRevision": "b", "currentRevision": "a", "updatedReplicas": 3}, True),
        ({"updateRevision": "b", "currentRevision": "b"}, True),
    ],
)
def test_a_rolling_restart_is_waited_for_to_its_end(updated: dict[str, Any], expected: bool) -> None:
    broker = workload("rabbitmq", 3, 3)
    del broker["status"]["updatedReplicas"]
    broker["status"] |= updated
    assert waiting.settled(broker) is expected


@pytest.mark.parametrize(
    ("state", "refused"),
    [
        ({"running": {"startedAt": UP}}, True),
        ({"terminated": {"exitCode": 1}}, True),
        ({"waiting": {"reason": "ImagePullBackOff"}}, False),
    ],
)
def test_an_older_broker_is_refused_where_the_newer_has_run(home: Path, state: dict[str, Any], refused: bool) -> None:
    started = [{"name": "rabbitmq", "restartCount": 0, "state": state}]
    broker = pod("rabbitmq-0", "rabbitmq", image="rabbitmq:4.4-management", containerStatuses=started)
    platform, _ = made({f"{READ} get pods": items(broker)})
    if not refused:
        platform.require_upgradable()
        return
    with pytest.raises(WarrenError, match=r"the broker is RabbitMQ 4\.4, and 4\.3 does not start") as caught:
        platform.require_upgradable()
    assert caught.value.code is ExitCode.REFUSED


def test_what_ran_on_the_volumes_counts_when_the_broker_is_down(home: Path) -> None:
    claim = {
        "metadata": {
            "name": "data-rabbitmq-0",
            "labels": {"app.kubernetes.io/name": "rabbitmq"},
            "annotations": {"warren/rabbitmq-image": "rabbitmq:4.4-management"},
        }
    }
    platform, _ = made({f"{READ} get pods": items(), f"{READ} get persistentvolumeclaims": items(claim)})
    with pytest.raises(WarrenError, match=r"the broker is RabbitMQ 4\.4, and 4\.3 does not start"):
        platform.require_upgradable()


def test_also_where_a_pod_is_there_that_never_ran(home: Path) -> None:
    """An image that there is not, then an older one."""
    noted = {"annotations": {"warren/rabbitmq-image": "rabbitmq:4.4-management"}}
    claim = {"metadata": {"name": "data-rabbitmq-0", "labels": {"app.kubernetes.io/name": "rabbitmq"}, **noted}}
    missing = [{"name": "rabbitmq", "restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff"}}}]
    there = pod("rabbitmq-0", "rabbitmq", image="rabbitmq:4.44-management", containerStatuses=missing)
    platform, _ = made({f"{READ} get pods": items(there), f"{READ} get persistentvolumeclaims": items(claim)})
    with pytest.raises(WarrenError, match=r"the broker is RabbitMQ 4\.4, and 4\.3 does not start"):
        platform.require_upgradable()


def test_what_ran_is_noted_before_another_image_comes_that_may_never_run(home: Path) -> None:
    claim = {"metadata": {"name": "data-rabbitmq-0", "labels": {"app.kubernetes.io/name": "rabbitmq"}}}
    answers = {
        f"{READ} get pods": items(pod("rabbitmq-0", "rabbitmq", image="rabbitmq:4.3-management")),
        f"{READ} get persistentvolumeclaims": items(claim),
    }
    platform, runner = made(answers, rabbitmq_image="rabbitmq:4.44-management")
    platform.apply()
    noted = "annotate --overwrite persistentvolumeclaims data-rabbitmq-0 warren/rabbitmq-image=rabbitmq:4.3-management"
    assert runner.ran[0] == f"{KUBECTL} {noted}" and " apply " in runner.ran[1]
    platform, runner = made(answers)
    platform.apply()
    assert " apply " in runner.ran[0]


@pytest.mark.parametrize(
    ("kind", "manifest"),
    [
        (
            "StatefulSet",
            "spec:\n  template:\n    spec:\n      containers:\n      - image: exporter:1\n        name: side\n"
            "      - env: []\n        image: registry.example/rabbitmq:4.1\n        name: rabbitmq\n"
            "      initContainers:\n      - image: warren-app:0.1.0\n        name: configure\n",
        ),
        ("RabbitmqCluster", "spec:\n  image: registry.example/rabbitmq:4.1\n  replicas: 3\n"),
    ],
)
def test_the_image_that_an_overlay_pins_is_what_the_broker_is_to_get(home: Path, kind: str, manifest: str) -> None:
    """Three nodes of 4.1 stay what they are: 4.3 is the settings' default, and not said."""
    there = [pod(f"rabbitmq-{number}", "rabbitmq", image="registry.example/rabbitmq:4.1") for number in range(3)]
    rendered = f"kind: Service\nmetadata:\n  name: rabbitmq\n---\nkind: {kind}\nmetadata:\n  name: rabbitmq\n{manifest}"
    answers = {f"{READ} get pods": items(*there), "kubectl kustomize": rendered}
    platform, _ = made(answers)
    platform.require_upgradable()
    named, _ = made(answers, rabbitmq_image="rabbitmq:4.3.1")
    with pytest.raises(WarrenError, match="take each version between"):
        named.require_upgradable()


def test_down_says_where_before_it_does_anything(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    platform, _ = made({f"{KUBECTL} delete": KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        platform.down(volumes=True)
    assert capsys.readouterr().err.startswith(
        "dev/warren: stopping the stack, workers first, when their tasks have ended"
    )
    # Also where no worker is left.
    platform, _ = made({f"{READ} get pods": items(), f"{KUBECTL} delete": KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        platform.down(volumes=False)
    assert capsys.readouterr().err == "dev/warren: stopping the stack\n"


def test_down_stops_workers_first_and_keeps_data_unless_told(home: Path) -> None:
    # As the cluster makes it, with the labels of an overlay that changes its size.
    claim = {"metadata": {"name": "data-rabbitmq-0", "labels": {"app.kubernetes.io/name": "rabbitmq"}}}
    another = {"metadata": {"name": "data-other-0", "labels": {"app.kubernetes.io/name": "rabbitmq"}}}
    history = {"metadata": {"name": "history", "labels": {"app.kubernetes.io/part-of": "warren"}}}
    claims = {
        f"{READ} get persistentvolumeclaims --selector app.kubernetes.io/name=rabbitmq": items(claim, another),
        f"{READ} get persistentvolumeclaims --output": items(claim, another, history, {"metadata": {"name": "theirs"}}),
        f"{READ} get pods": items(pod("rabbitmq-0", "rabbitmq", image="rabbitmq:4.3-management")),
    }
    part = "app.kubernetes.io/part-of=warren"
    down = [
        f"{KUBECTL} delete deployments --selector {WORKERS} --cascade=foreground --timeout=450s",
        f"{KUBECTL} exec rabbitmq-0 --container rabbitmq -- touch /tmp/stop-now",
        f"{KUBECTL} delete deployments,statefulsets --selector {part} --cascade=foreground --timeout=120s",
    ]
    platform, runner = made(claims)
    platform.down(volumes=False)
    noted = "annotate --overwrite persistentvolumeclaims data-rabbitmq-0 warren/rabbitmq-image=rabbitmq:4.3-management"
    down.insert(1, f"{KUBECTL} {noted}")
    assert runner.ran == down
    platform, runner = made(claims)
    platform.down(volumes=True)
    assert runner.ran == [
        *down,
        f"{KUBECTL} delete persistentvolumeclaims data-rabbitmq-0 history --ignore-not-found --timeout=120s",
    ]


def test_down_tells_all_broker_nodes_that_run_and_goes_on_where_one_can_not_be_told(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leaving = pod("rabbitmq-2", "rabbitmq", ready=False)
    leaving["metadata"]["deletionTimestamp"] = UP
    starting = {"name": "rabbitmq", "restartCount": 0, "state": {"waiting": {"reason": "PodInitializing"}}}
    nodes = [
        pod("rabbitmq-0", "rabbitmq"), pod("rabbitmq-1", "rabbitmq", ready=False), leaving,
        pod("rabbitmq-3", "rabbitmq", ready=False, containerStatuses=[starting]),
    ]  # fmt: skip
    away = WarrenError(
        "`kubectl exec` ended with exit code 1: Error from server: error dialing backend: dial tcp: i/o timeout",
        ExitCode.FAILED,
    )
    platform, runner = made({f"{READ} get pods": items(*nodes), f"{KUBECTL} exec rabbitmq-0": away})
    platform.down(volumes=False)
    assert [line.split()[6] for line in runner.ran if " exec " in line] == ["rabbitmq-0", "rabbitmq-1", "rabbitmq-2"]
    assert any("delete deployments,statefulsets" in line for line in runner.ran)
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "rabbitmq-0" in line]
    assert told.startswith("dev/warren: the cluster can't reach the pod's node;")
    assert told.endswith("rabbitmq-0 may take minutes to stop")


def test_pods_that_their_node_sent_away_are_no_workers(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evicted = pod("worker-c", ready=False, phase="Failed", reason="Evicted", conditions=[], containerStatuses=[])
    found = items(pod("worker-a"), pod("worker-b"), evicted)
    after = {f"{READ} get deployments,statefulsets": items(workload("worker", 2, 2)), f"{READ} get pods": found}
    platform, runner = made(after)
    platform.scale(2, set())
    assert runner.ran == [f"{KUBECTL} scale deployment/worker --replicas=2"]
    assert [(one.name, one.state, one.since) for one in platform.status()][2:] == [("worker-c", "stopped", "Evicted")]
    # Nor is it what `up` waits for.
    assert not waiting.here(evicted)


def test_scaling_down_marks_the_busy_so_that_they_stay(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    after: dict[str, Any] = {
        f"{READ} get deployments,statefulsets": items(workload("worker")),
        f"{READ} get deployment worker": json.dumps(workload("worker")),
    }
    platform, runner = made(after)
    platform.scale(1, {"celery@worker-a"})
    cost = "controller.kubernetes.io/pod-deletion-cost"
    assert runner.ran == [
        f"{KUBECTL} annotate --overwrite pods worker-a {cost}=1",
        f"{KUBECTL} annotate --overwrite pods worker-b {cost}=0",
        f"{KUBECTL} scale deployment/worker --replicas=1",
    ]
    assert "end their tasks first" not in capsys.readouterr().err
    platform, runner = made(after)
    platform.scale(1, {"celery@worker-a", "celery@worker-b"})
    assert "dev/warren: some end their tasks first, for 330 s at most" in capsys.readouterr().err


def test_scaling_up_asks_nobody(home: Path) -> None:
    platform, runner = made({f"{READ} get deployment worker": json.dumps(workload("worker", 3, 3))})
    platform.scale(3, set())
    assert runner.ran == [f"{KUBECTL} scale deployment/worker --replicas=3"]


def test_scaling_that_somebody_else_undid_is_no_success(home: Path) -> None:
    platform, _ = made()
    with pytest.raises(
        WarrenError, match="dev/warren: somebody else scaled worker meanwhile: it has 2 workers"
    ) as caught:
        platform.scale(3, set())
    assert caught.value.code is ExitCode.FAILED


def test_one_command_scales_at_a_time(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    platform, runner = made()

    @contextmanager
    def waited(*_: Any, **__: Any) -> Iterator[None]:
        assert runner.ran == []
        yield
        assert runner.ran

    monkeypatch.setattr("deploy.platforms.kubernetes.platform.locked", waited)
    platform.scale(2, set())


def test_scaling_what_is_not_there(home: Path) -> None:
    platform, _ = made({f"{READ} get deployment worker-heavy": ""})
    with pytest.raises(WarrenError, match="the pool heavy is not up yet"):
        platform.scale(3, set(), "heavy")
    platform, _ = made({f"{READ} get deployment worker": "", f"{READ} get pods": items()})
    with pytest.raises(WarrenError, match="dev/warren: nothing runs; `invoke up` starts the stack"):
        platform.scale(3, set())


def test_restart_applies_and_starts_anew(home: Path) -> None:
    platform, runner = made()
    platform.restart(["rabbitmq", "worker"])
    assert runner.ran[1:] == [f"{KUBECTL} rollout restart statefulset/rabbitmq deployment/worker"]


def test_restart_leaves_alone_what_apply_replaces(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def made_of(image: str, name: str, **metadata: Any) -> dict[str, Any]:
        found = workload(name, **metadata)
        found["spec"]["template"] = {"spec": {"containers": [{"image": image}]}}
        return found

    names = [one["metadata"]["name"] for one in STACK]
    before = [made_of("a:1", name) for name in names]
    # Somebody scales it meanwhile.
    scaled = workload("rabbitmq", 2, 2, generation=3)
    scaled["spec"]["template"] = before[names.index("rabbitmq")]["spec"]["template"]
    after = [scaled if name == "rabbitmq" else made_of("a:2", name) for name in names]
    asked = f"{READ} get deployments,statefulsets"
    settled = items(*(made_of("a:2", name) for name in names))
    platform, runner = made({asked: [items(*before), items(*after), settled]})
    platform.restart(["rabbitmq", "worker"])
    assert runner.ran[1:] == [f"{KUBECTL} rollout restart statefulset/rabbitmq"]
    # What others there are is waited for as well.
    told = capsys.readouterr().err.splitlines()
    assert "dev/warren: monitor and flower get the code and settings of now too, so they are replaced as well" in told
    assert told[-1] == "dev/warren: ready: rabbitmq 1/1, worker 1/1, monitor 1/1, flower 1/1"
    platform, runner = made({asked: [items(*before), items(*after), settled]})
    platform.restart(["worker"])
    assert not runner.ran[1:]


OTHERS = {"kubectl kustomize": "kind: ConfigMap\nmetadata:\n  name: warren-broker-address-0123\n"}


def test_up_says_what_a_broker_of_others_needs_and_what_is_left_of_ours(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left = {f"{READ} get statefulset rabbitmq": json.dumps(workload("rabbitmq"))}
    platform, _ = made({**OTHERS, **left, f"{READ} get pods": items()})
    platform.up(None)
    told = capsys.readouterr().err
    assert "until that has what `invoke definitions` prints, pods wait" in told
    assert "our own broker is still here" in told and f"`{KUBECTL} delete statefulset/rabbitmq" in told
    platform, _ = made(OTHERS)
    platform.up(None)
    told = capsys.readouterr().err
    assert "definitions" not in told and "our own broker" not in told


def test_a_restart_that_waited_for_down_brings_nothing_up_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    platform, runner = made()

    @contextmanager
    def waited(*_: Any, **__: Any) -> Iterator[None]:
        runner.answers[f"{READ} get pods"] = items()
        yield

    monkeypatch.setattr("deploy.platforms.kubernetes.platform.locked", waited)
    with pytest.raises(WarrenError, match="nothing runs"):
        platform.restart(["rabbitmq"])
    assert runner.ran == []


def test_status_tells_of_services_in_their_order(home: Path) -> None:
    stopping = pod("worker-c")
    stopping["metadata"]["deletionTimestamp"] = UP
    waiting_pod = pod(
        "monitor-a", "monitor", ready=False, phase="Pending",
        containerStatuses=[
            {"name": "monitor", "restartCount": 1, "state": {"waiting": {"reason": "CreateContainerConfigError"}}}
        ],
    )  # fmt: skip
    found = items(
        waiting_pod, stopping, pod("worker-heavy-a", "worker-heavy"), pod("rabbitmq-0", "rabbitmq"), pod("x", "keda")
    )
    platform, _ = made({f"{READ} get pods": found})
    told = [(one.service, one.name, one.state, one.ready, one.node) for one in platform.status()]
    assert told == [
        ("rabbitmq", "rabbitmq-0", "running", True, ""),
        ("worker", "worker-c", "running", False, "celery@worker-c"),
        ("worker-heavy", "worker-heavy-a", "running", True, "celery@worker-heavy-a"),
        ("monitor", "monitor-a", "starting", False, ""),
    ]
    assert [one.since.partition(" for ")[0] for one in platform.status()][1::2] == [
        "stopping",
        "CreateContainerConfigError, 1 restart",
    ]
    # Also before it served.
    del stopping["status"]["containerStatuses"][0]["started"]
    stopping["status"]["conditions"] = []
    stopping["metadata"] |= {"deletionTimestamp": "2026-11-22T12:05:30Z", "deletionGracePeriodSeconds": 330}
    row = pods.instance(stopping, datetime(2026, 11, 22, 12, 0, 40, tzinfo=UTC))
    assert (row.state, row.since) == ("running", "stopping for 40 seconds, 330 s at most")


def test_logs_and_exec(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    platform, runner = made()
    platform.logs(["worker", "monitor"], follow=True, tail=7)
    platform.exec("worker", ["celery", "-A", "app", "report"])
    assert runner.attached == [
        f"{KUBECTL} logs --selector 'app.kubernetes.io/part-of in (warren,rabbitmq),"
        "app.kubernetes.io/name in (worker,monitor)' --prefix "
        "--tail 7 --ignore-errors --max-log-requests 100 --follow",
        f"{KUBECTL} exec --stdin worker-a --container worker -- celery -A app report",
    ]
    platform, _ = made({f"{READ} get pods": items(pod("worker-a", ready=False))})
    with pytest.raises(WarrenError, match="dev/warren: no worker is ready"):
        platform.exec("worker", ["true"])
    platform, _ = made({f"{READ} get pods": items()})
    with pytest.raises(WarrenError, match="dev/warren: nothing runs"):
        platform.logs(["worker"], follow=False, tail=7)


def test_secrets_are_those_of_the_cluster(home: Path) -> None:
    data = {"ops": base64.b64encode(b"of the cluster").decode()}
    runner = FakeRunner({**ANSWERS, f"{READ} get secret warren": json.dumps({"data": data})})
    session = Session(runner, "kubernetes")  # type: ignore[arg-type]
    session.__dict__["settings"] = Settings()
    assert session.secrets == {"ops": "of the cluster"}
    assert "of the cluster" not in repr(session.secrets)
    platform, _ = made()
    with pytest.raises(WarrenError, match="there is no Secret warren; `invoke up`"):
        _ = platform.secrets


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (
            WarrenError("kubectl is not installed, or not on the PATH", ExitCode.PLATFORM),
            "kubectl is not installed; see",
        ),
        (WarrenError("`kubectl` did not end within 30 s", ExitCode.TIMEOUT), "the cluster does not answer"),
        (
            WarrenError("`kubectl` ended with exit code 1: Unable to connect to the server: EOF", ExitCode.FAILED),
            "not answer",
        ),
        (
            WarrenError(
                "`kubectl --request-timeout=10s` ended with exit code 1: Error (Forbidden): pods is forbidden",
                ExitCode.FAILED,
            ),
            "dev/warren: the cluster forbids it: Error (Forbidden): pods is forbidden",
        ),
        (
            WarrenError("`kubectl` ended with exit code 1: Unable to connect: x509: expired", ExitCode.FAILED),
            "this context does not get into the cluster (Unable to connect: x509: expired)",
        ),
        (WarrenError("`kubectl` ended with exit code 1: Unauthorized", ExitCode.FAILED), "refuses the login"),
    ],
)
def test_a_cluster_that_can_not_be_used(home: Path, raised: WarrenError, said: str) -> None:
    platform, _ = made({f"{READ} get --raw /readyz": raised})
    with pytest.raises(WarrenError) as caught:
        platform.check()
    assert said in str(caught.value)
    assert caught.value.code is ExitCode.PLATFORM


@pytest.mark.parametrize(
    ("said", "told", "code"),
    [
        (
            'error when patching "x": StatefulSet.apps "rabbitmq" is invalid: spec: Forbidden: updates to statefulset spec for '
            "fields other than 'replicas' are forbidden",
            'the cluster does not take it: error when patching "x": '
            'StatefulSet.apps "rabbitmq" is invalid: spec: Forbidden: updates to statefulset spec for fields other than '
            "'replicas' are forbidden; of another size or class of a volume see docs/kubernetes-clusters.md",
            ExitCode.FAILED,
        ),
        (
            'persistentvolumeclaims "monitor" is forbidden: only dynamically provisioned pvc can be resized',
            'the cluster does not take it: persistentvolumeclaims "monitor" is forbidden: only',
            ExitCode.FAILED,
        ),
        (
            'deployments.apps "worker" is forbidden: User "jo" cannot patch resource "deployments"',
            'the cluster forbids it: deployments.apps "worker" is forbidden: User "jo" cannot',
            ExitCode.PLATFORM,
        ),
        (
            'Internal error occurred: failed calling webhook "validate.example.test": failed to call webhook: Post '
            '"https://admission": dial tcp 10.96.0.7:443: connect: connection refused',
            "the cluster's webhook validate.example.test, which has a say in this, does not answer; do its pods run?",
            ExitCode.PLATFORM,
        ),
        (
            "Error from server: error dialing backend: dial tcp 172.18.0.3:10250: i/o timeout",
            "the cluster can't reach the pod's node; `kubectl get nodes` shows them",
            ExitCode.PLATFORM,
        ),
    ],
)
def test_what_a_cluster_answers_is_not_taken_for_its_silence_or_for_a_right_that_lacks(
    home: Path, said: str, told: str, code: ExitCode
) -> None:
    platform, _ = made(
        {f"{KUBECTL} apply": WarrenError(f"`kubectl apply` ended with exit code 1: {said}", ExitCode.FAILED)}
    )
    with pytest.raises(WarrenError) as caught:
        platform.apply()
    assert str(caught.value).startswith(f"dev/warren: {told}")
    assert caught.value.code is code


@pytest.mark.parametrize(
    ("kind", "where", "more"),
    [
        ("configmaps", 'in the namespace "warren"', ""),
        (
            "priorityclasses",
            "at the cluster scope",
            "; for rights in one namespace only there is the component namespaced",
        ),
    ],
)
def test_what_is_forbidden_is_left_out_and_said_so_and_the_context_is_not_taken_for_the_stacks(
    home: Path, kind: str, where: str, more: str
) -> None:
    said = f'{kind} "x" is forbidden: User "jo" cannot patch resource "{kind}" {where}'
    error = WarrenError(f"`kubectl apply` ended with exit code 1: {said}", ExitCode.FAILED)
    platform, _ = made({f"{KUBECTL} apply": error})
    with pytest.raises(WarrenError) as caught:
        platform.apply()
    assert caught.value.code is ExitCode.PLATFORM
    told, _, hint = str(caught.value).partition(" (docs/")
    assert told == f"dev/warren: the cluster forbids it: {said}; the rest of it is applied{more}"
    assert bool(hint) is bool(more)
    assert not (home / ".warren" / "kubernetes" / "context").exists()


EXPIRED = WarrenError(
    "`kubectl delete --timeout=450s` ended with exit code 1: error: timed out waiting for the condition on pods/worker-a",
    ExitCode.FAILED,
)


def test_what_takes_too_long_is_not_a_cluster_that_is_silent(home: Path) -> None:
    platform, _ = made({f"{KUBECTL} delete deployments": EXPIRED, f"{READ} get nodes": "n1 True\n"})
    with pytest.raises(
        WarrenError, match=r"timed out waiting .* on pods/worker-a; `invoke status` shows what"
    ) as caught:
        platform.down(volumes=False)
    assert caught.value.code is ExitCode.TIMEOUT


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ("n3 True\nn2 Unknown\n", "nothing is heard of n2"),
        ("n2 False\n", "nothing is heard of n2"),
        (
            WarrenError("`kubectl` ended with exit code 1: Error (Forbidden): User is forbidden", ExitCode.FAILED),
            "whether n2 is away this user may not see",
        ),
    ],
)
def test_down_that_waits_for_a_node_that_is_away_says_the_way_out(home: Path, nodes: Any, why: str) -> None:
    there = [pod(name) for name in ("worker-a", "worker-b", "worker-c")]
    for one, node in zip(there, ("n2", "n2", "n3"), strict=True):
        one["spec"]["nodeName"] = node
    for one in there[:2]:
        one["metadata"]["deletionTimestamp"] = UP
    answers = {f"{KUBECTL} delete deployments": EXPIRED, f"{READ} get nodes": nodes, f"{READ} get pods": items(*there)}
    platform, runner = made(answers)
    with pytest.raises(WarrenError) as caught:
        platform.down(volumes=False)
    force = f"{KUBECTL} delete pods worker-a worker-b --force"
    assert str(caught.value) == (
        f"dev/warren: worker-a, worker-b did not stop; {why}; bring that node back or, once it is surely off, let go of what "
        f"ran there by `{force}`, then `invoke down` again"
    )
    assert caught.value.code is ExitCode.TIMEOUT
    assert force not in runner.ran


def test_down_that_waits_for_claims_that_something_uses_says_how_to_find_it(home: Path) -> None:
    history = {"metadata": {"name": "history", "labels": {"app.kubernetes.io/part-of": "warren"}}}
    listed = f"{READ} get persistentvolumeclaims --output"
    platform, _ = made({listed: items(history), f"{KUBECTL} delete persistentvolumeclaims": EXPIRED})
    with pytest.raises(WarrenError) as caught:
        platform.down(volumes=True)
    assert str(caught.value) == (
        "dev/warren: all is stopped, but something still uses the claims history: "
        f"`{KUBECTL} describe persistentvolumeclaims history` shows which pods do (Used By); when these are gone, "
        "`invoke down --volumes` again"
    )
    assert caught.value.code is ExitCode.TIMEOUT


def test_down_gives_workers_the_time_that_they_were_started_with(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are of another checkout perhaps; and whoever may not see nodes is not told to end by force what still has time."""
    heavy = pod("worker-heavy-a", "worker-heavy")
    heavy["spec"] |= {"terminationGracePeriodSeconds": 3630, "nodeName": "n2"}
    soon = datetime.now(UTC) + timedelta(seconds=3000)
    heavy["metadata"]["deletionTimestamp"] = f"{soon:%Y-%m-%dT%H:%M:%SZ}"
    answers = {f"{READ} get pods": items(pod("worker-a"), heavy), f"{KUBECTL} delete deployments": EXPIRED}
    forbidden = WarrenError("`kubectl` ended with exit code 1: Error (Forbidden): User is forbidden", ExitCode.FAILED)
    platform, runner = made({**answers, f"{READ} get nodes": forbidden})
    with pytest.raises(WarrenError, match="timed out waiting"):
        platform.down(volumes=False)
    assert runner.ran[0].endswith("--timeout=3750s")
    assert "when their tasks have ended (3630 s at most)" in capsys.readouterr().err


def test_no_kubectl_at_all(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its configuration may be known from before.
    platform, _ = made()
    monkeypatch.setenv("PATH", str(home))
    with pytest.raises(WarrenError, match="kubectl is not installed; see "):
        _ = platform.endpoints().amqp
    missing = WarrenError("kubectl is not installed, or not on the PATH", ExitCode.PLATFORM)
    platform, _ = made({"kubectl config view": missing})
    with pytest.raises(WarrenError, match="kubectl is not installed; see "):
        platform.status()


def test_an_image_is_copied_to_nodes_that_do_not_have_it(home: Path) -> None:
    def nodes(*has: list[str]) -> str:
        images = [[{"names": [f"docker.io/library/{name}"]} for name in names] for names in has]
        return items(*({"status": {"images": one}} for one in images))

    load: dict[str, Any] = {"kube_load": "kind load docker-image --name dev", "app_image": "warren-app"}
    platform, runner = made(**load)
    name, setup = platform.image.name(), platform.image.setup()
    runner.answers |= {"docker images": "0123", f"{READ} get nodes": nodes([name, setup], ["other:1", setup])}
    platform.build()
    assert runner.ran == [f"kind load docker-image --name dev {name}"]
    runner.answers[f"{READ} get nodes"] = nodes([name, setup], [name])
    platform.build()
    assert runner.ran[1:] == [f"kind load docker-image --name dev {setup}"]
    runner.answers[f"{READ} get nodes"] = nodes([name, setup], [name, setup])
    platform.build()
    assert len(runner.ran) == 2


def test_what_a_registry_has_is_not_put_there_again(home: Path) -> None:
    """From another machine it would be another image, with other code in it."""
    push: dict[str, Any] = {"kube_load": "docker push --quiet", "app_image": "registry.example/warren-app"}
    platform, runner = made(**push)
    name, setup = platform.image.name(), platform.image.setup()
    on_node = {"status": {"images": [{"names": [name]}]}}
    runner.answers |= {"docker images": "0123", f"{READ} get nodes": items(on_node)}
    platform.build()
    assert runner.ran == [f"docker push --quiet {setup}"]
    runner.answers[f"docker manifest inspect {setup}"] = "{}"
    platform.build()
    assert len(runner.ran) == 1


def test_a_dry_up_does_not_say_that_it_built_or_copied_an_image(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    platform, runner = made(dry=True, kube_load="kind load docker-image", app_image="warren-app")
    platform.image.provide(platform.kubectl)
    assert [line.split()[:2] for line in runner.shown if " build " in line or " load " in line] == [
        ["docker", "build"],
        *[["kind", "load"]] * 2,
    ]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("image", "built"), [("warren-app:7", True), ("registry.example/shop:1.4", False)])
def test_no_image_is_built_that_no_pod_would_run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: str, built: bool
) -> None:
    (tmp_path / "kustomization.yaml").touch()
    platform, _ = made({"kubectl kustomize": f"      - image: {image}\n"}, kube_overlay=str(tmp_path))
    provided: list[object] = []
    monkeypatch.setattr(platform.image, "provide", provided.append)
    platform.build()
    assert bool(provided) is built


def test_what_is_pushed_is_named_in_the_registry(menu: Menu, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[list[str]] = []
    # All is there, in the engine and in the registry.
    monkeypatch.setattr(Runner, "read", lambda self, arguments, **_: "0123")
    monkeypatch.setattr(Runner, "run", lambda self, arguments, **_: shown.append(list(arguments)))
    ended = menu("build", "--push", "registry.example/team/")
    name = ended.out.strip()
    assert ended.code == 0 and name.startswith("registry.example/team/warren-app:")
    pushed = [["docker", "tag", name.rpartition("/")[2], name], ["docker", "push", "--quiet", name]]
    assert shown == pushed
    assert f"WARREN_APP_IMAGE={name} in .env" in ended.err

    # What new code does not change is put there once: some registries let no name be written twice.
    def read(self: Runner, arguments: list[str], **_: Any) -> str:
        if arguments[1] == "manifest":
            raise WarrenError("no such manifest", ExitCode.FAILED)
        return "0123"

    shown.clear()
    monkeypatch.setattr(Runner, "read", read)
    assert menu("build", "--push", "registry.example/team").out.strip() == name
    setup = shown[-1][-1]
    assert (
        setup.startswith("registry.example/team/warren-app:setup-") and f"{setup} is for the broker's pods" in ended.err
    )
    assert shown == [
        *pushed,
        *(["docker", "tag", setup.rpartition("/")[2], setup], ["docker", "push", "--quiet", setup]),
    ]


def test_what_takes_long_is_begun_together_and_its_faults_are_told_when_it_is_used(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(
        "deploy.platforms.kubernetes.forward.Forward", lambda kubectl, service, ports: opened.append(service)
    )
    platform, runner = made()
    platform.endpoints().soon("rabbitmq", "monitor")
    platform.endpoints().soon("monitor")
    assert opened == ["rabbitmq", "monitor"]
    with pytest.raises(WarrenError, match="there is no Secret warren"):
        _ = platform.secrets
    assert sum(" get secret warren" in line for line in runner.read_) == 1


def test_what_a_namespace_that_is_not_there_would_get_is_all_new(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    platform, runner = made()
    session = Session(runner)  # type: ignore[arg-type]
    session.__dict__.update(platform=platform, settings=platform.settings)
    with pytest.raises(SystemExit) as ended:
        manifests.diff(session)
    assert (ended.value.code, runner.attached) == (1, [])
    assert "there is no such namespace yet, so all would be new" in capsys.readouterr().err


def test_who_may_not_look_at_namespaces_has_one_and_may_compare(home: Path) -> None:
    refused = 'namespaces "warren" is forbidden: User "jo" cannot get resource "namespaces"'
    answer = WarrenError(f"`kubectl` ended with exit code 1: {refused}", ExitCode.FAILED)
    platform, runner = made({f"{READ} get namespace warren": answer})
    session = Session(runner, "kubernetes")  # type: ignore[arg-type]
    session.__dict__.update(platform=platform, settings=platform.settings)
    manifests.diff(session)
    (compared,) = runner.attached
    assert compared.startswith(f"{KUBECTL} diff --kustomize")


def test_what_is_only_looked_at_is_not_what_another_command_applies(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heavy = Pool(name="heavy", queues=("video",), time_limit=600, concurrency="1", workers=1)
    platform, runner = made({f"{READ} get namespace": "{}"}, pools=(heavy,))
    session = Session(runner, "kubernetes")  # type: ignore[arg-type]
    session.__dict__.update(platform=platform, settings=platform.settings)
    before = Path(platform.overlay())
    there = {file: file.read_text() for file in before.rglob("kustomization.yaml")}
    assert len(there) == 2
    manifests.diff(session)
    manifests.render(session, "production")
    looked = [runner.attached[-1].split()[-1], runner.read_[-1].split()[-1]]
    capsys.readouterr()
    assert {file: file.read_text() for file in before.rglob("*.yaml")} == there
    # Nor does anything stay of it, with a password perhaps.
    assert [one.name for one in (home / ".warren" / "kubernetes").iterdir()] == ["overlay"]
    assert len({*looked, str(before)}) == 3 and not any(Path(one).exists() for one in looked)


def test_a_comparison_that_fails_is_no_difference(home: Path) -> None:
    said = 'configmaps "x" is forbidden: User "jo" cannot patch resource "configmaps"'
    failed = WarrenError(f"`kubectl diff` ended with exit code 2: {said}", ExitCode.FAILED)
    platform, runner = made({f"{READ} get namespace": "{}", f"{KUBECTL} diff": failed})
    session = Session(runner, "kubernetes")  # type: ignore[arg-type]
    session.__dict__.update(platform=platform, settings=platform.settings)
    with pytest.raises(WarrenError, match="dev/warren: the cluster forbids it: configmaps") as caught:
        manifests.diff(session)
    assert caught.value.code is ExitCode.PLATFORM
    runner.answers[f"{KUBECTL} diff"] = 1
    with pytest.raises(SystemExit) as ended:
        manifests.diff(session)
    assert ended.value.code == 1


def test_other_platforms_have_no_manifests_to_compare(menu: Menu, home: Path) -> None:
    ended = menu("diff", "--platform", "compose")
    assert ended.code == ExitCode.USAGE
    assert ended.err == "error: the stack is on compose, which has no manifests; say --platform kubernetes\n"


def test_the_pages_addresses_lead_through_forwards_and_with_the_prefix(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    class Open:
        def __init__(self, kubectl: Any, service: str, ports: tuple[int, ...]) -> None:
            opened.append(service)
            self.there = ports

        def ports(self, code: ExitCode) -> dict[int, int]:
            return {port: port + 30000 for port in self.there}

    monkeypatch.setattr("deploy.platforms.kubernetes.forward.Forward", Open)
    platform, _ = made(flower_url_prefix="/flower")
    where = platform.endpoints()
    assert opened == [] and not where.lasting
    assert where.flower_url == "http://127.0.0.1:35555/flower/"
    assert where.monitor_url == "http://127.0.0.1:35556"
    assert (where.amqp, where.management) == (35672, 45672)
    assert where.place == "dev/warren"
    # Each once.
    assert opened == ["flower", "monitor", "rabbitmq"]
    assert where.refused("ops", "rabbitmq") == (
        "in the Secret warren of dev/warren (key ops); was it changed? `invoke restart rabbitmq` gives the broker what is "
        "there now"
    )
    said = where.password("monitor-operator")
    assert (
        said
        == f"""by {KUBECTL} get secret warren -o 'go-template={{{{index .data "monitor-operator" | base64decode}}}}'"""
    )
