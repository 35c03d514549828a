"""deploy/commands/queues.py: what is read of the broker and the monitor, and what is done to queues."""

from __future__ import annotations

import io
import json
import sys
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from app.eventlog import Unavailable
from app.pools import Pool
from app.revokes import log
from deploy import management
from deploy.commands import queues
from deploy.errors import ExitCode, WarrenError
from deploy.platforms.base import Instance
from deploy.secrets import Secrets
from deploy.session import Session
from deploy.settings import Settings
from tests.support.monitor_api import FakeMonitor
from tests.unit.conftest import make_session
from tests.unit.test_history import summary
from tests.unit.test_single_tasks import refused

ID = "5b6c9e0a-8f2d-4a51-9c0e-3d1f7a2b4c6d"
OTHER = "00000000-8f2d-4a51-9c0e-3d1f7a2b4c6d"


def quorum(name: str, ready: int = 0, **more: Any) -> dict[str, Any]:
    return {"name": name, "arguments": {"x-queue-type": "quorum"}, "messages_ready": ready, "messages": ready, **more}


class Channel:
    def __init__(self, world: World) -> None:
        self.world = world

    def queue_declare(self, queue: str, passive: bool) -> Any:
        assert passive
        self.world.did.append(f"count {queue}")
        return type("Count", (), {"message_count": self.world.waiting})

    def queue_purge(self, queue: str) -> int:
        self.world.did.append(f"purge {queue}")
        return self.world.waiting


class World:
    """The broker and its workers, as far as these commands see them."""

    def __init__(self) -> None:
        self.queues = [quorum("default"), quorum("mail", 2)]
        self.waiting = 3
        self.did: list[str] = []
        self.roles: list[str] = []
        self.workers = ["celery@a", "celery@b"]
        self.consumed: list[dict[str, list[str]]] = [{"celery@a": ["default", "mail"], "celery@b": ["default"]}]
        self.paused: dict[str, log.Record] = {}
        self.revoked: list[log.Record] = []

    @property
    def control(self) -> World:
        return self

    def broadcast(self, method: str, **_: Any) -> list[dict[str, Any]]:
        assert method == "active_queues"
        now = self.consumed.pop(0) if len(self.consumed) > 1 else self.consumed[0]
        return [{node: [{"name": name} for name in names]} for node, names in now.items()]

    def connection_for_write(self) -> World:
        return self

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.did.append("close")

    def connect(self) -> None:
        pass

    @property
    def default_channel(self) -> Channel:
        return Channel(self)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(management, "queues", lambda *_: made.queues)
    monkeypatch.setattr(management, "alarms", lambda *_: [])
    monkeypatch.setattr(management, "bound", lambda *_: [f"{one}.celery.pidbox" for one in made.workers])
    monkeypatch.setattr(Session, "client", lambda _, role, **__: made.roles.append(role) or made)
    monkeypatch.setattr(log, "paused", lambda *_: made.paused)
    monkeypatch.setattr(log, "read", lambda _: iter(made.revoked))
    monkeypatch.setattr(
        log, "append", lambda _, one: made.did.append(f"{one.queue} {'paused' if one.paused else 'resumed'}")
    )
    monkeypatch.setattr(queues, "FOLLOW_PATIENCE", 0.2)
    return made


QUEUES: dict[str, Any] = {"queues": ("default", "mail")}


