"""Workers whose number KEDA or a HorizontalPodAutoscaler decides on: the commands that change its bounds, and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.pools import Pool
from deploy.errors import ExitCode, WarrenError
from deploy.paths import ROOT
from deploy.platforms.kubernetes import overlay
from deploy.platforms.kubernetes.autoscaling import Autoscaler
from deploy.platforms.kubernetes.rendered import render
from deploy.platforms.kubernetes.scalers import Scalers
from deploy.settings import Settings
from tests.unit.conftest import FakeRunner
from tests.unit.test_kubernetes import KUBECTL, READ, WORKERS, at_once, items, made, pod, workload

__all__ = ["at_once"]  # for every test here, too

PART = "app.kubernetes.io/part-of=warren"
HPAS = f"{READ} get horizontalpodautoscalers.autoscaling --selector {PART}"
SCALED_OBJECTS = f"{READ} get scaledobjects.keda.sh --selector {PART}"
KEDA = f"{KUBECTL} patch scaledobjects.keda.sh/worker --type merge --patch "
HPA = f"{KUBECTL} patch horizontalpodautoscalers.autoscaling/worker --type merge --patch "
NO_KEDA = WarrenError(
    """`kubectl` ended with exit code 1: error: the server doesn't have a resource type "scaledobjects" """,
    ExitCode.FAILED,
)
DEV = ROOT / "k8s" / "overlays" / "dev"
HEAVY = Pool(name="heavy", queues=("video", "audio"), time_limit=600, concurrency="1", workers=3)


def scaled_object(least: int = 1, most: int = 10, name: str = "worker", **notes: str) -> dict[str, Any]:
    return {
        "kind": "ScaledObject",
        "metadata": {"name": name, "annotations": notes},
        "spec": {"scaleTargetRef": {"name": name}, "minReplicaCount": least, "maxReplicaCount": most},
    }


def hpa(least: int = 1, most: int = 10, name: str = "worker", reason: str = "ValidMetricFound") -> dict[str, Any]:
    return {
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name},
        "spec": {"scaleTargetRef": {"name": "worker"}, "minReplicas": least, "maxReplicas": most},
        "status": {"conditions": [{"type": "ScalingActive", "reason": reason}]},
    }


def by_keda(least: int = 1, most: int = 10, **notes: str) -> dict[str, Any]:
    return {
        SCALED_OBJECTS: items(scaled_object(least, most, **notes)),
        HPAS: items(hpa(max(1, least), most, "keda-hpa")),
    }


def by_hpa(least: int = 1, most: int = 10, reason: str = "ValidMetricFound") -> dict[str, Any]:
    return {SCALED_OBJECTS: NO_KEDA, HPAS: items(hpa(least, most, reason=reason))}


def changes(runner: Any) -> list[str]:
    return [line for line in runner.ran if " apply " not in line]


def merged(least: int, most: int) -> str:
    notes = {
        "warren/bounds": "kept",
        "autoscaling.keda.sh/paused": None,
        "autoscaling.keda.sh/paused-replicas": None,
    }
    return json.dumps({"metadata": {"annotations": notes}, "spec": {"minReplicaCount": least, "maxReplicaCount": most}})


@pytest.mark.parametrize(
    ("asked", "now", "bounds", "replicas"),
    [
        ((4, None), 2, (4, 10), 4),
        ((2, None), 3, (2, 10), None),
        ((12, None), 2, (12, 12), 12),
        ((1, 2), 3, (1, 2), None),
        ((0, 5), 3, (0, 5), None),
    ],
)
def test_kedas_bounds(
    home: Path, asked: tuple[int, int | None], now: int, bounds: tuple[int, int], replicas: int | None
) -> None:
    there = {f"{READ} get deployment worker": json.dumps(workload("worker", now, now))}
    platform, runner = made({**there, **by_keda()})
    scaler = platform.autoscalers()["worker"]
    scaler.bound(*asked, 5)
    lines = [f"{KEDA}'{merged(*bounds)}'"]
    assert runner.ran == lines + ([f"{KUBECTL} scale deployment/worker --replicas={replicas}"] if replicas else [])
    assert (scaler.by, scaler.least, scaler.most, scaler.paused) == ("KEDA", *bounds, False)


