"""`invoke events`: which events of the log are told, and how; with a log of its own instead of a broker's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from app.eventlog import Entry, Unavailable
from deploy.commands import events as module
from deploy.commands.events import TYPES, types_of
from deploy.errors import ExitCode, WarrenError
from deploy.secrets import Secrets
from deploy.session import Session
from tests.unit.conftest import make_session

URL = "amqp://ops:password-of-ops@127.0.0.1:5672/warren"
# Of all events here; a whole minute.
START = 1_795_353_600


def event(kind: str, second: float = 0, uuid: str = "a", **more: Any) -> dict[str, Any]:
    return {"type": kind, "uuid": uuid, "hostname": "celery@a", "timestamp": START + second, **more}


def task(uuid: str, second: float, end: str = "task-succeeded", name: str = "shop.add") -> list[dict[str, Any]]:
    return [
        event("task-sent", second, uuid, name=name, queue="default"),
        event("task-received", second + 0.1, uuid, name=name),
        event("task-started", second + 0.2, uuid),
        event(end, second + 0.3, uuid),
    ]


def heartbeat(second: float) -> dict[str, Any]:
    return {
        "type": "worker-heartbeat",
        "hostname": "celery@a",
        "timestamp": START + second,
        "active": 1,
        "processed": 5,
    }


class FakeLog:
    """Messages with growing offsets; ``coming`` are those that a follower gets, an exception ends a connection."""

    def __init__(self) -> None:
        self.messages: list[list[dict[str, Any]]] = []
        self.first = 0
        self.coming: list[Any] = []
        self.asked: list[tuple[str, Any]] = []

    def entries(self, start: int) -> list[Entry]:
        return [Entry(self.first + number, events, b"") for number, events in enumerate(self.messages)][
            max(0, start - self.first) :
        ]

    def replay(self, url: str, start: Any) -> Iterator[Entry]:
        assert url == URL
        self.asked.append(("replay", start))
        if isinstance(start, datetime):
            # The broker begins with a whole chunk of messages, so a little earlier.
            return iter(self.entries(self.first))
        return iter(self.entries(0 if start == "first" else start))

    def replay_raw(self, url: str, start: Any) -> Iterator[tuple[int, bytes]]:
        return ((entry.offset, json.dumps(entry.events).encode()) for entry in self.replay(url, start))

    def read(self, url: str, start: Any) -> Iterator[Entry]:
        assert url == URL
        self.asked.append(("read", start))
        while self.coming:
            one = self.coming.pop(0)
            if isinstance(one, BaseException):
                raise one
            self.messages.append(one)
            yield self.entries(0)[-1]
        raise KeyboardInterrupt

    def end(self, url: str) -> int | None:
        assert url == URL
        return self.first + len(self.messages) - 1 if self.messages else None


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> FakeLog:
    made = FakeLog()
    for name, function in {
        "replay": made.replay,
        "replay_raw": made.replay_raw,
        "read": made.read,
        "log_end": made.end,
    }.items():
        monkeypatch.setattr(module, name, function)
    monkeypatch.setattr(module, "PAUSE", 0)
    return made


@pytest.fixture
def session(secrets: Secrets) -> Session:
    return make_session(secrets)


def told(session: Session, capsys: pytest.CaptureFixture[str], **options: Any) -> list[str]:
    given: dict[str, Any] = {"since": "", "until": "", "follow": False, "types": "", "name": "", "id_": ""}
    module.events(session, **{**given, "tail": None, "heartbeats": False, "as_json": False, **options})
    return capsys.readouterr().out.splitlines()


def states(lines: list[str]) -> list[tuple[str, str]]:
    return [(found["id"], found["state"]) for found in map(json.loads, lines)]


def test_events_are_the_monitors_lines(log: FakeLog, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    log.messages = [task("a", 0)]
    assert told(session, capsys) == [
        "Status: PENDING[shop.add] ID a sender=celery@a queue=default 2026-11-22T13:20:00.000Z",
        "Status: RECEIVED[shop.add] ID a worker=celery@a 2026-11-22T13:20:00.100Z",
        "Status: STARTED[shop.add] ID a worker=celery@a 2026-11-22T13:20:00.200Z",
        "Status: SUCCESS[shop.add] ID a worker=celery@a 2026-11-22T13:20:00.300Z",
    ]


def test_as_json_a_line_is_an_object(log: FakeLog, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    log.messages = [task("a", 0, "task-failed"), [heartbeat(1)]]
    lines = [json.loads(line) for line in told(session, capsys, as_json=True, heartbeats=True)]
    assert lines[-2]["state"] == "FAILURE"
    assert lines[-1] == {
        **{"event": "worker-heartbeat", "active": 1, "processed": 5, "worker": "celery@a"},
        "time": "2026-11-22T13:20:01.000Z",
    }


def test_workers_that_come_and_go_are_told_and_heartbeats_only_when_asked_for(
    log: FakeLog, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    online = {"type": "worker-online", "hostname": "celery@\x1b[2J", "timestamp": START, "sw_ver": "5.7.0"}
    log.messages = [[online], [heartbeat(1)]]
    line = "Event: worker-online sw_ver=5.7.0 worker=celery@\\x1b[2J 2026-11-22T13:20:00.000Z"
    assert told(session, capsys) == [line]
    assert len(told(session, capsys, heartbeats=True)) == 2
    assert len(told(session, capsys, types="heartbeat")) == 1
    assert told(session, capsys, types="online") == [line]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"types": "failed"}, [("b", "FAILURE")]),
        ({"types": "task-failed,sent"}, [("a", "PENDING"), ("b", "PENDING"), ("b", "FAILURE")]),
        ({"id_": "a", "types": "started"}, [("a", "STARTED")]),
        ({"name": "mail.*", "types": "failed,succeeded"}, [("b", "FAILURE")]),
        ({"name": "shop.add", "types": "failed,succeeded"}, [("a", "SUCCESS")]),
        ({"name": "nothing"}, []),
        ({"tail": 1}, [("b", "FAILURE")]),
        ({"tail": 0}, []),
    ],
)
def test_which_events(
    log: FakeLog,
    session: Session,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, Any],
    expected: list[tuple[str, str]],
) -> None:
    log.messages = [task("a", 0), task("b", 10, "task-failed", "mail.send")]
    assert states(told(session, capsys, as_json=True, **options)) == expected


def test_times_are_those_of_the_events(log: FakeLog, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    log.messages = [task("a", 0), task("b", 60), task("c", 120)]
    lines = told(
        session, capsys, as_json=True, since="2026-11-22T13:20:30Z", until="2026-11-22T13:21:30Z", types="succeeded"
    )
    assert states(lines) == [("b", "SUCCESS")]
    assert log.asked == [("replay", datetime(2026, 11, 22, 13, 20, 30, tzinfo=UTC))]


def test_names_are_known_though_their_events_are_not_told(
    log: FakeLog, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    log.messages = [task("a", 0)]
    assert "SUCCESS[shop.add]" in told(session, capsys, types="succeeded")[0]


# --- how far back


def test_the_last_events_are_found_without_reading_all(
    log: FakeLog, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    log.messages = [task(str(number), number) for number in range(3000)]
    lines = told(session, capsys, as_json=True)
    assert len(lines) == 100
    assert states(lines)[-1] == ("2999", "SUCCESS")
    assert log.asked == [("replay", 3000 - module.FIRST_LOOK)]


def test_where_there_is_little_but_heartbeats_the_next_look_goes_further(
    log: FakeLog, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    log.messages = [task("a", 0), *([heartbeat(number)] for number in range(2000))]
    assert len(told(session, capsys)) == 4
    assert log.asked == [("replay", 1001), ("replay", 0)]


def test_a_log_that_has_dropped_its_beginning_is_read_once(
    log: FakeLog, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    log.first = 5000
    log.messages = [task("a", 0), [heartbeat(1)]]
    assert len(told(session, capsys)) == 4
    assert log.asked == [("replay", 5002 - module.FIRST_LOOK)]


def test_looking_back_has_an_end_and_says_so(
    log: FakeLog, session: Session, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LAST_LOOK", module.FIRST_LOOK)
    log.messages = [task("a", 0), *([heartbeat(number)] for number in range(2000))]
    module.events(
        session,
        **{"since": "", "until": "", "follow": False, "types": "", "name": "", "id_": ""},  # type: ignore[arg-type]
        **{"tail": None, "heartbeats": False, "as_json": False},  # type: ignore[arg-type]
    )
    assert capsys.readouterr() == (
        "",
        "these are all among the log's last 1,000 messages; --since looks further back\n",
    )


@pytest.mark.parametrize("options", [{"id_": "a"}, {"until": "2030-01-01"}])
def test_a_task_or_an_end_is_looked_for_in_all_of_the_log(
    log: FakeLog, session: Session, capsys: pytest.CaptureFixture[str], options: dict[str, str]
) -> None:
    log.messages = [task("a", 0)] * 50
    assert len(told(session, capsys, **options)) == 200
    assert log.asked == [("replay", "first")]


def test_an_empty_log(log: FakeLog, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(session, capsys) == []


# --- following


def test_what_comes_is_told_after_what_is_there_until_ctrl_c(
    log: FakeLog, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    log.messages = [task("a", 0)]
    log.coming = [task("b", 1)]
    assert [id_ for id_, _ in states(told(session, capsys, follow=True, as_json=True))] == ["a"] * 4 + ["b"] * 4
    assert log.asked[-1] == ("read", 1)


def test_of_an_empty_log_all_that_comes_is_told(
    log: FakeLog, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    log.coming = [task("b", 1)]
    assert len(told(session, capsys, follow=True)) == 4
    assert log.asked[-1] == ("read", "first")


def test_from_a_time_on_that_nothing_is_from_yet(
    log: FakeLog, session: Session, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "entries", lambda _: [])
    begin = "2026-11-22T13:20:00Z"
    assert told(session, capsys, follow=True, since=begin) == []
    assert log.asked[-1] == ("read", datetime(2026, 11, 22, 13, 20, tzinfo=UTC))


def test_a_broker_that_goes_away_is_waited_for_and_nothing_is_left_out_or_told_twice(
    log: FakeLog, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    log.messages = [task("a", 0)]
    log.coming = [task("b", 1), Unavailable("no broker at x"), Unavailable("no broker at x"), task("c", 2)]
    module.events(
        session,
        **{"since": "", "until": "", "follow": True, "types": "started", "name": "", "id_": ""},  # type: ignore[arg-type]
        **{"tail": None, "heartbeats": False, "as_json": True},  # type: ignore[arg-type]
    )
    said = capsys.readouterr()
    assert [id_ for id_, _ in states(said.out.splitlines())] == ["a", "b", "c"]
    assert said.err == "no broker at x; waiting for it\nthe log is there again\n"
    assert log.asked[1:] == [("read", 1), ("read", 2), ("read", 2)]


def test_a_broker_that_comes_back_elsewhere_is_found_there(
    log: FakeLog, session: Session, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a cluster: the way to it ends with its pod, and leads to the next one as soon as that is there."""
    log.coming = [Unavailable("no broker at x"), task("b", 1)]
    found: list[Any] = [WarrenError("no pod of it is there", ExitCode.BROKER), "amqp://elsewhere"]
    asked: list[str] = []

    def address(role: str) -> str:
        assert role == "ops"
        # The first two: of what there is, and of what comes.
        one = URL if len(asked) < 2 else found.pop(0)
        asked.append(str(one))
        if isinstance(one, WarrenError):
            raise one
        return str(one)

    def read(url: str, start: Any) -> Iterator[Entry]:
        assert url == asked[-1]
        return log.read(URL, start)

    monkeypatch.setattr(session, "broker_url", address)
    monkeypatch.setattr(module, "read", read)
    assert len(told(session, capsys, follow=True)) == 4
    assert asked == [URL, URL, "no pod of it is there", "amqp://elsewhere"]