@pytest.fixture
def session(api: FakeMonitor, secrets: Secrets) -> Session:
    return make_session(secrets, api.where, **QUEUES)


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """No terminal."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()


def pending(seconds: float, **changes: Any) -> dict[str, Any]:
    return summary(**{"state": "PENDING", "time": ago(seconds), "queue": "mail", **changes})


# --- queues


def row_of(session: Session, capsys: pytest.CaptureFixture[str], name: str) -> dict[str, Any]:
    capsys.readouterr()
    queues.queues(session, False, as_json=True)
    (row,) = [one for one in json.loads(capsys.readouterr().out) if one["queue"] == name]
    return dict(row)


def test_the_oldest_of_what_waits(
    world: World, api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    # Two are ready: the third, older one has been purged; the others are not in the queue yet.
    later = [pending(900, eta=ago(-60)), pending(5000, eta=ago(-5))]
    api.answers["/tasks"] = {"tasks": [pending(10), *later, pending(100), pending(5000)], "next": None}
    assert row_of(session, capsys, "mail")["oldest_seconds"] == pytest.approx(100, abs=30)
    assert api.asked == ["/tasks?state=PENDING%2CRETRY&queue=mail&limit=1000&sort=-time"]


def test_what_was_held_for_later_waits_from_then_on(
    world: World, api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers["/tasks"] = {"tasks": [pending(5000, eta=ago(300)), pending(100)], "next": None}
    assert row_of(session, capsys, "mail")["oldest_seconds"] == pytest.approx(300, abs=30)


def test_of_more_than_a_page_the_oldest_is_asked_for(
    world: World, api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    world.queues = [quorum("mail", 1001)]
    api.answers["/tasks"] = {"tasks": [pending(800), pending(700)], "next": "more"}
    assert row_of(session, capsys, "mail")["oldest_seconds"] == pytest.approx(800, abs=30)
    assert api.asked[0].endswith("sort=time")


def test_no_age_where_nothing_waits_or_the_monitor_knows_nothing(
    world: World, api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers["/tasks"] = {"tasks": [], "next": None}
    assert row_of(session, capsys, "default")["oldest_seconds"] is None
    assert row_of(session, capsys, "mail")["oldest_seconds"] is None
    assert len(api.asked) == 2, "only about mail"


def test_no_age_and_a_note_without_the_monitor(
    world: World, api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers["/tasks"] = (503, {"error": "the history is not there"})
    queues.queues(session, False, as_json=False)
    said = capsys.readouterr()
    assert "mail" in said.out
    assert (
        said.err == f"{api.name} can't answer (the history is not there); how long the oldest task waits is not known\n"
    )


@pytest.mark.parametrize("every", [True, False])
def test_all_queues_or_those_of_tasks(
    world: World, session: Session, capsys: pytest.CaptureFixture[str], every: bool
) -> None:
    world.queues = [quorum("default"), quorum("celery_delayed_3"), {"name": "a.celery.pidbox"}]
    queues.queues(session, every, as_json=True)
    shown = [row["queue"] for row in json.loads(capsys.readouterr().out)]
    assert shown == (["default", "celery_delayed_3", "a.celery.pidbox"] if every else ["default"])


def test_a_paused_queue_is_shown_as_such(world: World, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    world.paused = {"default": log.Record(at=1.0, by="me@here", queue="default", paused=True)}
    assert row_of(session, capsys, "default")["state"] == "paused"


def test_queues_are_shown_also_where_the_pauses_cannot_be_read(
    world: World, session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(log, "paused", unavailable)
    queues.queues(session, False, False)
    said = capsys.readouterr()
    assert "running" in said.out
    assert said.err.endswith("no broker; which queues are paused is not known\n")
    assert refused(ExitCode.BROKER, lambda: queues.pause(session, [], False)).startswith("no broker; `invoke status`")


def unavailable(*_: Any) -> Any:
    raise Unavailable("no broker")


# --- purge


@pytest.mark.usefixtures("nobody")
def test_a_purge_asks_first(world: World, session: Session) -> None:
    line = refused(ExitCode.REFUSED, lambda: queues.purge(session, "mail", False, False))
    assert line == ("`purge mail` deletes 3 waiting tasks for good: their senders wait for nothing; say --yes to do it")
    assert world.did == ["count mail", "close"]


def test_a_purge_says_how_many(world: World, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    queues.purge(session, "mail", True, False)
    assert world.did == ["count mail", "purge mail", "close"]
    assert world.roles == ["worker"]
    said = capsys.readouterr()
    assert said.out == "mail: 3 waiting tasks deleted.\n"
    assert "`invoke history --queue mail --state PENDING` still lists what is deleted" in said.err
    queues.purge(session, "mail", True, True)
    assert json.loads(capsys.readouterr().out) == {"queue": "mail", "purged": 3}


def test_an_empty_queue_is_not_asked_about(world: World, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    world.waiting = 0
    queues.purge(session, "mail", False, False)
    assert capsys.readouterr().out == "mail is empty.\n"
    assert world.did == ["count mail", "close"]


def test_a_dry_purge_deletes_nothing(world: World, api: FakeMonitor, secrets: Secrets) -> None:
    session = make_session(secrets, api.where, dry=True, **QUEUES)
    queues.purge(session, "mail", True, False)
    assert world.did == ["count mail", "close"]
    assert session.runner.shown == ["purge the queue mail (3 waiting tasks)  # as user worker"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nope", ""),
        ("dead_letters", "; for dead_letters there is `invoke dead-letters`"),
        ("celery.events", "; celery.events is a log, which drops what is old by itself"),
        (
            "celery_delayed_3",
            "; celery_delayed_3 holds tasks of all queues for later: see `invoke schedule`, and revoke",
        ),
    ],
)
@pytest.mark.parametrize("action", ["purge", "pause", "resume"])
def test_only_queues_of_tasks(world: World, session: Session, name: str, why: str, action: str) -> None:
    def act() -> None:
        if action == "purge":
            queues.purge(session, name, True, False)
        else:
            getattr(queues, action)(session, [name], False)

    line = refused(ExitCode.UNKNOWN, act)
    assert line.startswith(f"there is no task queue {name!r}; the queues are default, mail (WARREN_QUEUES){why}")
    assert world.did == []


# --- pause and resume


def test_a_pause_is_kept_and_waited_for(world: World, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    world.consumed = [
        {"celery@a": ["default", "mail"], "celery@b": ["mail"]},
        {"celery@a": ["default"], "celery@b": []},
    ]
    queues.pause(session, ["mail"], False)
    assert world.did == ["mail paused"]
    said = capsys.readouterr()
    assert said.out == "mail: paused; none of 2 workers consumes it\n"
    assert said.err.startswith(
        "it holds until `invoke resume mail`, also for workers that start later, but not longer than"
    )
    assert "WARREN_REVOKES_MAX_AGE=7D" in said.err


def test_a_pools_pause_is_that_of_its_queues(
    world: World, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    heavy = Pool(name="heavy", queues=("video", "reports"), time_limit=60)
    session.__dict__["settings"] = Settings(pools=(heavy,))
    world.consumed = [{"celery@a": ["default"], "celery@b": []}]
    queues.pause(session, [], False, "heavy")
    assert world.did == ["video paused", "reports paused"]
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"{queue}: paused; none of 2 workers consumes it" for queue in ("video", "reports")
    ]
    assert said.err.startswith("it holds until `invoke resume --pool heavy`, also for workers that start later")
    world.consumed = [{"celery@a": ["default"], "celery@b": ["video", "reports"]}]
    queues.resume(session, ["video"], False, "heavy")
    assert world.did[2:] == ["video resumed", "reports resumed"]
    capsys.readouterr()
    world.consumed = [{"celery@a": [], "celery@b": []}]
    queues.pause(session, ["default"], False, "heavy")
    assert capsys.readouterr().err.startswith("it holds until `invoke resume default --pool heavy`, also")
    line = refused(ExitCode.UNKNOWN, lambda: queues.pause(session, ["x"], False))
    assert line.endswith("the queues are default, video, reports (WARREN_QUEUES, WARREN_POOL_HEAVY_QUEUES)")
    line = refused(ExitCode.UNKNOWN, lambda: queues.pause(session, [], False, "slow"))
    assert line == "there is no pool 'slow'; choose from default, heavy (WARREN_POOLS)"


def test_all_that_is_paused_is_resumed_by_the_line_that_is_said(
    world: World, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    world.consumed = [{"celery@a": [], "celery@b": []}]
    queues.pause(session, ["mail", "default"], False)
    assert capsys.readouterr().err.startswith("it holds until `invoke resume mail default`, also")


@pytest.mark.parametrize("told", [True, False])
def test_the_log_of_a_worker_is_that_of_its_pool(world: World, session: Session, told: bool) -> None:
    def status() -> list[Instance]:
        if not told:
            raise WarrenError("no engine", ExitCode.PLATFORM)
        of = {"celery@a": "worker-heavy", "celery@b": "worker"}
        return [Instance(service, service, "running", True, "", node) for node, service in of.items()]

    heavy = Pool(name="heavy", queues=("video",), time_limit=60)
    session.__dict__["settings"] = Settings(pools=(heavy,))
    session.__dict__["platform"] = SimpleNamespace(status=status)
    world.consumed = [{"celery@a": ["video"], "celery@b": []}]
    line = refused(ExitCode.TIMEOUT, lambda: queues.pause(session, ["video"], True))
    seen = "worker-heavy" if told else "worker worker-heavy"
    assert line == f"celery@a did not follow within 0.2 s; see `invoke logs {seen}`"


def test_who_does_not_follow_a_pause_is_named(
    world: World, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    world.consumed = [{"celery@a": ["default", "mail"], "celery@b": []}]
    line = refused(ExitCode.TIMEOUT, lambda: queues.pause(session, ["mail"], True))
    assert line == "celery@a did not follow within 0.2 s; see `invoke logs worker`"
    assert json.loads(capsys.readouterr().out) == {
        "paused": True,
        "workers": 2,
        "silent": [],
        "consumers": {"mail": ["celery@a"]},
    }


def test_a_worker_that_does_not_answer_is_named(world: World, session: Session) -> None:
    world.consumed = [{"celery@a": []}]
    line = refused(ExitCode.TIMEOUT, lambda: queues.pause(session, ["mail"], False))
    assert line.startswith("celery@b did not follow")


def test_without_workers_a_pause_holds_for_those_that_start(
    world: World, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    world.workers = []
    queues.pause(session, ["mail", "default"], False)
    assert world.did == ["mail paused", "default paused"]
    assert capsys.readouterr().out == (
        "mail: paused; no worker is up; it holds for those that start\n"
        "default: paused; no worker is up; it holds for those that start\n"
    )


def test_a_resume(world: World, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    queues.resume(session, ["mail"], False)
    assert world.did == ["mail resumed"]
    assert capsys.readouterr() == ("mail: resumed; 1 of 2 workers consumes it\n", "")


def test_a_dry_pause_changes_nothing(world: World, api: FakeMonitor, secrets: Secrets) -> None:
    queues.pause(make_session(secrets, api.where, dry=True, **QUEUES), ["mail"], False)
    assert world.did == []


def test_what_is_paused_is_listed(world: World, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    queues.pause(session, [], False)
    assert capsys.readouterr().err == "no queue is paused; `invoke pause QUEUE` pauses one\n"
    at = datetime(2026, 11, 22, 13, 20, 1, tzinfo=UTC).timestamp()
    world.paused = {"mail": log.Record(at=at, by="me@here", queue="mail", paused=True)}
    queues.resume(session, [], False)
    assert capsys.readouterr().out.splitlines()[-1].split() == ["mail", "2026-11-22", "13:20:01", "me@here"]
    queues.pause(session, [], True)
    assert json.loads(capsys.readouterr().out) == [
        {"queue": "mail", "since": "2026-11-22T13:20:01.000Z", "by": "me@here"}
    ]
    assert world.did == []


# --- schedule


def test_what_is_held_for_later_the_next_first(
    world: World, api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = [
        pending(5, eta=ago(-7200)),
        pending(5, id=OTHER, eta=ago(-60), state="RETRY"),
        pending(5),
        pending(9, eta=ago(3)),
    ]
    api.answers["/tasks"] = {"tasks": tasks, "next": None}
    world.queues = [quorum("celery_delayed_12", 1), quorum("celery_delayed_5", 1), quorum("mail", 7)]
    world.revoked = [log.Record(at=1.0, ids=(ID,))]
    queues.schedule(session, 50, False)
    said = capsys.readouterr()
    first, second = [line.split() for line in said.out.splitlines()[2:]]
    assert first[-3:] == [OTHER, "mail", "RETRY"]
    assert second[-3:] == [ID, "mail", "revoked"]
    assert said.err == "2 known to the monitor, 2 held by the broker (it counts every few seconds)\n"
    assert api.asked == ["/tasks?state=PENDING%2CRETRY&sort=-time&limit=1000"]


def test_more_than_the_limit_is_said(
    world: World, api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers["/tasks"] = {"tasks": [pending(5, eta=ago(-60)) for _ in range(3)], "next": None}
    queues.schedule(session, 2, False)
    assert capsys.readouterr().err.startswith(
        "there are 1 more: --limit 10\n3 known to the monitor, 0 held by the broker"
    )
    queues.schedule(session, 2, True)
    answer = json.loads(capsys.readouterr().out)
    assert (len(answer["tasks"]), answer["count"], answer["in_broker"], answer["more"]) == (2, 3, 0, False)
    assert answer["tasks"][0]["revoked"] is False


def test_nothing_is_held(world: World, api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    api.answers["/tasks"] = {"tasks": [], "next": None}
    queues.schedule(session, 50, False)
    assert capsys.readouterr() == ("", "0 known to the monitor, 0 held by the broker (it counts every few seconds)\n")


def test_errors_of_the_monitor_are_the_commands(world: World, api: FakeMonitor, session: Session) -> None:
    api.answers["/tasks"] = (503, {"error": "not yet"})
    with pytest.raises(WarrenError) as caught:
        queues.schedule(session, 50, False)
    assert caught.value.code is ExitCode.MONITOR
