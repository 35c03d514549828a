"""deploy/commands/control.py, send.py and results.py: what is said to workers and about tasks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from amqp.exceptions import AccessRefused, NotAllowed, NotFound
from celery.exceptions import TimeoutError as ResultTimeout
from kombu.exceptions import OperationalError

from app import eventlog, sending
from deploy import management
from deploy.commands import control, log, results, send
from deploy.errors import ExitCode, WarrenError
from deploy.secrets import Secrets
from deploy.session import Session
from tests.unit.conftest import Menu, make_session

ID = "5b6c9e0a-8f2d-4a51-9c0e-3d1f7a2b4c6d"
OTHER = "00000000-8f2d-4a51-9c0e-3d1f7a2b4c6d"
NAMES = ["app.tasks.add", "app.tasks.fail", "app.tasks.sleep [rate_limit=10/m]", "shop.mail.send", "shop.sms.send"]


class Sent:
    """The result of a task that was sent."""

    id = ID

    def __init__(self, state: str = "SUCCESS", result: Any = 5, traceback: str | None = None) -> None:
        self.state, self.result, self.traceback = state, result, traceback
        self.waited: list[float] = []

    def get(self, timeout: float, propagate: bool) -> None:
        self.waited.append(timeout)
        if self.state == "PENDING":
            raise ResultTimeout


class World:
    """Workers, the broker and its API, as far as commands see them."""

    def __init__(self) -> None:
        self.workers = ["celery@a", "celery@b"]
        self.replies: dict[str, list[dict[str, Any]]] = {"registered": [{"celery@a": NAMES}]}
        self.alarms: list[str] = []
        self.sent = Sent()
        self.error: BaseException | None = None
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.roles: list[str] = []
        self.ended: list[str] = []

    @property
    def control(self) -> World:
        return self

    def broadcast(self, method: str, **options: Any) -> list[dict[str, Any]]:
        self.told.append((method, options))
        if self.error:
            raise self.error
        return self.replies.get(method, [])

    def revoke(self, ids: list[str], **options: Any) -> list[dict[str, Any]]:
        return self.broadcast("revoke", ids=ids, **options)

    def connection_for_write(self) -> World:
        return self

    def connect(self) -> None:
        pass

    def release(self) -> None:
        self.ended.append("release")

    def collect(self) -> None:
        self.ended.append("collect")

    def send_task(self, name: str, connection: World, **options: Any) -> Sent:
        assert connection is self
        self.told.append((name, options))
        if self.error:
            raise self.error
        return self.sent

    def tasks_sent(self) -> list[tuple[str, dict[str, Any]]]:
        return [one for one in self.told if one[0] not in {"registered", "ping", "active", "revoke"}]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(management, "alarms", lambda *_: made.alarms)
    monkeypatch.setattr(management, "bound", lambda *_: [f"{worker}.celery.pidbox" for worker in made.workers])
    monkeypatch.setattr(Session, "client", lambda _, role, **__: made.roles.append(role) or made)
    return made


@pytest.fixture
def session(world: World, secrets: Secrets) -> Session:
    return make_session(secrets)


def call(session: Session, name: str = "add", *args: str, **options: Any) -> None:
    given = {"kwargs": "", "wait": False, "timeout": "60", "queue": "", "countdown": "", "as_json": False}
    send.call(session, name, list(args), **{**given, **options})


def refused(code: ExitCode, action: Any) -> str:
    with pytest.raises(WarrenError) as caught:
        action()
    assert caught.value.code is code
    return str(caught.value)


# --- call: what is sent


@pytest.mark.parametrize(
    ("args", "values"),
    [
        ([], []),
        (["2", "3.5", "-1"], [2, 3.5, -1]),
        (['"text"', "true", "null"], ["text", True, None]),
        (["[1, 2]", '{"a": 1}'], [[1, 2], {"a": 1}]),
    ],
)
def test_arguments_are_json(world: World, session: Session, args: list[str], values: list[Any]) -> None:
    call(session, "add", *args)
    ((name, options),) = world.tasks_sent()
    assert name == "app.tasks.add"
    assert options == {"args": values, "kwargs": {}, "ignore_result": True, "confirm_timeout": sending.CONFIRM_PATIENCE}


@pytest.mark.parametrize(
    ("text", "proposal"), [("text", "'\"text\"'"), ("[1", "'\"[1\"'"), ("it's", "'\"it's\"'"), ("1 2", "'\"1 2\"'")]
)
def test_an_argument_that_is_not_json(world: World, session: Session, text: str, proposal: str) -> None:
    line = refused(ExitCode.USAGE, lambda: call(session, "add", "1", text))
    assert line == f"the argument {text} is not JSON; a text needs quotes of its own: {proposal}"
    assert world.told == []


def test_named_arguments(world: World, session: Session) -> None:
    call(session, "add", kwargs='{"x": 2, "y": [1]}')
    assert world.tasks_sent()[0][1]["kwargs"] == {"x": 2, "y": [1]}


@pytest.mark.parametrize("text", ["[1]", "2", '"x"', "x=2", "{x: 2}", "null"])
def test_named_arguments_that_are_no_object(world: World, session: Session, text: str) -> None:
    line = refused(ExitCode.USAGE, lambda: call(session, kwargs=text))
    assert line == f"--kwargs takes a JSON object such as '{{\"x\": 2}}', not {text}"
    assert world.told == []


@pytest.mark.parametrize(
    ("text", "countdown"), [("", None), ("0", None), ("5", 5), ("0.2", 1), ("1.5", 2), ("1e3", 1000)]
)
def test_a_countdown_is_whole_seconds_and_never_earlier(
    world: World, session: Session, text: str, countdown: int | None
) -> None:
    call(session, countdown=text)
    assert world.tasks_sent()[0][1].get("countdown") == countdown


@pytest.mark.parametrize("option", ["countdown", "timeout"])
@pytest.mark.parametrize("text", ["-1", "soon", "nan", "inf", "1h", str(2**28)])
def test_seconds_that_are_none(world: World, session: Session, option: str, text: str) -> None:
    line = refused(ExitCode.USAGE, lambda: call(session, **{option: text}))
    assert line == f"--{option} takes a number of seconds from 0 to 268435455, not {text!r}"
    assert world.told == []


def test_a_queue_of_ours(world: World, secrets: Secrets, monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session(secrets, queues=("default", "mail"))
    monkeypatch.setattr(management, "bound", lambda *_: ["default", "mail"])
    call(session, queue="mail")
    assert world.tasks_sent()[0][1]["queue"] == "mail"
    monkeypatch.setattr(management, "bound", lambda *_: ["default"])
    line = refused(ExitCode.FAILED, lambda: call(session, queue="mail"))
    assert line == "the queue mail is not up yet; `invoke up` makes it"
    assert len(world.tasks_sent()) == 1

    def unknown(*_: Any) -> None:
        raise WarrenError("others run the broker", ExitCode.BROKER)

    monkeypatch.setattr(management, "bound", unknown)
    call(session, queue="mail")
    assert len(world.tasks_sent()) == 2


def test_a_queue_that_there_is_not(world: World, secrets: Secrets) -> None:
    session = make_session(secrets, queues=("default", "mail"))
    line = refused(ExitCode.UNKNOWN, lambda: call(session, queue="male"))
    assert line == "there is no queue 'male'; the queues are default, mail (WARREN_QUEUES)"
    assert world.told == []


def test_tasks_are_sent_as_producer_and_workers_are_asked_as_ops(world: World, session: Session) -> None:
    call(session)
    assert world.roles == ["ops", "producer"]


def test_a_dry_call_asks_and_sends_nothing(world: World, secrets: Secrets) -> None:
    session = make_session(secrets, dry=True)
    call(session, "add", "2")
    assert world.tasks_sent() == []
    assert session.runner.shown[-1].startswith("celery -A app call app.tasks.add '--args=[2]' '--kwargs={}'")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("alarms", "what"),
    [
        (
            ["disk space"],
            "its disk space alarm is on. Free disk space, or lower WARREN_DISK_FREE_LIMIT_MB; nothing was done",
        ),
        (["memory"], "its memory alarm is on. Free memory, or raise WARREN_RABBITMQ_MEMORY_MB; nothing was done"),
        (["disk space", "memory"], "its disk space and memory alarm is on. Free disk space and memory, or lower"),
    ],
)
def test_nothing_is_sent_to_a_broker_that_takes_nothing(
    world: World, session: Session, alarms: list[str], what: str
) -> None:
    world.alarms = alarms
    line = refused(ExitCode.BROKER, lambda: call(session))
    assert line.startswith(f"the broker takes no messages: {what}")
    assert world.tasks_sent() == []


# --- call: names


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("add", "app.tasks.add"),
        ("tasks.add", "app.tasks.add"),
        ("app.tasks.add", "app.tasks.add"),
        ("sleep", "app.tasks.sleep"),
        ("mail.send", "shop.mail.send"),
    ],
)
def test_a_name_or_its_end(world: World, session: Session, name: str, full: str) -> None:
    call(session, name)
    assert world.tasks_sent()[0][0] == full


def test_an_end_that_several_names_have(world: World, session: Session) -> None:
    line = refused(ExitCode.USAGE, lambda: call(session, "send"))
    assert line == "there are several tasks send: shop.mail.send, shop.sms.send; give the whole name"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("ad", "app.tasks.add"),
        ("app.task.add", "app.tasks.add"),
        ("slep", "app.tasks.sleep"),
        ("dd", "app.tasks.add"),
        ("zzzzzzzz", "app.tasks.add, app.tasks.fail, app.tasks.sleep, shop.mail.send, shop.sms.send"),
    ],
)
def test_a_name_that_no_worker_knows(world: World, session: Session, name: str, near: str) -> None:
    line = refused(ExitCode.UNKNOWN, lambda: call(session, name))
    beginning = f"no worker knows a task {name}; near: "
    assert line.startswith(beginning)
    assert near in line.removeprefix(beginning)
    assert world.tasks_sent() == []


def test_a_name_that_the_first_worker_does_not_know_is_asked_of_all(
    world: World, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [[{"celery@a": ["app.tasks.add"]}], [{"celery@a": ["app.tasks.add"]}, {"celery@b": ["app.tasks.new"]}]]
    limits: list[int] = []
    monkeypatch.setattr(world, "broadcast", lambda _, limit, **__: limits.append(limit) or answers.pop(0))
    call(session, "new")
    assert limits == [1, 2]
    assert world.tasks_sent()[0][0] == "app.tasks.new"


def test_without_workers_our_own_tasks_are_known_by_their_code(
    world: World, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    world.replies = {}
    call(session, "add")
    assert world.tasks_sent()[0][0] == "app.tasks.add"
    assert capsys.readouterr().err == "no worker is up: the task waits in its queue until one is\n"
    assert "app.tasks.add" in refused(ExitCode.UNKNOWN, lambda: call(session, "ad"))


def test_without_workers_a_foreign_name_is_taken_as_it_is(world: World, secrets: Secrets) -> None:
    world.replies = {}
    call(make_session(secrets, celery_app="shop.celery:app"), "send")
    call(make_session(secrets), "else.where")
    assert [name for name, _ in world.tasks_sent()] == ["send", "else.where"]


# --- call: what is said


def test_without_waiting_the_id_is_printed(world: World, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    call(session)
    assert capsys.readouterr().out == f"{ID}\n"
    call(session, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"id": ID, "name": "app.tasks.add", "state": "PENDING"}


def test_waiting_prints_the_result_as_json(world: World, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    world.sent = Sent(result={"sum": 5})
    call(session, wait=True, timeout="7", countdown="2")
    said = capsys.readouterr()
    assert said.out == '{"sum": 5}\n'
    assert said.err == f"sent app.tasks.add as {ID}; waiting for its result\n"
    assert world.sent.waited == [9]
    assert world.tasks_sent()[0][1]["ignore_result"] is False


def test_a_task_that_fails(world: World, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    world.sent = Sent("FAILURE", ValueError("no"), "Traceback ...\nValueError: no\n")
    line = refused(ExitCode.FAILED, lambda: call(session, wait=True))
    assert line == "app.tasks.add ended as FAILURE: ValueError('no')"
    assert "ValueError: no\n" in capsys.readouterr().err
    refused(ExitCode.FAILED, lambda: call(session, wait=True, as_json=True))
    assert json.loads(capsys.readouterr().out) == {
        "id": ID,
        "name": "app.tasks.add",
        "state": "FAILURE",
        "result": None,
        "exception": "ValueError('no')",
        "traceback": "Traceback ...\nValueError: no\n",
    }


def test_a_task_that_does_not_end_in_time(world: World, session: Session) -> None:
    world.sent = Sent("PENDING")
    line = refused(ExitCode.TIMEOUT, lambda: call(session, wait=True, timeout="0.5"))
    assert line == f"no result within 0.5 s; the task goes on, ask for it with `invoke result {ID}`"


def test_a_broker_that_does_not_confirm(world: World, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: Any, **__: Any) -> None:
        raise TimeoutError

    monkeypatch.setattr(world, "send_task", hang)
    assert refused(ExitCode.BROKER, lambda: call(session)).startswith(
        "the broker did not confirm the task, which may or"
    )
    assert world.ended == ["collect"], "a goodbye would be waited for"


@pytest.mark.parametrize(
    "text", ["x", "", ID[:-1], ID + "0", ID.replace("-", ""), "{" + ID + "}", "urn:uuid:" + ID, "*", ID + "\n"]
)
def test_what_is_no_id(world: World, session: Session, text: str) -> None:
    line = refused(ExitCode.USAGE, lambda: results.result(session, text, False))
    assert line == f"{text!r} is no task id; one looks like {ID}"
    assert world.told == []


# --- ping, busy workers


def test_ping(world: World, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    world.replies["ping"] = [{"celery@b": {"ok": "pong"}}, {"celery@a": {"ok": "pong"}}]
    control.ping(session, as_json=False)
    assert capsys.readouterr().out == "celery@a: pong\ncelery@b: pong\n"
    assert world.told[0][1]["limit"] == 2


def test_a_silent_worker(world: World, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    world.replies["ping"] = [{"celery@b": {"ok": "pong"}}]
    line = refused(ExitCode.TIMEOUT, lambda: control.ping(session, as_json=True))
    assert line == "1 of 2 workers did not answer; see `invoke logs worker`"
    assert json.loads(capsys.readouterr().out) == {"pong": ["celery@b"], "silent": ["celery@a"]}


def test_no_worker_to_ping(world: World, session: Session) -> None:
    world.workers = []
    line = refused(ExitCode.UNKNOWN, lambda: control.ping(session, as_json=False))
    assert line.startswith("no worker is connected to the broker; ")
    assert world.told == []


def test_busy_workers_are_those_with_a_task(world: World, session: Session) -> None:
    world.replies["active"] = [{"celery@a": []}, {"celery@b": [{"id": ID}]}]
    assert control.busy_nodes(session, 2) == {"celery@b"}
    assert world.told[0][1]["limit"] == 2


# --- what can be wrong with the broker

WHERE = "the broker at 127.0.0.1:5672"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            ConnectionRefusedError(111, "Connection refused"),
            f"{WHERE} does not answer (Connection refused); `invoke status`",
        ),
        (
            OperationalError("[Errno 111] Connection refused"),
            f"{WHERE} does not answer ([Errno 111] Connection refused); ",
        ),
        (TimeoutError("timed out"), f"{WHERE} does not answer (timed out); "),
        (ConnectionResetError(), f"{WHERE} does not answer (ConnectionResetError); "),
        (
            AccessRefused("ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN.", (0, 0), "", 403),
            f"{WHERE} refuses the password of user producer in .warren/secrets/producer; is this another stack's broker?",
        ),
        (
            AccessRefused("ACCESS_REFUSED - write access to exchange 'x' in vhost 'warren' refused", (60, 40), "", 403),
            f"{WHERE} refuses this to user producer: ",
        ),
        (
            NotAllowed("NOT_ALLOWED - vhost warren not found", (10, 40), "", 530),
            f"{WHERE} refuses this to user producer: ",
        ),
        (
            NotFound("NOT_FOUND - no exchange 'tasks' in vhost 'warren'", (60, 40), "", 404),
            f"{WHERE} lacks a queue or exchange (",
        ),
    ],
)
def test_errors_of_the_broker_are_one_line(session: Session, error: Exception, line: str) -> None:
    def fail() -> None:
        with control.connected(session, "producer"):
            raise error

    said = refused(ExitCode.BROKER, fail)
    assert said.startswith(line)
    assert "\n" not in said


@pytest.mark.parametrize("error", [ZeroDivisionError(), KeyboardInterrupt(), WarrenError("x", ExitCode.FAILED)])
def test_other_errors_are_not_the_brokers(session: Session, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, control.connected(session, "producer"):
        raise error
    assert caught.value is error


def test_through_the_menu_a_broker_that_is_away_is_exit_code_5(
    menu: Menu, world: World, secrets: Secrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_session(secrets)
    monkeypatch.setattr("deploy.menu.Session", lambda *_: made)
    world.error = ConnectionRefusedError(111, "Connection refused")
    ended = menu("call", "add", "2", "3", "--wait")
    assert (ended.code, ended.out) == (5, "")
    assert ended.err.startswith(f"error: {WHERE} does not answer (Connection refused); ")
    assert ended.err.count("\n") == 1


# --- outcome

SENT = {
    "type": "task-sent",
    "uuid": ID,
    "name": "add",
    "args": "(2, 3)",
    "kwargs": "{}",
    "hostname": "gen1@me",
    "timestamp": 1,
}
RECEIVED = {
    "type": "task-received",
    "uuid": ID,
    "name": "add",
    "args": "(2, 3)",
    "hostname": "celery@a",
    "timestamp": 2,
}
STARTED = {"type": "task-started", "uuid": ID, "hostname": "celery@a", "timestamp": 3}
SUCCEEDED = {
    "type": "task-succeeded",
    "uuid": ID,
    "hostname": "celery@a",
    "result": "5",
    "runtime": 0.1,
    "timestamp": 4,
}
RETRIED = {
    "type": "task-retried",
    "uuid": ID,
    "hostname": "celery@a",
    "exception": "Retry()",
    "traceback": "T",
    "timestamp": 4,
}
FAILED = {
    "type": "task-failed",
    "uuid": ID,
    "hostname": "celery@b",
    "exception": "E()",
    "traceback": "T2",
    "timestamp": 5,
}
REVOKED = {"type": "task-revoked", "uuid": ID, "hostname": "celery@a", "terminated": False, "timestamp": 5}
REJECTED = {"type": "task-rejected", "uuid": ID, "hostname": "celery@a", "timestamp": 5}


def outcome(events: list[dict[str, Any]]) -> dict[str, Any]:
    return results.outcome(log.folded(ID, events))


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], "PENDING"),
        ([SENT], "PENDING"),
        ([SENT, RECEIVED], "RECEIVED"),
        ([SENT, RECEIVED, STARTED], "STARTED"),
        ([SENT, RECEIVED, STARTED, SUCCEEDED], "SUCCESS"),
        ([SENT, RECEIVED, STARTED, FAILED], "FAILURE"),
        ([SENT, RECEIVED, STARTED, RETRIED], "RETRY"),
        ([SENT, RECEIVED, STARTED, RETRIED, RECEIVED, STARTED, SUCCEEDED], "SUCCESS"),
        ([SENT, REVOKED], "REVOKED"),
        ([SENT, RECEIVED, REJECTED], "REJECTED"),
        # A killed worker's task, run again by another.
        ([SENT, RECEIVED, STARTED, RECEIVED, STARTED], "STARTED"),
        # It ran twice; what it returned first is what its caller got.
        ([SENT, RECEIVED, STARTED, SUCCEEDED, RECEIVED, STARTED], "SUCCESS"),
        ([SENT, STARTED, SUCCEEDED, STARTED, FAILED], "SUCCESS"),
        # The sender's event comes after those of a fast worker.
        ([RECEIVED, SENT], "RECEIVED"),
        ([RECEIVED, STARTED, SENT], "STARTED"),
        ([RECEIVED, STARTED, SUCCEEDED, SENT], "SUCCESS"),
        ([STARTED, {"type": "task-of-the-future", "uuid": ID}], "STARTED"),
        ([STARTED, {"uuid": ID}], "STARTED"),
    ],
)
def test_the_state_that_events_add_up_to(events: list[dict[str, Any]], state: str) -> None:
    assert outcome(events)["state"] == state


def test_what_events_tell_is_put_together() -> None:
    assert outcome([SENT, RECEIVED, STARTED, {**SUCCEEDED, "name": None}]) == {
        "id": ID,
        "name": "add",
        "state": "SUCCESS",
        "args": "(2, 3)",
        "kwargs": "{}",
        "result": "5",
        "exception": None,
        "traceback": None,
        "worker": "celery@a",
        "runtime": 0.1,
        "timestamp": 4,
    }


@pytest.mark.parametrize("events", [[SENT, STARTED], [STARTED, SENT]])
def test_the_worker_is_never_the_sender(events: list[dict[str, Any]]) -> None:
    assert outcome(events)["worker"] == "celery@a"
    assert outcome([SENT])["worker"] is None


def test_a_retry_that_succeeds_has_no_exception() -> None:
    answer = outcome([SENT, STARTED, RETRIED, STARTED, SUCCEEDED])
    assert (answer["result"], answer["exception"], answer["traceback"]) == ("5", None, None)
    assert outcome([SENT, STARTED, RETRIED])["exception"] == "Retry()"
    assert outcome([SENT, STARTED, FAILED])["traceback"] == "T2"


@pytest.mark.parametrize(("events", "code"), [([SENT, SUCCEEDED], 0), ([SENT, FAILED], 1), ([SENT], 0)])
def test_result_from_the_event_log(
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    events: list[dict[str, Any]],
    code: int,
) -> None:
    urls: list[str] = []
    monkeypatch.setattr(eventlog, "find", lambda url, *_: urls.append(url) or events)
    if code:
        with pytest.raises(SystemExit) as caught:
            results.result(session, ID, as_json=True)
        assert caught.value.code == code
    else:
        results.result(session, ID, as_json=True)
    assert json.loads(capsys.readouterr().out)["id"] == ID
    assert urls == ["amqp://ops:password-of-ops@127.0.0.1:5672/warren"]


def test_a_task_that_the_log_does_not_know(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventlog, "find", lambda *_: [])
    line = refused(ExitCode.UNKNOWN, lambda: results.result(session, ID, False))
    assert line == f"no event of the last 7D mentions {ID}; was it sent through this broker?"


def test_a_log_that_cannot_be_read_now(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise eventlog.Unavailable("the event log is away")

    monkeypatch.setattr(eventlog, "find", fail)
    assert refused(ExitCode.BROKER, lambda: results.result(session, ID, False)) == (
        "the event log is away; `invoke status` shows what runs, `invoke up` starts it"
    )
