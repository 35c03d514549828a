"""`invoke retry`: which tasks are sent again, what is asked before, and what is said of each."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.commands import retry as command
from deploy.errors import ExitCode
from deploy.secrets import Secrets
from deploy.session import Session
from tests.support.monitor_api import FakeMonitor, serving
from tests.unit.conftest import make_session
from tests.unit.test_history import full, summary
from tests.unit.test_single_tasks import refused

ID = "5b6c9e0a-8f2d-4a51-9c0e-3d1f7a2b4c6d"
OTHER = "00000000-8f2d-4a51-9c0e-3d1f7a2b4c6d"
NEW = "11111111-8f2d-4a51-9c0e-3d1f7a2b4c6d"


@pytest.fixture
def api() -> Iterator[FakeMonitor]:
    with serving() as made:
        for one in (ID, OTHER):
            made.answers[f"/tasks/{one}"] = full(id=one, state="FAILURE", exception="E('no')")
            made.answers[f"/tasks/{one}/retry"] = {"id": NEW, "retry_of": one, "name": "a.b", "queue": "default"}
        yield made


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """No terminal."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))


def retry(session: Session, *ids: str, yes: bool = False, as_json: bool = False, **options: str) -> None:
    command.retry(session, list(ids), **{"name": "", "since": "", "queue": "", **options}, yes=yes, as_json=as_json)


def test_ids_are_sent_again_without_a_question(
    api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    retry(session, ID.upper(), OTHER, ID.upper())
    assert api.posted == [(f"/tasks/{ID}/retry", "{}"), (f"/tasks/{OTHER}/retry", "{}")]
    assert set(api.keys) == {"Bearer password-of-monitor-token"}
    assert capsys.readouterr() == (f"{ID}: sent again as {NEW}\n{OTHER}: sent again as {NEW}\n", "")


def test_as_json(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    retry(session, ID, as_json=True)
    assert json.loads(capsys.readouterr().out) == [
        {"id": NEW, "retry_of": ID, "name": "a.b", "queue": "default", "error": None}
    ]


def test_a_refusal_is_told_and_the_others_are_sent(
    api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers[f"/tasks/{ID}/retry"] = (409, {"error": "the arguments are cut"})
    assert refused(ExitCode.FAILED, lambda: retry(session, ID, OTHER)) == f"{ID}: the arguments are cut"
    assert capsys.readouterr().out == f"{OTHER}: sent again as {NEW}\n"


@pytest.mark.parametrize("as_json", [True, False])
def test_what_was_sent_before_the_broker_went_away_is_told(
    api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    api.answers[f"/tasks/{OTHER}/retry"] = (503, {"error": "the broker does not answer"})
    line = refused(ExitCode.BROKER, lambda: retry(session, ID, OTHER, as_json=as_json))
    assert line == "the broker does not answer"
    assert NEW in capsys.readouterr().out


def test_a_task_that_nobody_knows_and_nothing_is_sent(api: FakeMonitor, session: Session) -> None:
    line = refused(ExitCode.UNKNOWN, lambda: retry(session, ID, NEW))
    assert line == f"the monitor does not know the task {NEW}; nothing was sent"
    assert api.posted == []


def test_what_succeeded_is_asked_about(api: FakeMonitor, session: Session) -> None:
    api.answers[f"/tasks/{ID}"] = full(state="SUCCESS")
    line = refused(ExitCode.REFUSED, lambda: retry(session, ID, OTHER))
    assert line == "`retry` sends 2 tasks again, 1 of which succeeded; say --yes to do it"
    assert api.posted == []
    retry(session, ID, yes=True)
    assert len(api.posted) == 1


def test_many_are_listed_and_asked_about_and_sent_in_their_order(
    api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [summary(id=one, state="FAILURE", exception="E('no')") for one in (OTHER, ID)]
    api.answers["/tasks"] = {"tasks": found, "next": None}
    line = refused(ExitCode.REFUSED, lambda: retry(session, name="shop.*", since="1h", queue="mail"))
    assert line == "`retry` sends 2 tasks again; say --yes to do it"
    assert ID in capsys.readouterr().out
    asked = "/tasks?state=FAILURE&sort=-time&name=shop.%2A&since=1h&queue=mail&limit=1000"
    assert (api.asked, api.posted) == ([asked], [])
    retry(session, name="shop.*", yes=True)
    assert api.posted == [(f"/tasks/{ID}/retry", "{}"), (f"/tasks/{OTHER}/retry", "{}")]


def test_too_many(api: FakeMonitor, session: Session) -> None:
    api.answers["/tasks"] = {"tasks": [summary(state="FAILURE")] * 1000, "next": "more"}
    line = refused(ExitCode.USAGE, lambda: retry(session, name="shop.*", yes=True))
    assert line.startswith("more than 1000 failed tasks match; narrow it")
    assert api.posted == []


@pytest.mark.parametrize("as_json", [True, False])
def test_none_matches(api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    api.answers["/tasks"] = {"tasks": [], "next": None}
    retry(session, since="1h", as_json=as_json)
    assert capsys.readouterr() == ("[]\n" if as_json else "", "no failed task matches\n")


@pytest.mark.parametrize("given", [{}, {"ids": (ID,), "name": "x"}, {"ids": (ID,), "since": "1h"}])
def test_either_ids_or_which(api: FakeMonitor, session: Session, given: dict[str, Any]) -> None:
    line = refused(ExitCode.USAGE, lambda: retry(session, *given.pop("ids", ()), **given))
    assert line.startswith("give ids of tasks, or which failed ones")
    assert api.asked == []


def test_a_dry_retry_sends_nothing(api: FakeMonitor, secrets: Secrets) -> None:
    session = make_session(secrets, api.where, dry=True)
    retry(session, ID)
    assert api.posted == []
    assert session.runner.shown == [f"POST /tasks/{ID}/retry  # of the monitor"]  # type: ignore[attr-defined]
