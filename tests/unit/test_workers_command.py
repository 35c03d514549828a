"""`invoke inspect`, `workers`, `rate-limit` and `time-limit`: what workers are asked and told, and what is said of it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from app.pools import Pool
from deploy import management
from deploy.commands import limits, workers
from deploy.errors import ExitCode
from deploy.secrets import Secrets
from deploy.session import Session
from deploy.settings import Settings
from tests.support.monitor_api import FakeMonitor
from tests.unit.conftest import make_session
from tests.unit.test_single_tasks import refused

ID = "5b6c9e0a-8f2d-4a51-9c0e-3d1f7a2b4c6d"

STATS = {
    "pool": {"implementation": "celery.concurrency.prefork:TaskPool", "max-concurrency": 4},
    "pid": 7,
    "total": {"app.tasks.add": 3, "app.tasks.sleep": 2},
    "uptime": 90,
    "rusage": {"maxrss": 51_200},
    "prefetch_count": 4,
    "worker_pool": "default",
}


class World:
    """Workers that answer to remote control."""

    def __init__(self) -> None:
        self.workers = ["celery@a", "celery@b"]
        self.alarms: list[str] = []
        self.answers: dict[str, dict[str, Any]] = {}
        self.told: list[tuple[str, dict[str, Any], list[str] | None]] = []

    @property
    def control(self) -> World:
        return self

    def broadcast(self, method: str, **options: Any) -> list[dict[str, Any]]:
        self.told.append((method, options.get("arguments") or {}, options.get("destination")))
        assert options["reply"]
        return [{node: answer} for node, answer in self.answers.get(method, {}).items()]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(management, "alarms", lambda *_: made.alarms)
    monkeypatch.setattr(management, "bound", lambda *_: [f"{worker}.celery.pidbox" for worker in made.workers])
    monkeypatch.setattr(Session, "client", lambda *_, **__: made)
    return made


def lines(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """The words of each line of a table, without its headings."""
    return [line.split() for line in capsys.readouterr().out.splitlines()[2:]]


# --- inspect

REQUEST = {
    **{"id": ID, "name": "app.tasks.add", "args": [2, 3], "kwargs": {"x": 1}, "worker_pid": 9},
    "delivery_info": {"routing_key": "mail"},
}


@pytest.mark.parametrize("kind", ["active", "reserved"])
def test_tasks_that_workers_have(world: World, session: Session, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    begun = time.time() - 200 if kind == "active" else None
    world.answers = {kind: {"celery@b": [], "celery@a": [{**REQUEST, "time_start": begun}]}}
    workers.inspect(session, kind, "", False)
    ((*first, pid),) = lines(capsys)
    assert first[:8] == ["celery@a", "app.tasks.add", ID, "[2,", "3]", "{'x':", "1}", "mail"]
    assert (first[8:9], pid) == (["3m"] if begun else [], "9")
    assert world.told == [(kind, {}, ["celery@a", "celery@b"])]


def test_tasks_that_workers_hold_for_later(world: World, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    world.answers = {"scheduled": {"celery@a": [{"eta": "2026-11-22T13:20", "request": REQUEST}], "celery@b": []}}
    workers.inspect(session, "scheduled", "", False)
    assert lines(capsys)[0][-1] == "2026-11-22T13:20"
    world.answers = {"scheduled": {"celery@a": [], "celery@b": []}}
    workers.inspect(session, "scheduled", "", False)
    assert capsys.readouterr() == (
        "",
        "no worker holds a task for later: the broker does, see `invoke schedule`\n",
    )


def test_tasks_that_workers_know(world: World, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    world.answers = {
        "registered": {"celery@a": ["app.add [rate_limit=1/m max_retries=3]", "app.old"], "celery@b": ["app.add"]}
    }
    workers.inspect(session, "registered", "", False)
    assert lines(capsys) == [
        ["app.add", "celery@b"],
        ["app.add", "rate_limit=1/m", "max_retries=3", "celery@a"],
        ["app.old", "celery@a"],
    ]


def test_statistics(world: World, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    world.answers = {"stats": {"celery@a": STATS, "celery@b": {}}}
    workers.inspect(session, "stats", "", False)
    first, second = lines(capsys)
    assert first == ["celery@a", "default", "prefork", "4", "7", "5", "1m", "30s", "50", "MiB", "4"]
    assert second == ["celery@b", "0"]


def test_settings_that_all_have_are_shown_once(
    world: World, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    world.answers = {"conf": {"celery@a": {"x": 1, "y": ["b", "a"]}, "celery@b": {"x": 2, "y": ["a", "b"]}}}
    workers.inspect(session, "conf", "", False)
    assert lines(capsys) == [["x", "1", "celery@a"], ["x", "2", "celery@b"], ["y", "['a',", "'b']", "all"]]


def test_one_worker_is_asked(world: World, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    world.answers = {"active": {"celery@b": []}}
    workers.inspect(session, "active", "celery@b", True)
    assert json.loads(capsys.readouterr().out) == {"answers": {"celery@b": []}, "silent": []}
    assert world.told == [("active", {}, ["celery@b"])]


def test_a_worker_that_there_is_not(world: World, session: Session) -> None:
    line = refused(ExitCode.UNKNOWN, lambda: workers.inspect(session, "active", "celery@c", False))
    assert line == "there is no worker 'celery@c'; there are celery@a, celery@b"


def test_who_did_not_answer_is_said(world: World, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    world.answers = {"active": {"celery@b": []}}
    line = refused(ExitCode.TIMEOUT, lambda: workers.inspect(session, "active", "", True))
    assert line == "1 of 2 workers did not answer within 1 s: celery@a; see `invoke logs worker`"
    assert json.loads(capsys.readouterr().out) == {"answers": {"celery@b": []}, "silent": ["celery@a"]}


def test_an_alarm_explains_silence(world: World, session: Session) -> None:
    world.alarms = ["memory"]
    assert "its memory alarm is on" in refused(ExitCode.BROKER, lambda: workers.inspect(session, "active", "", True))


def test_no_worker(world: World, session: Session) -> None:
    world.workers = []
    for call in (lambda: workers.inspect(session, "active", "", False), lambda: workers.workers(session, False, False)):
        line = refused(ExitCode.UNKNOWN, call)
        assert line.startswith("no worker is connected to the broker; `invoke status` shows why")


def test_something_else_to_inspect(world: World, session: Session) -> None:
    line = refused(ExitCode.USAGE, lambda: workers.inspect(session, "clock", "", False))
    assert line == "inspect what? One of active, reserved, scheduled, registered, stats, conf, not 'clock'"
    assert world.told == []


# --- workers


def answering(world: World) -> None:
    world.answers = {
        "stats": {"celery@a": STATS, "celery@b": STATS},
        "active_queues": {"celery@a": [{"name": "mail"}, {"name": "default"}], "celery@b": []},
        "active": {"celery@a": [REQUEST], "celery@b": []},
    }


def test_a_line_for_each_worker(
    world: World, api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(world)
    workers.workers(session, False, False)
    assert lines(capsys) == [
        ["celery@a", "yes", "default", "4", "1", "5", "1m", "30s", "50", "MiB", "default,", "mail"],
        ["celery@b", "yes", "default", "4", "0", "5", "1m", "30s", "50", "MiB", "none"],
    ]
    assert api.asked == []


def test_workers_as_json(world: World, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    answering(world)
    workers.workers(session, False, True)
    assert json.loads(capsys.readouterr().out)[0] == {
        **{"name": "celery@a", "alive": True, "pool": "default", "concurrency": 4, "active": 1, "processed": 5},
        **{"uptime": 90, "memory": 51_200 * 1024, "queues": ["default", "mail"], "heartbeat": None},
        "kind": "prefork",
    }


def test_a_silent_worker_is_waited_for_once(world: World, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    answering(world)
    for answer in world.answers.values():
        del answer["celery@b"]
    assert "celery@b" in refused(ExitCode.TIMEOUT, lambda: workers.workers(session, False, False))
    assert lines(capsys)[1] == ["celery@b", "silent"]
    assert [told for _, _, told in world.told] == [["celery@a", "celery@b"], ["celery@a"], ["celery@a"]]


def test_those_that_are_gone(
    world: World, api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(world)
    gone = {"name": "celery@z", "alive": False, "heartbeat": "2026-11-22T13:20:01.000Z", "processed": 9}
    api.answers["/workers"] = {"workers": [{**gone, "name": "celery@a"}, gone]}
    workers.workers(session, True, False)
    assert lines(capsys)[2] == ["celery@z", "no,", "heard", "11-22", "13:20:01", "9"]
    world.workers = []
    workers.workers(session, True, True)
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == ["celery@a", "celery@z"]


def test_without_the_monitor_those_that_are_there(
    world: World, api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(world)
    api.answers["/workers"] = (503, {"error": "not yet"})
    workers.workers(session, True, True)
    said = capsys.readouterr()
    assert len(json.loads(said.out)) == 2
    assert said.err == f"{api.name} can't answer (not yet); workers that are gone are not known\n"


# --- limits

KNOWN = {"celery@a": ["app.tasks.add"], "celery@b": ["app.tasks.add"]}
OK = {"celery@a": {"ok": "new limit"}, "celery@b": {"ok": "new limit"}}


@pytest.mark.parametrize(
    ("typed", "limit", "said"),
    [
        ("10/m", "10/m", "each worker starts at most 10/m"),
        ("0.5", "0.5", "each worker starts at most 0.5"),
        ("0", None, "no rate limit any more"),
        ("0/h", None, "no rate limit any more"),
    ],
)
def test_a_rate_limit(
    world: World, session: Session, capsys: pytest.CaptureFixture[str], typed: str, limit: str | None, said: str
) -> None:
    world.answers = {"registered": KNOWN, "rate_limit": OK}
    limits.rate_limit(session, ["add", typed], False)
    assert world.told[-1] == (
        "rate_limit",
        {"task_name": "app.tasks.add", "rate_limit": limit},
        ["celery@a", "celery@b"],
    )
    printed = capsys.readouterr()
    assert printed.out == f"app.tasks.add: {said} (2 of 2 workers)\n"
    assert printed.err.startswith("it holds until a worker restarts")


@pytest.mark.parametrize("words", [["add"], ["add", "fast"], ["add", "10/d"], ["add", "-1"], ["add", "1", "2"]])
def test_what_is_no_rate_limit(world: World, session: Session, words: list[str]) -> None:
    line = refused(ExitCode.USAGE, lambda: limits.rate_limit(session, words, False))
    assert line.endswith("invoke rate-limit add 10/m")
    assert world.told == []


def test_a_worker_that_refuses_a_limit(world: World, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    world.answers = {"registered": KNOWN, "rate_limit": {**OK, "celery@b": {"error": "unknown task"}}}
    line = refused(ExitCode.FAILED, lambda: limits.rate_limit(session, ["add", "5"], True))
    assert line == "celery@b: unknown task"
    assert json.loads(capsys.readouterr().out) == {
        **{"name": "app.tasks.add", "rate_limit": "5", "workers": ["celery@a"]},
        **{"refused": {"celery@b": "unknown task"}, "silent": []},
    }


def test_a_dry_limit_tells_nobody(world: World, api: FakeMonitor, secrets: Secrets) -> None:
    world.answers = {"registered": KNOWN}
    session = make_session(secrets, api.where, dry=True)
    limits.rate_limit(session, ["add", "5"], False)
    assert [method for method, _, _ in world.told] == ["registered"]
    assert session.runner.shown[-1] == "celery -A app control rate_limit app.tasks.add 5  # as user ops"  # type: ignore[attr-defined]


def time_limit(session: Session, *names: str, soft: str = "", hard: str = "", default: bool = False) -> None:
    limits.time_limit(session, list(names), soft, hard, default, False)


@pytest.mark.parametrize(
    ("options", "sent", "said"),
    [
        ({"soft": "5", "hard": "6"}, {"soft": 5, "hard": 6}, "warned after 5 s, ended after 6 s"),
        ({"hard": "6"}, {"soft": None, "hard": 6}, "ended after 6 s"),
        ({"soft": "5"}, {"soft": 5, "hard": None}, "warned after 5 s"),
        (
            {"default": True},
            {"soft": None, "hard": None},
            "limited as its code and the settings say",
        ),
    ],
)
def test_a_time_limit(
    world: World,
    session: Session,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, Any],
    sent: dict[str, int | None],
    said: str,
) -> None:
    world.answers = {"registered": KNOWN, "time_limit": OK}
    time_limit(session, "add", **options)
    assert world.told[-1] == ("time_limit", {"task_name": "app.tasks.add", **sent}, ["celery@a", "celery@b"])
    assert capsys.readouterr().out == f"app.tasks.add: {said}, where it starts from now on (2 of 2 workers)\n"


@pytest.mark.parametrize(
    ("names", "options", "line"),
    [
        (["add"], {}, "give --soft or --hard seconds or both, or --default alone"),
        (["add"], {"soft": "5", "default": True}, "give --soft or --hard seconds or both, or --default alone"),
        (["add"], {"soft": "0"}, "--soft takes a whole number of seconds, at least 1, not '0'"),
        (["add"], {"hard": "1m"}, "--hard takes a whole number of seconds, at least 1, not '1m'"),
        (["add"], {"hard": "301"}, "no task may run for longer than WARREN_TASK_TIME_LIMIT=300 s"),
        (["add"], {"soft": "6", "hard": "6"}, "--soft warns a task before --hard ends it: it must be less"),
        ([], {"hard": "6"}, "for which task? One, for example"),
        (["add", "fail"], {"hard": "6"}, "for which task? One, for example"),
    ],
)
def test_what_is_no_time_limit(
    world: World, session: Session, names: list[str], options: dict[str, Any], line: str
) -> None:
    assert refused(ExitCode.USAGE, lambda: time_limit(session, *names, **options)).startswith(line)
    assert world.told == []


def test_limits_in_force(world: World, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    usual = "soft_time_limit=270 time_limit=300"
    world.answers = {
        "registered": {
            "celery@a": [f"app.add [{usual}]", "app.sleep [soft_time_limit=5 time_limit=300]"],
            "celery@b": [f"app.add [{usual}]", f"app.sleep [{usual}]"],
        },
        "stats": {"celery@a": {"worker_pool": "default"}, "celery@b": {}},
    }
    limits.time_limit(session, [], "", "", False, False)
    assert lines(capsys) == [["app.sleep", "5", "celery@a"]]
    limits.time_limit(session, [], "", "", False, True)
    assert json.loads(capsys.readouterr().out) == {
        "limits": [{"name": "app.sleep", "soft_time_limit": "5", "time_limit": None, "workers": ["celery@a"]}],
        "silent": [],
    }
    # What is usual in one pool is not in another.
    heavy = Pool(name="heavy", queues=("video",), time_limit=3600)
    session.__dict__["settings"] = Settings(pools=(heavy,))
    own, long = f"app.sleep [{usual}]", "app.sleep [soft_time_limit=3570 time_limit=3600]"
    stats = {"celery@a": {"worker_pool": "default"}, "celery@b": {"worker_pool": "heavy"}}
    world.answers = {"registered": {"celery@a": [own], "celery@b": [long]}, "stats": stats}
    limits.time_limit(session, [], "", "", False, False)
    assert capsys.readouterr().err == "no task has a time limit of its own\n"
    world.answers = {"registered": {"celery@a": [long], "celery@b": [own]}, "stats": stats}
    limits.time_limit(session, [], "", "", False, False)
    assert lines(capsys) == [["app.sleep", "270", "300", "celery@b"], ["app.sleep", "3570", "3600", "celery@a"]]
    world.answers = {"registered": KNOWN}
    limits.rate_limit(session, [], False)
    assert capsys.readouterr().err == "no task has a rate limit\n"
    assert world.told[-1] == ("registered", {"taskinfoitems": ["rate_limit"]}, ["celery@a", "celery@b"])
