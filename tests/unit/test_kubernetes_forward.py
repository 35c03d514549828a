"""deploy/platforms/kubernetes/forward.py: a way into the cluster that can't be opened is told soon, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.errors import ExitCode, WarrenError
from deploy.platforms.kubernetes.context import Context
from deploy.platforms.kubernetes.forward import Forward
from deploy.platforms.kubernetes.kubectl import Kubectl
from deploy.run import Runner


@pytest.mark.parametrize(
    ("said", "told", "code"),
    [
        ("error: timed out waiting for the condition", "(no pod of it is there); `invoke status`", ExitCode.MONITOR),
        ("error: unable to forward port because pod is not running", "(unable to forward port", ExitCode.MONITOR),
        ("Unable to connect to the server: EOF", "the cluster does not answer", ExitCode.PLATFORM),
    ],
)
def test_what_can_not_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, told: str, code: ExitCode
) -> None:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\necho "{said}" >&2\nexit 1\n')
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    forward = Forward(Kubectl(Context("dev", "https://127.0.0.1"), "warren", Runner()), "monitor", (5556,))
    with pytest.raises(WarrenError) as caught:
        forward.ports(ExitCode.MONITOR)
    assert told in str(caught.value)
    assert caught.value.code is code
    # kubectl itself would wait for a minute until there is one.
    assert "--pod-running-timeout=1s service/monitor :5556" in (tmp_path / "asked").read_text()
