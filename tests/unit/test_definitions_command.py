"""`invoke definitions`: what the broker of others is told is what ours is told, but for the administrator."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from deploy.commands import manifests
from deploy.definitions import definitions
from deploy.platforms.kubernetes import passwords
from deploy.run import Runner
from deploy.secrets import KEDA, ROLES, Secrets
from deploy.session import Session
from deploy.settings import Settings
from tests.unit.test_kubernetes import READ, made


def test_it_prints_what_our_own_broker_loads_without_administrators_and_passwords(
    capsys: pytest.CaptureFixture[str],
) -> None:
    secrets = Secrets({role: f"password-of-{role}" for role in ROLES})
    session = Session(Runner())
    session.settings, session.secrets = Settings(queues=("default", "mail")), secrets
    vars(session)["platform"] = None
    manifests.definitions(session)
    printed = capsys.readouterr().out
    told, ours = json.loads(printed), definitions(session.settings, secrets)
    # Users are the same for all virtual hosts: ours would take over theirs of that name, with all its rights.
    assert {one["name"] for one in told["users"]} == set(ROLES) - {"admin"}
    assert not any("administrator" in one["tags"] for one in told["users"])
    for kind, name in (("users", "name"), ("permissions", "user")):
        ours[kind] = [one for one in ours[kind] if one[name] != "admin"]
    assert told == ours
    assert "password-of-" not in printed


@pytest.mark.parametrize("there", [False, True])
def test_kedas_user_is_told_where_there_is_one(
    home: Path, capsys: pytest.CaptureFixture[str], secrets: Secrets, there: bool
) -> None:
    data = {"username": "a2VkYQ==", "password": base64.b64encode(b"of keda").decode()}
    name = f"{READ} get secret {passwords.OF_KEDA}"
    platform, _ = made({name: json.dumps({"data": data})} if there else {})
    session = Session(Runner())
    session.settings, session.secrets = Settings(), secrets
    vars(session)["platform"] = platform
    manifests.definitions(session)
    printed = capsys.readouterr().out
    assert (KEDA in {one["name"] for one in json.loads(printed)["users"]}) is there
    assert "of keda" not in printed
