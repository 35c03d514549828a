"""The Secret of all passwords, where a release knows more of them than the one that made it."""

from __future__ import annotations

import base64
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from deploy.errors import ExitCode, WarrenError
from deploy.paths import ROOT
from deploy.platforms.kubernetes import passwords
from deploy.platforms.kubernetes.context import Context
from deploy.platforms.kubernetes.kubectl import Kubectl
from tests.unit.conftest import FakeRunner

PATCH = "kubectl --context dev --namespace warren patch secret warren --type merge --patch-file "
OURS = {"app.kubernetes.io/part-of": "warren"}


class Patching(FakeRunner):
    """Keeps what a patch's file said."""

    said: dict[str, Any] | None = None

    def run(self, arguments: Any, **more: Any) -> None:
        if "--patch-file" in arguments and not self.dry:
            file = Path(arguments[-1])
            assert file.stat().st_mode & 0o077 == 0
            self.said = json.loads(file.read_text())
        super().run(arguments, **more)


def secret(lacks: tuple[str, ...] = (), **metadata: Any) -> str:
    data = {key: base64.b64encode(b"old").decode() for key in passwords.KEYS if key not in lacks}
    return json.dumps({"metadata": {"resourceVersion": "7", "labels": OURS, **metadata}, "data": data})


def made(found: str, *, dry: bool = False) -> tuple[Kubectl, Patching]:
    runner = Patching(
        {"kubectl --context dev --namespace warren --request-timeout=10s get secret warren": found}, dry=dry
    )
    return Kubectl(Context("dev", "https://127.0.0.1:6443"), "warren", runner), runner  # type: ignore[arg-type]


def test_it_has_what_the_job_makes() -> None:
    job = runpy.run_path(str(ROOT / "k8s" / "base" / "config" / "make_secrets.py"), run_name="make_secrets")
    assert set(passwords.KEYS) == set(job["PASSWORDS"])


@pytest.mark.parametrize("found", ["", secret(), secret(labels={})])
def test_what_lacks_nothing_or_is_still_to_be_made_is_left_alone(home: Path, found: str) -> None:
    kubectl, runner = made(found)
    passwords.complete(kubectl)
    assert runner.ran == []


def test_keys_of_a_later_release_are_added_and_no_other_is_touched(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kubectl, runner = made(secret(lacks=("monitor-webhook", "ops")))
    passwords.complete(kubectl)
    (patch,) = runner.ran
    assert patch.startswith(PATCH)
    assert runner.said is not None and set(runner.said["data"]) == {"ops", "monitor-webhook"}
    values = {base64.b64decode(value).decode() for value in runner.said["data"].values()}
    assert {len(value) for value in values} == {32} and len(values) == 2
    # Not where somebody else changed it meanwhile.
    assert runner.said["metadata"] == {"resourceVersion": "7"}
    assert not (home / ".warren" / "kubernetes" / "secret.json").exists()
    told = capsys.readouterr().err
    assert told == "dev/warren: the Secret warren gets what it lacks: ops, monitor-webhook\n"


@pytest.mark.parametrize("whose", [{"labels": {}}, {"ownerReferences": [{"kind": "ExternalSecret", "name": "warren"}]}])
def test_who_brings_a_secret_is_told_what_it_lacks(home: Path, whose: dict[str, Any]) -> None:
    kubectl, runner = made(secret(lacks=("ops", "admin"), **whose))
    with pytest.raises(
        WarrenError, match=r"^dev/warren: the Secret warren is one of your own and lacks admin, ops;"
    ) as caught:
        passwords.complete(kubectl)
    assert caught.value.code is ExitCode.SETTINGS
    assert runner.ran == []


def test_a_dry_run_writes_nothing(home: Path) -> None:
    kubectl, runner = made(secret(lacks=("ops",)), dry=True)
    passwords.complete(kubectl)
    assert runner.ran == [] and runner.shown[-1].startswith(PATCH)
    assert not (home / ".warren").exists()
