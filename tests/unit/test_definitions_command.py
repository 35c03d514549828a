"""`invoke definitions`: what the broker of others is told is what ours is told."""

from __future__ import annotations

import json

import pytest

from deploy.commands import manifests
from deploy.definitions import definitions
from deploy.run import Runner
from deploy.secrets import ROLES, Secrets
from deploy.session import Session
from deploy.settings import Settings


def test_it_prints_what_our_own_broker_loads_and_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    secrets = Secrets({role: f"password-of-{role}" for role in ROLES})
    session = Session(Runner())
    session.settings, session.secrets = Settings(queues=("default", "mail")), secrets
    manifests.definitions(session)
    printed = capsys.readouterr().out
    assert json.loads(printed) == definitions(session.settings, secrets)
    assert "password-of-" not in printed
