"""deploy/commands/revokes.py: what `revoke` asks, tells and sees, and what `revoked` lists."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kombu.exceptions import OperationalError

import app.revokes.log
from app.eventlog import Unavailable
from app.monitor.history.clock import rfc3339
from app.revokes.log import Record
from deploy import management, monitor_api
from deploy.commands import history, revokes
from deploy.errors import ExitCode, WarrenError
from deploy.secrets import Secrets
from deploy.session import Session
from deploy.where import facts as where_facts
from deploy.where.facts import Depth, Facts, Held
from tests.unit.conftest import make_session
from tests.unit.test_single_tasks import ID, OTHER, World, refused

A, B = "celery@a", "celery@b"


class Places:
    """Where tasks are."""

    def __init__(self) -> None:
        self.facts = Facts(time.time(), 300, "7D", ("default",), nodes=[A, B], queues={"default": Depth(3, 2)})
        self.error: WarrenError | None = None

    def gather(self, *_: Any) -> Facts:
        if self.error:
            raise self.error
        return self.facts

    def task(self, id_: str, state: str, ago: float = 60, **fields: Any) -> None:
        stamp = rfc3339(time.time() - ago)
        row = {"id": id_, "name": "app.tasks.add", "state": state, "queue": "default", "attention": None, "time": stamp}
        self.facts.tasks[id_] = {**row, "sent": stamp, "steps": [], "attempts": 0, "retries": 0, **fields}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(management, "alarms", lambda *_: made.alarms)
    monkeypatch.setattr(management, "bound", lambda *_: [f"{worker}.celery.pidbox" for worker in made.workers])
    monkeypatch.setattr(Session, "client", lambda _, role, **__: made.roles.append(role) or made)
    made.replies["revoke"] = [{A: {"ok": "x"}}, {B: {"ok": "x"}}]
    return made


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Places:
    made = Places()
    monkeypatch.setattr(where_facts, "gather", made.gather)
    monkeypatch.setattr(revokes, "END_PATIENCE", 0.05)
    return made


@pytest.fixture
def session(world: World, places: Places, secrets: Secrets) -> Session:
    return make_session(secrets)


def asked(world: World, method: str = "revoke") -> list[dict[str, Any]]:
    return [options for name, options in world.told if name == method]


# --- what is asked


@pytest.mark.parametrize("text", ["x", "", ID[:-1], "*"])
def test_what_is_no_id(world: World, session: Session, text: str) -> None:
    line = refused(ExitCode.USAGE, lambda: revokes.revoke(session, [ID, text]))
    assert line == f"{text!r} is no task id; one looks like {ID}"
    assert world.told == []


def test_no_id(session: Session) -> None:
    line = refused(ExitCode.USAGE, lambda: revokes.revoke(session, []))
    assert line.startswith("which task? Give one or more ids: invoke revoke ID..., or which waiting ones: ")


@pytest.mark.parametrize("filters", [{"name": "x"}, {"older_than": "1h"}, {"queue": "default"}])
def test_ids_and_a_search_are_not_one_wish(world: World, session: Session, filters: dict[str, str]) -> None:
    refused(ExitCode.USAGE, lambda: revokes.revoke(session, [ID], **filters))  # type: ignore[arg-type]
    assert world.told == []


@pytest.mark.parametrize("signal", ["9", "sigfoo", "SIGFOO"])
def test_a_signal_that_there_is_not(session: Session, signal: str) -> None:
    line = refused(ExitCode.USAGE, lambda: revokes.revoke(session, [ID], True, signal))
    assert line.startswith("there is no signal 'SIG")
    assert line.endswith("; SIGTERM asks a task to end, SIGKILL ends it")


def test_a_signal_without_terminate_would_do_nothing(world: World, session: Session) -> None:
    line = refused(ExitCode.USAGE, lambda: revokes.revoke(session, [ID], False, "SIGKILL"))
    assert "--terminate" in line
    assert world.told == []


@pytest.mark.parametrize("signal", ["KILL", "SIGKILL", "sigkill"])
def test_a_signal_by_any_of_its_names(world: World, session: Session, signal: str) -> None:
    revokes.revoke(session, [ID.upper(), ID], True, signal)
    (told,) = asked(world)
    assert (told["ids"], told["signal"], told["terminate"], told["limit"]) == ([ID], "SIGKILL", True, 2)


def test_a_dry_revoke_tells_nobody(world: World, places: Places, secrets: Secrets) -> None:
    session = make_session(secrets, dry=True)
    revokes.revoke(session, [ID], True)
    assert world.told == []
    assert session.runner.shown == [  # type: ignore[attr-defined]
        f"celery -A app control terminate SIGTERM {ID}  # as user ops; kept in celery.revoked"
    ]


# --- what it says


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


Arrange = Callable[[Places], None]

CASES: dict[str, tuple[Arrange, str]] = {
    "waiting": (
        lambda places: places.task(ID, "PENDING"),
        r"waiting in queue default .*: it will be discarded",
    ),
    "scheduled": (
        lambda places: places.task(ID, "PENDING", eta=rfc3339(time.time() + 600)),
        r"scheduled for .*, held by the broker: it will be discarded then",
    ),
    "scheduled beyond what is kept": (
        lambda places: places.task(ID, "PENDING", eta=rfc3339(time.time() + 8 * 86_400)),
        r".* discarded then, BUT revokes are kept for 7D \(WARREN_REVOKES_MAX_AGE\) and it is due later: raise that, or",
    ),
    "reserved": (
        lambda places: places.facts.held.update({ID: Held(A, "reserved", None, "default")}),
        r"reserved by celery@a: that worker will discard it",
    ),
    "running": (
        lambda places: places.facts.held.update({ID: Held(A, "active", time.time() - 12, "default")}),
        rf"running on celery@a for 12.\d s of at most 300 s: it goes on, only `invoke revoke {ID} --terminate` ends it",
    ),
    "succeeded": (
        lambda places: places.task(ID, "SUCCESS", finished=rfc3339(time.time() - 60), worker=A, result="3", runtime=1),
        r"had ended before: done at .* on celery@a after 1.0 s: 3",
    ),
    "failed": (
        lambda places: places.task(ID, "FAILURE", finished=rfc3339(time.time() - 60), worker=A, exception="E()"),
        r"had ended before: failed at .* on celery@a: E\(\)",
    ),
    "discarded at once": (
        lambda places: places.task(ID, "REVOKED", -1, finished=rfc3339(time.time() + 1), worker=A),
        r"discarded by celery@a",
    ),
    "revoked before": (
        lambda places: places.task(ID, "REVOKED", finished=rfc3339(time.time() - 60), worker=A),
        r"had ended before: revoked; celery@a discarded it at .*",
    ),
    "unknown": (
        lambda places: None,
        r"unknown: no event of the last 7D mentions it.* It will be discarded if it comes within 7D",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_said_of_a_task(
    session: Session, places: Places, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    arrange, line = CASES[case]
    arrange(places)
    # Its own record is no news.
    places.facts.revokes[ID] = Record(at=time.time() + 1, by="me@here", ids=(ID,))
    revokes.revoke(session, [ID])
    assert re.search(f"^{ID}: {line}", told(capsys)), line


def test_a_second_revoke_says_who_was_first(
    session: Session, places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    places.task(ID, "PENDING")
    places.facts.revokes[ID] = Record(at=time.time() - 60, by="somebody@there", ids=(ID,))
    revokes.revoke(session, [ID])
    assert "by somebody@there; it still waits in queue default" in told(capsys)


def test_no_worker_is_up(world: World, session: Session, places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    world.workers, places.facts.nodes = [], []
    places.task(ID, "PENDING")
    revokes.revoke(session, [ID], as_json=True)
    (options,) = asked(world)
    assert options["reply"] is False
    answer = json.loads(told(capsys))
    assert (answer["workers"], answer["silent"], answer["tasks"][0]["did"]) == (0, [], "waiting")


def test_a_worker_that_does_not_answer_reads_it_later(
    world: World, session: Session, places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    world.replies["revoke"] = [{A: {"ok": "x"}}]
    places.task(ID, "PENDING")
    revokes.revoke(session, [ID])
    assert "1 of 2 workers did not answer (celery@b); they read it from the broker" in capsys.readouterr().err
    line = refused(ExitCode.TIMEOUT, lambda: revokes.revoke(session, [ID], True))
    assert line.startswith("1 of 2 workers did not answer (celery@b): whether a task runs there is not known")


def test_where_it_is_may_not_be_known(session: Session, places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    places.error = WarrenError("no broker; do this", ExitCode.BROKER)
    revokes.revoke(session, [ID])
    assert told(capsys) == f"{ID}: revoked; where it is can't be told: no broker\n"


@pytest.mark.parametrize(("alarms", "words"), [(["disk"], "its disk alarm is on"), ([], "does not answer")])
def test_a_broker_that_does_not_take_it(
    world: World, session: Session, capsys: pytest.CaptureFixture[str], alarms: list[str], words: str
) -> None:
    world.error, world.alarms = OperationalError("timed out"), alarms
    assert words in refused(ExitCode.BROKER, lambda: revokes.revoke(session, [ID]))
    assert told(capsys) == ""


# --- ending what runs


def active(*nodes: str) -> list[dict[str, Any]]:
    return [{node: {ID: ["active", {}]}} for node in nodes]


def test_what_runs_is_ended(world: World, session: Session, places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    world.replies["revoke"] = [{A: {"ok": f"terminate: {ID}"}}, {B: {"ok": "terminate: tasks unknown"}}]
    world.replies["query_task"] = [{A: {}}, {B: {}}]
    places.task(OTHER, "PENDING")
    revokes.revoke(session, [ID, OTHER], True)
    lines = told(capsys).splitlines()
    assert lines[0] == f"{ID}: ran on celery@a, ended with SIGTERM"
    assert lines[1].startswith(f"{OTHER}: waiting in queue default")
    assert len(asked(world)) == 1


def test_what_does_not_end_is_told_twice_and_said(
    world: World, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    world.replies["revoke"] = [{A: {"ok": f"terminate: {ID}"}}, {B: {"ok": "terminate: tasks unknown"}}]
    world.replies["query_task"] = active(A)
    line = refused(ExitCode.FAILED, lambda: revokes.revoke(session, [ID], True))
    assert line == "1 of 1 tasks still run; see `invoke inspect active`"
    assert told(capsys).startswith(
        f"{ID}: still runs on celery@a, which was told twice to end it with SIGTERM; `invoke"
    )
    assert len(asked(world)) == 2


def test_what_began_while_it_was_revoked_is_ended_the_second_time(
    world: World, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    answers: Iterator[Any] = iter([{"ok": "terminate: tasks unknown"}, {"ok": f"terminate: {ID}"}])

    def broadcast(method: str, **options: Any) -> Any:
        world.told.append((method, options))
        if method == "query_task":
            return active(A) if len(asked(world)) < 2 else []
        return [{A: next(answers)}, {B: {"ok": "x"}}]

    world.broadcast = broadcast  # type: ignore[method-assign]
    revokes.revoke(session, [ID], True)
    assert told(capsys) == f"{ID}: ran on celery@a, ended with SIGTERM\n"


# --- by name


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    tasks = [
        {"id": id_, "name": "app.tasks.add", "state": "PENDING", "time": "2026-11-22T13:20:01.123Z", "worker": None}
        for id_ in (ID, OTHER)
    ]
    searched: list[dict[str, Any]] = []

    def search(_: Session, query: dict[str, Any], limit: int) -> tuple[list[dict[str, Any]], bool]:
        searched.append({**query, "limit": limit})
        return (tasks if query["name"] != "none" else []), query["name"] == "many"

    monkeypatch.setattr(history, "search", search)
    return searched


def test_by_name(world: World, session: Session, found: list[dict[str, Any]]) -> None:
    revokes.revoke(session, [], name="app.tasks.add", older_than="1h", queue="default", yes=True)
    assert asked(world)[0]["ids"] == [OTHER, ID], "the oldest first"
    (query,) = found
    assert (query["state"], query["name"], query["until"]) == ("PENDING,RECEIVED,RETRY", "app.tasks.add", "1h")
    revokes.revoke(session, [], True, queue="default", yes=True)
    assert found[-1]["state"] == "PENDING,RECEIVED,RETRY,STARTED"


def test_by_name_it_lists_and_asks(
    world: World,
    session: Session,
    found: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = refused(ExitCode.REFUSED, lambda: revokes.revoke(session, [], name="app.tasks.add"))
    assert line == "`revoke` keeps 2 tasks from running; say --yes to do it"
    assert ID in told(capsys)
    assert world.told == []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    refused(ExitCode.REFUSED, lambda: revokes.revoke(session, [], name="app.tasks.add"))
    assert world.told == []
    monkeypatch.setattr("builtins.input", lambda _: "y")
    revokes.revoke(session, [], name="app.tasks.add")
    assert len(asked(world)) == 1


def test_nothing_matches(
    world: World, session: Session, found: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    revokes.revoke(session, [], name="none")
    assert "no task that has not ended matches" in capsys.readouterr().err
    revokes.revoke(session, [], name="none", as_json=True)
    assert json.loads(told(capsys))["tasks"] == []
    assert "more than 20000 tasks match" in refused(
        ExitCode.USAGE, lambda: revokes.revoke(session, [], name="many", yes=True)
    )
    assert world.told == []


def test_many_are_counted(world: World, session: Session, places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    ids = [f"00000000-8f2d-4a51-9c0e-{number:012}" for number in range(60)]
    for id_ in ids[1:]:
        places.task(id_, "PENDING")
    places.facts.held[ids[0]] = Held(A, "active", time.time(), "default")
    revokes.revoke(session, ids)
    lines = told(capsys).splitlines()
    assert lines[:3] == [
        "60 tasks are revoked.",
        "    59 wait and will be discarded",
        "     1 still run",
    ]
    assert lines[3].startswith(f"{ids[0]}: running on celery@a")


# --- what was revoked


RECORDS = [
    Record(at=1_700_000_000, by="old@host", ids=(ID,)),
    Record(at=1_700_000_001, by="new@host", ids=(OTHER, ID)),
    Record(at=1_700_000_002, by="new@host", headers={"batch": ["seven"]}),
]


def test_revoked(session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(app.revokes.log, "read", lambda *_: iter(RECORDS))
    monkeypatch.setattr(monitor_api, "task", lambda *_: {"name": "app.tasks.add", "state": "REVOKED"})
    revokes.revoked(session, "", 20, False)
    lines = [line.split() for line in told(capsys).splitlines()]
    assert lines == [
        ["UTC", "task,", "or", "stamp", "name", "state", "revoked", "by"],
        ["11-14", "22:13:22", "batch=seven", "new@host"],
        ["11-14", "22:13:21", ID, "app.tasks.add", "REVOKED", "new@host"],
        ["11-14", "22:13:21", OTHER, "app.tasks.add", "REVOKED", "new@host"],
    ]
    revokes.revoked(session, "", 1, True)
    answer = json.loads(told(capsys))
    assert answer["more"] is True
    assert answer["revoked"] == [
        {
            **{"at": "2023-11-14T22:13:22.000Z", "id": None, "stamp": "batch=seven", "by": "new@host"},
            **{"name": None, "state": None},
        }
    ]


def test_revoked_without_the_monitor(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(*_: Any) -> None:
        raise WarrenError("the monitor does not answer; do this", ExitCode.MONITOR)

    monkeypatch.setattr(app.revokes.log, "read", lambda *_: iter(RECORDS))
    monkeypatch.setattr(monitor_api, "task", away)
    revokes.revoked(session, "1h", 20, False)
    captured = capsys.readouterr()
    assert ID in captured.out
    assert captured.err == "the monitor does not answer; names and states are left out\n"


def test_revoked_where_there_is_nothing_and_where_it_goes_wrong(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(app.revokes.log, "read", lambda *_: iter(()))
    revokes.revoked(session, "", 20, False)
    assert capsys.readouterr().err == "nothing was revoked in the last 7D\n"
    assert "--since: 'x' is no time" in refused(ExitCode.USAGE, lambda: revokes.revoked(session, "x", 20, False))

    def away(*_: Any) -> None:
        raise Unavailable("no broker at x")

    monkeypatch.setattr(app.revokes.log, "read", away)
    assert "no broker at x" in refused(ExitCode.BROKER, lambda: revokes.revoked(session, "", 20, False))
