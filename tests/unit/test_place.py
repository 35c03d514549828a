"""Commands that change something say first where, if that is not this host."""

from __future__ import annotations

import re

import pytest

from deploy.paths import ROOT
from deploy.platforms.base import Endpoints
from deploy.secrets import Secrets
from tests.unit.conftest import NOWHERE, FakeRunner, make_session


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize(("place", "said"), [("", ""), ("dev/warren", "dev/warren:\n")])
def test_the_place_is_said_once_and_not_to_scripts(
    secrets: Secrets,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: str,
    said: str,
    dry: bool,
) -> None:
    monkeypatch.setattr(Endpoints, "place", place)
    session = make_session(secrets, NOWHERE, dry=dry)
    # Of dead letters, each is dropped by itself.
    assert [session.acts(f"drop {number}") for number in (1, 2)] == [not dry] * 2
    assert isinstance(session.runner, FakeRunner) and session.runner.shown == ["drop 1", "drop 2"]
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", said)


def test_no_command_acts_without_saying_where() -> None:
    past = {
        str(file.relative_to(ROOT / "deploy" / "commands"))
        for file in (ROOT / "deploy" / "commands").rglob("*.py")
        if re.search(r"runner\.acts\(", file.read_text())
    }
    # A browser is opened here.
    assert past == {"stack.py"}
