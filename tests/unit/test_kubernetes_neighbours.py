"""`up` in a namespace where other things run: not without a word, since its rules are for all that runs there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.errors import ExitCode, WarrenError
from deploy.platforms.kubernetes import Kubernetes
from deploy.settings import Settings
from tests.unit.conftest import FakeRunner

CONFIG = {
    "current-context": "dev",
    "contexts": [{"name": "dev", "context": {"cluster": "dev"}}],
    "clusters": [{"name": "dev", "cluster": {"server": "https://127.0.0.1:6443"}}],
}
READ = "kubectl --context dev --namespace warren --request-timeout=10s"
OTHERS = f"{READ} get deployments,statefulsets,daemonsets,cronjobs,pods --selector 'app.kubernetes.io/part-of!=warren'"
SHOP = "deployment.apps/shop\ncronjob.batch/clean\npod/shop-1\npod/shop-2\n"
FORBIDDEN = WarrenError(
    '`kubectl` ended with exit code 1: namespaces "warren" is forbidden: User "jo" cannot get resource "namespaces"',
    ExitCode.FAILED,
)


def made(answers: dict[str, Any], confirmed: bool = False) -> tuple[Kubernetes, FakeRunner]:
    asked = {"kubectl config view": json.dumps(CONFIG), OTHERS: SHOP, **answers}
    # What comes behind is not looked at here: it ends with this.
    runner = FakeRunner({**asked, "kubectl --context dev --namespace warren apply": InterruptedError("applied")})
    return Kubernetes(Settings(app_image="warren-app:0123"), runner, confirmed), runner  # type: ignore[arg-type]


def namespace(**labels: str) -> str:
    return json.dumps({"metadata": {"name": "warren", "labels": labels}})


@pytest.mark.parametrize("answer", [namespace(team="shop"), FORBIDDEN])
def test_a_namespace_in_use_is_not_taken_over_without_a_word(home: Path, answer: Any) -> None:
    platform, runner = made({f"{READ} get namespace warren": answer})
    with pytest.raises(WarrenError) as caught:
        platform.up(None)
    assert caught.value.code is ExitCode.REFUSED
    assert str(caught.value).startswith(
        "dev/warren: other things run in this namespace (deployment.apps/shop, cronjob.batch/clean, pod/shop-1 and 1 more)"
    )
    assert "WARREN_PROJECT, or say `invoke up --yes`" in str(caught.value)
    assert runner.ran == []


@pytest.mark.parametrize(
    ("answers", "confirmed"),
    [
        ({}, False),
        ({f"{READ} get namespace warren": namespace()}, True),
        ({f"{READ} get namespace warren": namespace(**{"app.kubernetes.io/part-of": "warren"})}, False),
        # The overlay has no Namespace (components/namespaced), but the stack was there before.
        (
            {
                f"{READ} get namespace warren": namespace(),
                f"{READ} get configmaps": json.dumps({"items": [{"metadata": {"name": "warren-tasks-0123456789"}}]}),
            },
            False,
        ),
        ({f"{READ} get namespace warren": namespace(), OTHERS: ""}, False),
    ],
)
def test_one_of_its_own_or_one_that_is_meant_is(home: Path, answers: dict[str, Any], confirmed: bool) -> None:
    platform, _ = made(answers, confirmed)
    with pytest.raises(InterruptedError, match="applied"):
        platform.up(None)