def test_no_workers_pauses_keda(home: Path) -> None:
    none = items(workload("worker", 0, 0))
    platform, runner = made({**by_keda(), f"{READ} get deployments,statefulsets": none})
    scaler = platform.autoscalers()["worker"]
    assert not scaler.paused
    scaler.bound(0, None, 5)
    pause = json.dumps({"metadata": {"annotations": {"autoscaling.keda.sh/paused-replicas": "0"}}})
    assert runner.ran == [f"{KEDA}'{pause}'", f"{KUBECTL} scale deployment/worker --replicas=0"]
    assert scaler.paused


@pytest.mark.parametrize("note", ["paused-replicas", "paused"])
def test_kedas_own_pauses_are_known(home: Path, note: str) -> None:
    notes: dict[str, Any] = {f"autoscaling.keda.sh/{note}": "true"}
    platform, _ = made(by_keda(**notes))
    assert platform.autoscalers()["worker"].paused


def test_bounds_of_a_horizontal_pod_autoscaler(home: Path) -> None:
    platform, runner = made(by_hpa(1, 3))
    scaler = platform.autoscalers()["worker"]
    scaler.bound(4, None, 5)
    change = json.dumps(
        {"metadata": {"annotations": {"warren/bounds": "kept"}}, "spec": {"minReplicas": 4, "maxReplicas": 4}}
    )
    assert runner.ran == [f"{HPA}'{change}'", f"{KUBECTL} scale deployment/worker --replicas=4"]
    platform, runner = made({**by_hpa(), f"{READ} get deployments,statefulsets": items(workload("worker", 0, 0))})
    scaler = platform.autoscalers()["worker"]
    scaler.bound(0, None, 5)
    # It leaves a Deployment without workers alone.
    assert runner.ran == [f"{KUBECTL} scale deployment/worker --replicas=0"]
    assert scaler.paused
    with pytest.raises(WarrenError, match="keeps one worker at least; `invoke scale-workers 1 --max 4`") as caught:
        scaler.bound(0, 4, 5)
    assert caught.value.code is ExitCode.USAGE
    platform, _ = made(by_hpa(reason="ScalingDisabled"))
    assert platform.autoscalers()["worker"].paused


def test_who_may_not_look_at_autoscalers_scales_without_them(home: Path) -> None:
    forbidden = WarrenError("`kubectl` ended with exit code 1: Error from server (Forbidden): x", ExitCode.FAILED)
    platform, _ = made({HPAS: forbidden, SCALED_OBJECTS: forbidden})
    assert platform.autoscalers() == {}
    platform, _ = made({SCALED_OBJECTS: WarrenError("Unable to connect to the server", ExitCode.FAILED)})
    with pytest.raises(WarrenError, match="the cluster does not answer"):
        platform.autoscalers()


@pytest.mark.parametrize(("asked", "least"), [(4, 4), (None, None)])
def test_up_sets_what_is_asked_for_and_leaves_the_rest(home: Path, asked: int | None, least: int | None) -> None:
    first = {f"{READ} get deployment worker": json.dumps(workload("worker", 1, 1, generation=1))}
    platform, runner = made({**first, **by_keda()}, workers=3)
    platform.up(asked)
    wanted = [f"{KEDA}'{merged(least, 10)}'", f"{KUBECTL} scale deployment/worker --replicas={least}"] if least else []
    assert changes(runner) == wanted


def test_a_pool_that_ends_takes_its_autoscaler_along(home: Path) -> None:
    found = items(scaled_object(name="worker-old"))
    ours = f"{WORKERS},app.kubernetes.io/managed-by=invoke"
    platform, runner = made(
        {SCALED_OBJECTS: found, f"{READ} get deployments --selector {ours}": items(workload("worker-old"))}
    )
    platform.up(None)
    assert changes(runner) == [
        f"{KUBECTL} delete scaledobjects.keda.sh/worker-old triggerauthentications.keda.sh/worker-old "
        "configmap/warren-keda-old deployment/worker-old poddisruptionbudget/worker-old --ignore-not-found --wait=false"
    ]