def test_what_waiting_does_not_help_ends_it(log: FakeLog, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    log.coming = [Unavailable("the broker refuses the password: correct it in CELERY_BROKER_URL", lasting=True)]
    with pytest.raises(WarrenError) as caught:
        told(session, capsys, follow=True)
    assert caught.value.code is ExitCode.BROKER
    assert ".warren/secrets/ops" in str(caught.value)


def test_following_has_no_end(log: FakeLog, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WarrenError, match="--follow has no end") as caught:
        told(session, capsys, follow=True, until="1h")
    assert caught.value.code is ExitCode.USAGE


# --- what can't be right


@pytest.mark.parametrize(
    ("text", "types"),
    [
        ("failed", {"task-failed"}),
        (" task-failed , retried ", {"task-failed", "task-retried"}),
        ("offline,worker-online", {"worker-offline", "worker-online"}),
        ("", set(TYPES) - {"worker-heartbeat"}),
    ],
)
def test_types(text: str, types: set[str]) -> None:
    assert types_of(text, heartbeats=False) == types
    assert types_of(text, heartbeats=True) == types | {"worker-heartbeat"}


@pytest.mark.parametrize("text", ["fail", "FAILED", "failed,nope", "task-heartbeat"])
def test_types_that_there_are_not(text: str) -> None:
    with pytest.raises(WarrenError) as caught:
        types_of(text, heartbeats=False)
    assert caught.value.code is ExitCode.USAGE
    assert "choose from sent, received, started, succeeded, failed, " in str(caught.value)


@pytest.mark.parametrize("text", ["unclaimed", "failed,task-orphaned"])
def test_what_the_monitor_concludes_is_in_its_history(text: str) -> None:
    with pytest.raises(WarrenError, match="see `invoke history --attention`"):
        types_of(text, heartbeats=False)


@pytest.mark.parametrize("name", ["since", "until"])
def test_times_that_are_none(log: FakeLog, session: Session, capsys: pytest.CaptureFixture[str], name: str) -> None:
    with pytest.raises(WarrenError, match=f"--{name}: 'yesterday' is no time; ") as caught:
        told(session, capsys, **{name: "yesterday"})
    assert caught.value.code is ExitCode.USAGE
