"""Pools that an overlay has and the settings don't: commands know them from the cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.pools import Pool
from deploy import management
from deploy.commands import queues, send, stack
from deploy.errors import ExitCode, WarrenError
from deploy.secrets import Secrets
from deploy.session import Session
from deploy.where.facts import Facts, know_queues
from tests.unit.conftest import make_session
from tests.unit.test_kubernetes import KUBECTL, READ, items, made, workload


def told(name: str, config: str) -> dict[str, Any]:
    """Workers as the cluster has them, who read a ConfigMap."""
    container = {
        "envFrom": [{"secretRef": {"name": "app-env"}}, {"configMapRef": {"name": config}}],
        "env": [{"name": "BROKER_PASSWORD", "valueFrom": {}}, {"name": "WARREN_POOL", "value": "batch"}],
    }
    found = workload(name)
    return {**found, "kind": "Deployment", "spec": {**found["spec"], "template": {"spec": {"containers": [container]}}}}


def config(name: str, **data: str) -> dict[str, Any]:
    return {"kind": "ConfigMap", "metadata": {"name": name}, "data": data}


CLUSTER = items(
    config("warren-tasks-old", WARREN_POOL_BATCH_QUEUES="former"),
    config("warren-tasks-new", WARREN_POOL_BATCH_QUEUES="batch,night", WARREN_POOL_BATCH_TIME_LIMIT="50"),
    *(told(name, "warren-tasks-new") for name in ("worker", "worker-batch", "worker-heavy", "worker-unsaid", "flower")),
)
THERE = {
    f"{READ} get deployment worker-batch": json.dumps(workload("worker-batch", 2, 2)),
    f"{READ} get deployment worker-other": "",
    f"{READ} get deployments,configmaps": CLUSTER,
}
HEAVY = Pool(name="heavy", queues=("heavy",), time_limit=300)
BATCH = Pool(name="batch", queues=("batch", "night"), time_limit=50)


@pytest.fixture
def session(home: Path, secrets: Secrets, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setattr(management, "bound", lambda *_: ["default", "elsewhere"])
    monkeypatch.setattr(management, "alarms", lambda *_: [])
    found = make_session(secrets, pools=(HEAVY,))
    vars(found)["platform"] = made({**THERE, f"{READ} get deployments,statefulsets": items(workload("worker-batch"))})[
        0
    ]
    return found


def test_their_queues_are_those_that_their_workers_are_told_of(session: Session) -> None:
    queues.require_task_queue(session, "batch")
    # Who sends to it is to know it too, and what holds for it.
    assert session.settings.pools == (HEAVY, BATCH)
    queues.require_task_queue(session, "elsewhere")
    assert session.settings.every_queue == ("default", "elsewhere", "heavy", "batch", "night")
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
    with pytest.raises(WarrenError, match="there is no pool 'other'; choose from default, heavy, batch "):
        stack.scale_workers(session, 2, "other")
    with pytest.raises(WarrenError, match="there is no service 'monitor-batch'"):
        stack.checked(session, ["monitor-batch"])


def test_they_are_paused_as_others_are(session: Session) -> None:
    assert stack.pool_named(session, "heavy") == HEAVY
    assert session.settings.pools == (HEAVY,), "nobody was asked"
    assert stack.pool_named(session, "batch") == BATCH


def test_all_services_are_theirs_too(session: Session) -> None:
    assert [one for one in stack.checked(session, []) if "worker" in one] == ["worker", "worker-heavy", "worker-batch"]


def test_who_may_not_look_knows_those_of_the_settings(session: Session) -> None:
    refused = WarrenError("`kubectl` ended with exit code 1: Error (Forbidden): User is forbidden", ExitCode.FAILED)
    session.platform.runner.answers[f"{READ} get deployments,configmaps"] = refused  # type: ignore[attr-defined]
    with pytest.raises(WarrenError, match="there is no pool 'batch'; choose from default, heavy "):
        stack.pool_named(session, "batch")
    # That it is there is seen all the same.
    stack.scale_workers(session, 2, "batch")


def test_a_task_in_their_queue_is_looked_for_there(session: Session) -> None:
    facts = Facts(0, 1, "7D")
    know_queues(session, {"", "batch"}, facts)
    assert facts.queue_names == ("default", "heavy", "batch", "night")
    assert (facts.pools["night"], facts.time_limits["night"]) == ("batch", 50)
    # The broker is asked whether it has that one still.
    later = Facts(0, 1, "7D")
    know_queues(session, {"former"}, later)
    assert later.queue_names[-1] == "former"