def test_down_ends_autoscalers_before_what_they_scale(home: Path) -> None:
    platform, runner = made(by_keda())
    platform.down(volumes=False)
    assert runner.ran[0] == f"{KUBECTL} delete scaledobjects.keda.sh/worker --ignore-not-found --timeout=120s"
    assert runner.ran[1].startswith(f"{KUBECTL} delete deployments")


EXPIRED = WarrenError(
    "`kubectl` ended with exit code 1: error: timed out waiting for the condition on scaledobjects/worker",
    ExitCode.FAILED,
)


def test_down_stops_all_else_where_no_keda_lets_go_and_says_what_to_do(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ScaledObject has a finalizer, and would be waited for without end."""
    platform, runner = made({**by_keda(), f"{KUBECTL} delete scaledobjects": EXPIRED})
    for _ in range(2):
        with pytest.raises(WarrenError) as caught:
            platform.down(volumes=False)
        patch = f'{KUBECTL} patch scaledobjects.keda.sh/worker --type=merge \'--patch={{"metadata":{{"finalizers":null}}}}\''
        assert str(caught.value) == (
            "dev/warren: all else is stopped, but KEDA does not let scaledobjects.keda.sh/worker go; start KEDA, which then "
            f"does, or, where it is gone for good, let go yourself: `{patch}`"
        )
        assert caught.value.code is ExitCode.TIMEOUT
        assert "KEDA does not let scaledobjects.keda.sh/worker go; stopping the rest" in capsys.readouterr().err
    assert sum("delete deployments,statefulsets" in line for line in runner.ran) == 2


def test_down_is_done_where_keda_lets_go_meanwhile(home: Path) -> None:
    there = items(scaled_object())
    # While all else is stopped, or when kubectl has just given up.
    for looks in ([there, there, items()], [there, items()]):
        answers = {SCALED_OBJECTS: looks, HPAS: items(), f"{KUBECTL} delete scaledobjects": EXPIRED}
        platform, runner = made(answers)
        platform.down(volumes=False)
        assert any("delete deployments,statefulsets" in line for line in runner.ran)


def test_down_tells_of_no_keda_where_something_else_is_wrong(home: Path) -> None:
    refused = WarrenError("`kubectl` ended with exit code 1: Error from server (Forbidden): x", ExitCode.FAILED)
    for found in (by_keda(), by_hpa()):
        platform, _ = made({**found, f"{KUBECTL} delete scaled": refused, f"{KUBECTL} delete horizontal": refused})
        with pytest.raises(WarrenError, match="the cluster forbids it"):
            platform.down(volumes=False)


# --- the overlay

RENDERED = {
    "keda": "kind: Deployment\nmetadata:\n  name: worker\n---\nkind: ScaledObject\nmetadata:\n  name: worker\n"
    "spec:\n  maxReplicaCount: 6\n",
    "hpa": "kind: HorizontalPodAutoscaler\nmetadata:\n  name: worker\nspec:\n  maxReplicas: 6\n",
    "": "kind: Deployment\nmetadata:\n  name: worker\n",
}


def scalers(option: str, there: dict[str, Any] | None = None) -> Scalers:
    runner: Any = FakeRunner({"kubectl kustomize k8s/overlays/dev": RENDERED[option]})
    kept = {one["metadata"]["name"]: Autoscaler(None, one) for one in (there or {}).values()}  # type: ignore[arg-type]
    return Scalers.of(render(DEV, runner), kept)


def said(content: dict[str, Any], kind: str = "ScaledObject") -> dict[str, Any]:
    """What the overlay says to the autoscaler, by path, and the annotations that it adds."""
    found: dict[str, Any] = {}
    for one in content["patches"]:
        if one["target"]["kind"] == kind:
            assert one["target"]["labelSelector"] == "app.kubernetes.io/name=worker"
            change = json.loads(one["patch"])
            if isinstance(change, dict):
                found["annotations"] = change["metadata"]["annotations"]
            else:
                found |= {each["path"]: each["value"] for each in change}
    return found


def written(settings: Settings, chosen: Scalers) -> tuple[dict[str, Any], dict[str, Any]]:
    """The overlay, and its pool heavy."""
    folder = overlay.write(settings, "warren-app:0123", DEV, {}, chosen)
    pool = folder / "worker-heavy" / "kustomization.yaml"
    return json.loads((folder / "kustomization.yaml").read_text()), json.loads(
        pool.read_text()
    ) if settings.pools else {}


def test_the_defaults_leave_to_the_component_what_it_says(home: Path) -> None:
    for option in RENDERED:
        assert written(Settings(), scalers(option))[0]["patches"] == []


def test_an_overlays_own_scaler_may_leave_its_most_out(home: Path) -> None:
    rendered = RENDERED["keda"].replace("  maxReplicaCount: 6\n", "")
    runner: Any = FakeRunner({"kubectl kustomize k8s/overlays/dev": rendered})
    assert Scalers.of(render(DEV, runner), {}).most == 100


def test_settings_reach_keda(home: Path) -> None:
    settings = Settings(
        queues=("default", "mail"), worker_concurrency="4", workers=8, task_time_limit=1000, pools=(HEAVY,)
    )
    whole, pool = written(settings, scalers("keda"))
    assert said(whole) == {
        "/spec/minReplicaCount": 8,
        # As the least one is more than the overlay's most.
        "/spec/maxReplicaCount": 8,
        "/spec/triggers/0/metadata/queueName": "^(default|mail)$",
        "/spec/triggers/0/metadata/value": "4",
        "/spec/cooldownPeriod": 1060,
    }
    assert said(pool) == {
        "/spec/minReplicaCount": 3,
        "/spec/maxReplicaCount": 6,
        "/spec/triggers/0/metadata/queueName": "^(video|audio)$",
        "/spec/triggers/0/metadata/value": "1",
        "/spec/cooldownPeriod": 660,
    }
    (component,) = pool["components"]
    assert (overlay.FOLDER / "worker-heavy" / component).resolve() == ROOT / "k8s" / "components" / "keda" / "scaler"


def test_settings_reach_a_horizontal_pod_autoscaler(home: Path) -> None:
    whole, pool = written(Settings(workers=2, queues=("a",), pools=(HEAVY,)), scalers("hpa"))
    assert said(whole, "HorizontalPodAutoscaler") == {"/spec/minReplicas": 2, "/spec/maxReplicas": 6}
    assert said(pool, "HorizontalPodAutoscaler") == {"/spec/minReplicas": 3, "/spec/maxReplicas": 6}
    assert pool["components"][0].endswith("k8s/components/hpa")


def test_bounds_that_a_person_set_stay(home: Path) -> None:
    there = {"a": scaled_object(4, 12, **{"warren/bounds": "kept"}), "b": scaled_object(5, 6, "worker-heavy")}
    whole, pool = written(Settings(workers=2, pools=(HEAVY,)), scalers("keda", there))
    assert said(whole) == {
        "/spec/minReplicaCount": 4,
        "/spec/maxReplicaCount": 12,
        "annotations": {"warren/bounds": "kept"},
    }
    assert said(pool)["/spec/minReplicaCount"] == 3


def test_without_an_autoscaler_pools_have_none(home: Path) -> None:
    whole, pool = written(Settings(workers=2, pools=(HEAVY,)), scalers(""))
    assert whole["patches"] == [] and pool["components"] == []


def test_an_overview_takes_one_command_less(home: Path) -> None:
    both = f"{READ} get pods,horizontalpodautoscalers.autoscaling"
    platform, runner = made({both: items(pod("worker-a"), hpa(2, 5)), SCALED_OBJECTS: NO_KEDA})
    instances, scalers = platform.overview()
    assert [one.name for one in instances] == ["worker-a"]
    assert (scalers["worker"].least, scalers["worker"].most) == (2, 5)
    assert sum(" get " in line for line in runner.read_) == 2


def test_who_may_not_look_at_autoscalers_has_an_overview_all_the_same(home: Path) -> None:
    refused = WarrenError("`kubectl` ended with exit code 1: Error (Forbidden): User is forbidden", ExitCode.FAILED)
    platform, _ = made({f"{READ} get pods,": refused, HPAS: refused, SCALED_OBJECTS: refused})
    instances, scalers = platform.overview()
    assert ("worker-a" in [one.name for one in instances], scalers) == (True, {})
