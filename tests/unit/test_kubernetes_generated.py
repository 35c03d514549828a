"""ConfigMaps and Secrets that changes leave behind: deleted when nothing names them, and only then."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from deploy.errors import ExitCode, WarrenError
from deploy.platforms.kubernetes import generated, overlay
from deploy.platforms.kubernetes.context import Context
from deploy.platforms.kubernetes.kubectl import Kubectl
from deploy.settings import Settings
from tests.unit.conftest import FakeRunner

PLACE = "kubectl --context dev --namespace warren"
READ = f"{PLACE} --request-timeout=10s get"
PART = "app.kubernetes.io/part-of=warren"
OLD = f"{READ} configmaps,secrets --selector {PART} --output json"
NAMES = {
    "ConfigMap": ("kube-root-ca.crt", "warren-make-secrets", "warren-tasks-2456789bcd", "warren-app-9tk7mh6662"),
    "Secret": ("warren", "app-env-aeiouaeiou", "app-env-b6bmm9g5tf", "app-env-hkmt24567d"),
}


def there(age: timedelta = timedelta(hours=1)) -> str:
    """All of them, made that long ago."""
    time = (datetime.now(UTC) - age).strftime("%Y-%m-%dT%H:%M:%SZ")
    found = [(kind, name) for kind, names in NAMES.items() for name in names]
    return json.dumps(
        {"items": [{"kind": kind, "metadata": {"name": name, "creationTimestamp": time}} for kind, name in found]}
    )


def using(kind: str, *names: str) -> dict[str, Any]:
    sources = [{"secretRef": {"name": name}} for name in names]
    return {"kind": kind, "spec": {"template": {"spec": {"containers": [{"envFrom": sources}]}}}}


def made(answers: dict[str, Any] | None = None, *, dry: bool = False) -> tuple[Kubectl, FakeRunner]:
    usual = {
        OLD: there(),
        # An earlier one is kept for as long as one can go back to it.
        f"{READ} pods,deployments,replicasets,": json.dumps(
            {"items": [using("Deployment", "warren-tasks-2456789bcd"), using("ReplicaSet", "app-env-b6bmm9g5tf")]}
        ),
        # What an operator has not taken up yet.
        "kubectl kustomize overlay": "kind: ConfigMap\nmetadata:\n  name: warren-app-9tk7mh6662\n",
    }
    runner = FakeRunner({**usual, **(answers or {})}, dry=dry)
    return Kubectl(Context("dev", "https://127.0.0.1:6443"), "warren", runner), runner  # type: ignore[arg-type]


def test_what_nothing_names_is_deleted(capsys: pytest.CaptureFixture[str]) -> None:
    kubectl, runner = made()
    generated.sweep(kubectl, "overlay")
    # Of these names one is no hash: it has letters that no hash has.
    assert runner.ran == [f"{PLACE} delete secret/app-env-hkmt24567d --ignore-not-found"]
    assert capsys.readouterr().err == "dev/warren: deleted what nothing uses any more: secret/app-env-hkmt24567d\n"


def test_what_is_fresh_may_be_of_somebody_who_has_not_applied_yet_what_names_it() -> None:
    kubectl, runner = made({OLD: there(timedelta(minutes=9))})
    generated.sweep(kubectl, "overlay")
    assert runner.ran == []
    # Where the stack ends nothing is to use it.
    generated.sweep(kubectl)
    assert runner.ran == [
        f"{PLACE} delete configmap/warren-app-9tk7mh6662 secret/app-env-hkmt24567d --ignore-not-found"
    ]


def test_after_the_end_of_the_stack_nothing_is_applied() -> None:
    kubectl, runner = made()
    generated.sweep(kubectl)
    assert runner.ran == [
        f"{PLACE} delete configmap/warren-app-9tk7mh6662 secret/app-env-hkmt24567d --ignore-not-found"
    ]


@pytest.mark.parametrize("asked", [OLD, f"{READ} pods,deployments,replicasets,"])
def test_who_may_not_look_does_without(asked: str) -> None:
    kubectl, runner = made({asked: WarrenError("forbidden", ExitCode.FAILED)})
    generated.sweep(kubectl, "overlay")
    assert runner.ran == []


def test_a_dry_run_says_nothing_of_what_is_still_there(capsys: pytest.CaptureFixture[str]) -> None:
    kubectl, runner = made(dry=True)
    generated.sweep(kubectl)
    assert runner.ran == [] and " delete " in runner.shown[-1]
    assert capsys.readouterr().err == ""


def test_what_the_overlay_generates_can_be_found_by_its_label(home: Path) -> None:
    overlay.write(Settings(), "warren-app:1", overlay.base(Settings()), {})
    written = json.loads((overlay.FOLDER / "kustomization.yaml").read_text())
    assert written["generatorOptions"] == {"labels": {"app.kubernetes.io/part-of": "warren"}}
