"""`invoke history`, `task` and `result`: what is asked of the monitor, and how its answers look."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from app import eventlog
from deploy.commands import history, log, looks, results, task
from deploy.errors import ExitCode, WarrenError
from deploy.paths import ROOT
from deploy.session import Session
from deploy.where import facts
from tests.support.monitor_api import FakeMonitor

ID = "5b6c9e0a-8f2d-4a51-9c0e-3d1f7a2b4c6d"
PARENT = "00000000-8f2d-4a51-9c0e-3d1f7a2b4c6d"
NOW = datetime(2026, 11, 22, 13, 30, tzinfo=UTC)


def summary(**changes: Any) -> dict[str, Any]:
    return {
        **{"id": ID, "name": "shop.tasks.send_receipt", "state": "SUCCESS", "attention": None, "attention_since": None},
        **{
            "queue": "default",
            "worker": "worker-1@warren",
            "args": "(7,)",
            "kwargs": "{}",
            "retries": 0,
            "attempts": 1,
        },
        **{
            "time": "2026-11-22T13:20:01.123Z",
            "sent": "2026-11-22T13:20:01.000Z",
            "received": "2026-11-22T13:20:01.010Z",
        },
        **{"started": "2026-11-22T13:20:01.020Z", "finished": "2026-11-22T13:20:01.123Z", "eta": None, "expires": None},
        **{"runtime": 0.103, "wait": 0.01, "result": "'sent'", "exception": None, "root": None, "parent": None},
        **changes,
    }


STEPS = [
    {"state": "PENDING", "time": "2026-11-22T13:20:01.000Z", "worker": None, "note": None},
    {"state": "RECEIVED", "time": "2026-11-22T13:20:01.010Z", "worker": "worker-1@warren", "note": None},
    {"state": "STARTED", "time": "2026-11-22T13:20:01.020Z", "worker": "worker-1@warren", "note": None},
    {"state": "FAILURE", "time": "2026-11-22T13:20:04.520Z", "worker": "worker-1@warren", "note": "E('no')"},
]


def full(**changes: Any) -> dict[str, Any]:
    return summary(**{"traceback": None, "sender": "gen1@me", "steps": STEPS, "children": [], **changes})


FAILED = full(
    state="FAILURE", result=None, runtime=3.5, exception="E('no')", traceback="Traceback:\n  File 'a.py'\nE: no\n"
)


def page(*tasks: dict[str, Any], more: str | None = None) -> dict[str, Any]:
    return {"tasks": list(tasks), "next": more}


# --- history: what is asked


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, "/tasks?sort=-time&limit=20"),
        ({"failed": True}, "/tasks?state=FAILURE%2CREJECTED&sort=-time&limit=20"),
        ({"state": "retry, pending"}, "/tasks?state=RETRY%2CPENDING&sort=-time&limit=20"),
        ({"state": "RETRY,REJECTED", "failed": True}, "/tasks?state=RETRY%2CREJECTED%2CFAILURE&sort=-time&limit=20"),
        ({"attention": True}, "/tasks?attention=any&sort=-time&limit=20"),
        ({"sort": "runtime"}, "/tasks?sort=-runtime&limit=20"),
        ({"sort": "wait", "reverse": True}, "/tasks?sort=wait&limit=20"),
        (
            {"name": "shop.*", "worker": "celery@a", "queue": "mail", "since": "1h", "until": "5m", "text": "a b"},
            "/tasks?attention=&name=shop.%2A&worker=celery%40a&queue=mail&since=1h&until=5m&text=a+b&limit=20",
        ),
    ],
)
def test_what_is_asked(api: FakeMonitor, session: Session, options: dict[str, Any], asked: str) -> None:
    from urllib.parse import parse_qsl, urlsplit

    api.answers["/tasks"] = page()
    history.history(session, 20, True, **options)
    (target,) = api.asked
    values = dict(parse_qsl(urlsplit(target).query))
    assert values == {"sort": "-time", **dict(parse_qsl(urlsplit(asked).query))}


def test_pages_are_asked_for_until_there_is_enough(
    api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers["/tasks"] = [page(*[summary()] * 1000, more="c1"), page(*[summary()] * 200, more="c2"), page(summary())]
    history.history(session, 1500, True)
    answer = json.loads(capsys.readouterr().out)
    assert (len(answer["tasks"]), answer["more"]) == (1201, False)
    assert [one.partition("limit=")[2] for one in api.asked] == ["1000", "500&cursor=c1", "300&cursor=c2"]


def test_no_more_is_asked_than_is_wanted(
    api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers["/tasks"] = page(*[summary()] * 2, more="c1")
    history.history(session, 2, True)
    assert json.loads(capsys.readouterr().out)["more"] is True
    assert len(api.asked) == 1


def test_a_search_that_finds_little_ends(
    api: FakeMonitor, session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(history, "SEARCH_LIMIT", -1.0)
    api.answers["/tasks"] = page(summary(), more="c1")
    history.history(session, 20, False)
    assert "the search was cut short" in capsys.readouterr().err
    assert len(api.asked) == 1


def test_what_the_monitor_refuses_is_a_usage_error_in_its_words(api: FakeMonitor, session: Session) -> None:
    api.answers["/tasks"] = (400, {"error": "state: there is no 'FAILD'; did you mean FAILURE?"})
    with pytest.raises(WarrenError) as caught:
        history.history(session, 20, False, state="faild")
    assert (str(caught.value), caught.value.code) == (
        "state: there is no 'FAILD'; did you mean FAILURE?",
        ExitCode.USAGE,
    )


def test_an_order_that_there_is_not(session: Session) -> None:
    with pytest.raises(WarrenError, match="--sort is one of time, runtime, wait, not 'name'") as caught:
        history.history(session, 20, False, sort="name")
    assert caught.value.code is ExitCode.USAGE


# --- history: how it looks


def texts(tasks: list[dict[str, Any]], width: int | None) -> list[str]:
    return [one.plain for one in looks.listing(tasks, width, NOW)]


SOME = [
    summary(),
    summary(state="FAILURE", exception="RuntimeError('no')", runtime=75.2),
    summary(state="STARTED", attention="orphaned", runtime=None, worker="worker-2@warren"),
]


def test_a_wide_terminal_has_a_line_a_task() -> None:
    assert texts(SOME, 160) == [
        f"UTC       state    name                     id{' ' * 36}worker             took  what went wrong",
        f"13:20:01  SUCCESS  shop.tasks.send_receipt  {ID}  worker-1@warren  103 ms",
        f"13:20:01  FAILURE  shop.tasks.send_receipt  {ID}  worker-1@warren  1m 15s  RuntimeError('no')",
        f"13:20:01  STARTED  shop.tasks.send_receipt  {ID}  worker-2@warren          "
        "orphaned: worker-2@warren fell silent",
    ]


def test_a_narrow_one_has_another_line_for_what_went_wrong() -> None:
    assert texts(SOME, 80) == [
        f"UTC       state    name             id{' ' * 36}  took",
        f"13:20:01  SUCCESS  …s.send_receipt  {ID}  103 ms",
        f"13:20:01  FAILURE  …s.send_receipt  {ID}  1m 15s",
        "          RuntimeError('no')",
        f"13:20:01  STARTED  …s.send_receipt  {ID}",
        "          orphaned: worker-2@warren fell silent",
    ]


@pytest.mark.parametrize("width", range(57, 200))
def test_no_line_is_wider_than_the_terminal_and_no_id_is_cut(width: int) -> None:
    long = "x" * 300
    tasks = [*SOME, summary(name=long, worker=long, state="FAILURE", exception=long), summary(name="名前" * 40)]
    lines = looks.listing(tasks, width, NOW)
    assert max(one.cell_len for one in lines) <= width
    assert sum(ID in one.plain for one in lines) == len(tasks)


def test_a_pipe_gets_everything() -> None:
    long = "x" * 300
    assert texts([summary(name=long, state="FAILURE", exception=long)], None)[1].count(long) == 2


def test_where_nothing_went_wrong_there_is_no_column_for_it() -> None:
    assert texts([summary()], 160)[0].endswith("took")


def test_tasks_of_other_days_have_their_date() -> None:
    lines = texts([summary(), summary(time="2026-11-21T23:59:59.000Z")], 160)
    assert [line[:14] for line in lines[1:]] == ["11-22 13:20:01", "11-21 23:59:59"]


def test_what_tasks_hold_never_reaches_the_terminal_as_it_is() -> None:
    hostile = "\x1b[2J\r\n[bold]\u202e\x07"
    changes = dict.fromkeys(("name", "worker", "exception", "queue"), hostile)
    for attention in (None, "unclaimed", "orphaned"):
        shown = "".join(texts([summary(**changes, state="FAILURE", attention=attention, id=hostile)], None))
        assert shown.isprintable()
        assert "[bold]" in shown


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((None, ""), (0, "0.0 ms"), (0.000148, "0.1 ms"), (0.0123, "12 ms"), (0.9994, "999 ms"), (1, "1.0 s")),
        *((59.94, "59.9 s"), (60, "1m 00s"), (3599, "59m 59s"), (3600, "1h 00m"), (172_799, "47h 59m")),
        (172_800, "2d 00h"),
    ],
)
def test_durations(seconds: float | None, words: str) -> None:
    assert looks.duration(seconds) == words


def test_more_tasks_are_hinted_at(api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    api.answers["/tasks"] = page(summary(), more="c1")
    history.history(session, 1, False)
    said = capsys.readouterr()
    assert ID in said.out
    assert said.err == "there are more: --limit 5, or --until 2026-11-22T13:20:01.123Z for those before\n"


@pytest.mark.parametrize("how", ["listing", "table"])
def test_a_reader_who_has_enough_is_no_error(how: str) -> None:
    code = (
        "from deploy import output; from deploy.menu import with_exit_codes; "
        "lines = [['x' * 100]] * 5000; "
        "show = lambda: output.table(['a'], lines) if '%s' == 'table' else output.console().print('x' * 500000); "
        "with_exit_codes(show)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code % how], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_none_is_said_on_standard_error(api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    api.answers["/tasks"] = page()
    history.history(session, 1, False)
    assert capsys.readouterr() == ("", "no task matches\n")


# --- task


def test_a_failed_task(api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    api.answers[f"/tasks/{ID}"] = FAILED
    task.show(session, ID, False)
    said = capsys.readouterr()
    assert said.err == ""
    answer, *lines = said.out.splitlines()
    assert (answer.startswith("failed at "), answer.endswith("13:20:01 UTC on worker-1@warren: E('no')")) == (
        True,
        True,
    )
    assert lines == [
        "",
        "shop.tasks.send_receipt  FAILURE",
        ID,
        "",
        "args       (7,)",
        "queue      default",
        "worker     worker-1@warren",
        "sender     gen1@me",
        "wait       10 ms",
        "runtime    3.5 s",
        "exception  E('no')",
        "",
        "timeline",
        "  2026-11-22 13:20:01.000            PENDING    to default",
        "  2026-11-22 13:20:01.010    +10 ms  RECEIVED   worker-1@warren",
        "  2026-11-22 13:20:01.020    +10 ms  STARTED    worker-1@warren",
        "  2026-11-22 13:20:04.520    +3.5 s  FAILURE    worker-1@warren, E('no')",
        "",
        "traceback",
        "  Traceback:",
        "    File 'a.py'",
        "  E: no",
    ]
    assert api.asked == [f"/tasks/{ID}"]


def test_a_task_as_json_is_the_answer_and_what_the_monitor_says(
    api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers[f"/tasks/{ID}"] = FAILED
    task.show(session, ID, True)
    told = json.loads(capsys.readouterr().out)
    answer = told.pop("answer")
    assert told == FAILED
    assert (answer["id"], answer["kind"], answer["worker"], answer["ended"]) == (ID, "failed", "worker-1@warren", True)
    assert (answer["since"], answer["reason"], answer["uncertain"]) == (FAILED["finished"], "E('no')", [])


def test_parents_and_children_are_a_tree(
    api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    child = summary(id="c" * 36, parent=ID, root=PARENT, name="child", state="FAILURE")
    api.answers[f"/tasks/{ID}"] = full(parent=PARENT, root=PARENT, children=[child])
    family = [summary(id=PARENT, name="first"), summary(parent=PARENT, root=PARENT), child]
    api.answers[f"/tasks/{PARENT}/family"] = {"tasks": family}
    task.show(session, ID, False)
    shown = capsys.readouterr().out
    assert shown.split("family\n")[1].splitlines() == [
        f"  first  SUCCESS  {PARENT}",
        f"    shop.tasks.send_receipt  SUCCESS  {ID}  (this one)",
        f"      child  FAILURE  {'c' * 36}",
    ]


@pytest.mark.parametrize("shape", ["chain", "ring", "wide"])
def test_families_of_any_shape_end(shape: str) -> None:
    ids = [f"id-{number}" for number in range(3000)]
    shapes: dict[str, list[str | None]] = {
        "chain": [None, *ids], "ring": [ids[-1], *ids], "wide": [None, *[ids[0]] * len(ids)]
    }  # fmt: skip
    parents = shapes[shape]
    tasks = [summary(id=id_, parent=parent) for id_, parent in zip(ids, parents, strict=False)]
    lines = [one.plain for one in task.tree(tasks, ids[0])]
    assert len(lines) == task.FAMILY + 1
    assert lines[-1] == f"  ... and {3000 - task.FAMILY} more; --json has them all"


def test_hostile_texts_of_one_task(api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b]0;owned\x07\r[red]b\nc"
    steps = [{"state": "FAILURE", "time": "odd", "worker": hostile, "note": hostile}]
    keys = ("name", "args", "kwargs", "queue", "worker", "sender", "eta", "result", "exception", "traceback")
    api.answers[f"/tasks/{ID}"] = full(**dict.fromkeys(keys, hostile), steps=steps, state="FAILURE")
    task.show(session, ID, False)
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("asked", ["order-7", "a" * 36])
def test_ids_of_the_users_own(api: FakeMonitor, session: Session, asked: str) -> None:
    api.answers[f"/tasks/{asked}"] = full(id=asked)
    task.show(session, asked, True)


def test_an_id_in_capitals_is_the_same(api: FakeMonitor, session: Session) -> None:
    api.answers[f"/tasks/{ID}"] = FAILED
    task.show(session, ID.upper(), True)


# --- where the event log has to be asked

EVENTS = [
    {"type": "task-sent", "uuid": ID, "name": "add", "args": "(2, 3)", "kwargs": "{}", "queue": "default",
     "hostname": "gen1@me", "timestamp": 1_000_000_000.0, "root_id": ID, "retries": 0},
    {"type": "task-received", "uuid": ID, "name": "add", "hostname": "celery@a", "timestamp": 1_000_000_000.25},
    {"type": "task-started", "uuid": ID, "hostname": "celery@a", "timestamp": 1_000_000_000.5},
    {"type": "task-failed", "uuid": ID, "hostname": "celery@a", "timestamp": 1_000_000_002.0, "exception": "E()",
     "traceback": "T"},
    {"type": "task-of-the-future", "uuid": ID, "timestamp": 1_000_000_003.0},
]  # fmt: skip


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    events = list(EVENTS)
    monkeypatch.setattr(eventlog, "find", lambda *_: events)
    return events


def away(api: FakeMonitor) -> str:
    api.answers[f"/tasks/{ID}"] = (500, b"")
    return f"{api.name} answers 500 to /tasks/{ID}, not as the monitor does; reading the event log instead\n"


def unknown(api: FakeMonitor) -> str:
    return "the monitor does not know this task; reading the event log instead\n"


def late(api: FakeMonitor) -> str:
    api.answers[f"/tasks/{ID}"] = full(state="STARTED")
    api.answers["/readyz"] = (503, {"error": "9 events behind the log (3 s)"})
    return "the monitor is not up to date (9 events behind the log (3 s)); reading the event log instead\n"


@pytest.mark.parametrize("why", [away, unknown, late])
def test_the_event_log_is_asked_where_the_monitor_cannot_say(
    api: FakeMonitor, session: Session, logged: object, capsys: pytest.CaptureFixture[str], why: Any
) -> None:
    said = why(api)
    task.show(session, ID, True)
    printed = capsys.readouterr()
    assert printed.err == said
    told = json.loads(printed.out)
    assert told.pop("answer")["line"].startswith("failed at 2001-09-09 01:46:42 UTC on celery@a: E()")
    assert told == {
        **{"id": ID, "name": "add", "state": "FAILURE", "attention": None, "attention_since": None},
        **{"queue": "default", "worker": "celery@a", "args": "(2, 3)", "kwargs": "{}", "retries": 0, "attempts": 1},
        **{"time": "2001-09-09T01:46:42.000Z", "sent": "2001-09-09T01:46:40.000Z"},
        **{"received": "2001-09-09T01:46:40.250Z", "started": "2001-09-09T01:46:40.500Z"},
        **{"finished": "2001-09-09T01:46:42.000Z", "eta": None, "expires": None, "runtime": 1.5, "wait": 0.25},
        **{"result": None, "exception": "E()", "root": ID, "parent": None, "traceback": "T", "sender": "gen1@me"},
        "steps": [
            {"state": "PENDING", "time": "2001-09-09T01:46:40.000Z", "worker": None, "note": None},
            {"state": "RECEIVED", "time": "2001-09-09T01:46:40.250Z", "worker": "celery@a", "note": None},
            {"state": "STARTED", "time": "2001-09-09T01:46:40.500Z", "worker": "celery@a", "note": None},
            {"state": "FAILURE", "time": "2001-09-09T01:46:42.000Z", "worker": "celery@a", "note": "E()"},
        ],
        "children": [],
    }


def test_a_task_that_has_ended_has_ended_though_the_monitor_is_behind(
    api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers[f"/tasks/{ID}"] = FAILED
    api.answers["/readyz"] = (503, {"error": "behind"})
    task.show(session, ID, True)
    assert capsys.readouterr().err == ""


def test_a_task_that_nobody_knows(
    api: FakeMonitor, session: Session, logged: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    logged.clear()
    for asked in ("ask_broker", "read_letters", "ask_workers"):
        monkeypatch.setattr(facts, asked, lambda *_: None)
    for command in (task.show, results.result):
        with pytest.raises(WarrenError, match="no event of the last 7D mentions") as caught:
            command(session, ID, False)
        assert caught.value.code is ExitCode.UNKNOWN


def test_events_of_other_senders_do_not_end_it() -> None:
    odd: list[dict[str, Any]] = [
        {"type": "task-sent", "uuid": ID},
        {"type": "task-failed", "uuid": ID, "timestamp": "now", "args": 3},
    ]
    assert log.folded(ID, odd)["state"] in {"PENDING", "FAILURE"}


# --- result


def test_a_result_comes_from_the_monitor(
    api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers[f"/tasks/{ID}"] = full()
    results.result(session, ID, True)
    assert json.loads(capsys.readouterr().out) == {
        **{"id": ID, "name": "shop.tasks.send_receipt", "state": "SUCCESS", "args": "(7,)", "kwargs": "{}"},
        **{"result": "'sent'", "exception": None, "traceback": None, "worker": "worker-1@warren", "runtime": 0.103},
        "timestamp": 1795353601.123,
    }


def test_hostile_texts_of_a_result(api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    api.answers[f"/tasks/{ID}"] = full(**dict.fromkeys(("name", "args", "result", "worker"), "a\x1b[2J\rb\nc"))
    results.result(session, ID, False)
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())


def test_a_failure_is_exit_code_1_wherever_it_is_known_from(
    api: FakeMonitor, session: Session, logged: object, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers[f"/tasks/{ID}"] = [FAILED, (404, {"error": "unknown"})]
    for source in ("monitor", "log"):
        with pytest.raises(SystemExit) as caught:
            results.result(session, ID, False)
        assert caught.value.code == ExitCode.FAILED, source
        assert "state      FAILURE" in capsys.readouterr().out
