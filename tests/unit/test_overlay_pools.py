"""Pools that an overlay has and the settings don't: commands know them from the cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploy import management
from deploy.commands import queues, send, stack
from deploy.errors import ExitCode, WarrenError
from deploy.secrets import Secrets
from deploy.session import Session
from deploy.settings import Settings
from tests.unit.conftest import make_session
from tests.unit.test_kubernetes import KUBECTL, READ, items, made, workload

THERE = {
    f"{READ} get deployment worker-batch": json.dumps(workload("worker-batch")),
    f"{READ} get deployment worker-other": "",
}


@pytest.fixture
def session(home: Path, secrets: Secrets, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setattr(management, "bound", lambda *_: ["batch", "default"])
    monkeypatch.setattr(management, "alarms", lambda *_: [])
    found = make_session(secrets)
    vars(found)["platform"] = made({**THERE, f"{READ} get deployments,statefulsets": items(workload("worker-batch"))})[
        0
    ]
    return found


def test_their_queues_are_those_that_the_broker_has(session: Session) -> None:
    queues.require_task_queue(session, "batch")
    # Who sends to it is to know it too.
    assert session.settings.queues == ("default", "batch")
    with pytest.raises(WarrenError, match="there is no task queue 'other'") as caught:
        queues.require_task_queue(session, "other")
    assert caught.value.code is ExitCode.UNKNOWN
    options: Any = {"kwargs": None, "wait": False, "timeout": "1", "countdown": None, "as_json": False}
    with pytest.raises(WarrenError, match="there is no queue 'other'"):
        send.call(session, "add", [], queue="other", **options)


def test_elsewhere_the_settings_are_all_there_is(secrets: Secrets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(management, "bound", lambda *_: pytest.fail("nobody is to be asked"))
    found = make_session(secrets)
    vars(found)["platform"] = type("Local", (), {"name": "local"})()
    with pytest.raises(WarrenError, match="there is no task queue 'batch'"):
        queues.require_task_queue(found, "batch")
    with pytest.raises(WarrenError, match="there is no service 'worker-batch'"):
        stack.checked(found, ["worker-batch"])


def test_they_are_scaled_and_looked_at(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    assert stack.checked(session, ["worker-batch"]) == ["worker-batch"]
    stack.scale_workers(session, 2, "batch")
    assert session.platform.runner.ran == [f"{KUBECTL} scale deployment/worker-batch --replicas=2"]  # type: ignore[attr-defined]
    assert capsys.readouterr().out == "2 workers of the pool batch.\n"
    with pytest.raises(WarrenError, match="there is no pool 'other'; choose from default"):
        stack.scale_workers(session, 2, "other")
    with pytest.raises(WarrenError, match="there is no service 'monitor-batch'"):
        stack.checked(session, ["monitor-batch"])
    assert session.settings == Settings()
