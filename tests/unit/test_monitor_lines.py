"""The monitor's lines: every event, hostile data, both formats."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.eventlog import Event
from app.monitor.lines import JSON_LIMIT, as_json, as_text, record
from app.monitor.names import Names
from tests.support.events import HOSTILE_TEXTS

ID = "3f0c9d1e-0000-4000-8000-000000000001"
WHEN = 1_795_343_704.0585
TIME = "2026-11-22T10:35:04.058Z"


def event(kind: str, **fields: Any) -> Event:
    return {"type": kind, "uuid": ID, "hostname": "celery@h", "timestamp": WHEN, "pid": 1, "clock": 2, **fields}


def names() -> Names:
    known = Names()
    known.learn({"uuid": ID, "name": "app.tasks.add"})
    return known


def text(of: Event) -> str:
    told = record(of, names())
    assert told is not None
    return as_text(told)


@pytest.mark.parametrize(
    ("of", "line"),
    [
        (
            event("task-sent", name="app.tasks.add", args="(2, 3)", kwargs="{}", retries=0, eta=None, queue="default"),
            'PENDING[app.tasks.add] ID {} sender=celery@h queue=default args="(2, 3)"',
        ),
        (
            event(
                "task-received",
                name="app.tasks.add",
                args="(2,)",
                kwargs="{'a': 1}",
                retries=2,
                eta="2026-11-22T10:00:00",
            ),
            "RECEIVED[app.tasks.add] ID {} worker=celery@h args=(2,) kwargs=\"{{'a': 1}}\" retries=2 eta=2026-11-22T10:00:00",
        ),
        (event("task-started"), "STARTED[app.tasks.add] ID {} worker=celery@h"),
        (
            event("task-succeeded", result="5", runtime=0.020632000001),
            "SUCCESS[app.tasks.add] ID {} worker=celery@h runtime=0.020632 result=5",
        ),
        # The worker that ran it was lost.
        (event("task-succeeded", result="5", runtime=None), "SUCCESS[app.tasks.add] ID {} worker=celery@h result=5"),
        (
            event("task-failed", exception="ValueError('no')", traceback="Traceback\n  ..."),
            "FAILURE[app.tasks.add] ID {} worker=celery@h exception=ValueError('no')",
        ),
        (
            event("task-revoked", terminated=True, signum="15", expired=False),
            "REVOKED[app.tasks.add] ID {} worker=celery@h terminated=true signum=15 expired=false",
        ),
        (
            event("task-retried", exception="TimeoutError()", traceback="x"),
            "RETRY[app.tasks.add] ID {} worker=celery@h exception=TimeoutError()",
        ),
        (event("task-rejected", requeue=True), "REJECTED[app.tasks.add] ID {} worker=celery@h requeue=true"),
    ],
)
def test_a_line_for_each_state(of: Event, line: str) -> None:
    assert text(of) == f"Status: {line.format(ID)} {TIME}"


@pytest.mark.parametrize(
    "of",
    [
        {"type": "worker-heartbeat", "hostname": "h"},
        {"type": "task-progress", "uuid": ID},
        {"type": "task-started"},
        {"type": "task-started", "uuid": 5},
        {"type": ""},
    ],
)
def test_what_changes_no_state_has_no_line(of: Event) -> None:
    assert record(of, Names()) is None


def test_a_task_whose_name_was_never_heard() -> None:
    told = record(event("task-started"), Names())
    assert told is not None
    assert as_text(told).startswith(f"Status: STARTED[unknown] ID {ID} ")


@pytest.mark.parametrize("value", HOSTILE_TEXTS)
@pytest.mark.parametrize("kind", ["task-sent", "task-received", "task-succeeded", "task-failed", "task-retried"])
def test_whatever_an_event_holds_it_stays_one_printable_line(kind: str, value: str) -> None:
    fields = dict.fromkeys(("args", "kwargs", "result", "exception", "traceback", "hostname", "uuid", "name"), value)
    of = event(kind, **fields)
    known = Names()
    known.learn(of)
    told = record(of, known)
    assert told is not None
    line = as_text(told)
    assert line.isprintable()
    assert len(line.splitlines()) == 1
    line = as_json(told)
    assert line.isascii()
    assert len(line.splitlines()) == 1
    assert json.loads(line)["id"] == told["id"]


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 10**400, True, [1, "a\nb"], {"a": None}, "\n", 1e300, -1, None]
)
def test_fields_of_any_type(value: Any) -> None:
    of = event("task-succeeded", result=value, runtime=value, hostname=value, timestamp=value)
    told = record(of, names())
    assert told is not None
    assert as_text(told).isprintable()
    json.loads(as_json(told), parse_constant=lambda _: pytest.fail("NaN and Infinity are no JSON"))


def test_json_has_the_same_and_what_is_too_long_for_people() -> None:
    told = record(event("task-failed", exception="ValueError('ü')", traceback="Traceback\n  line"), names())
    assert told is not None
    assert json.loads(as_json(told)) == {
        "state": "FAILURE",
        "task": "app.tasks.add",
        "id": ID,
        "worker": "celery@h",
        "exception": "ValueError('ü')",
        "traceback": "Traceback\n  line",
        "time": TIME,
    }
    assert " " not in as_json(told).replace("\\n  line", "")


def test_a_long_value_keeps_its_beginning_and_its_end() -> None:
    told = record(event("task-failed", exception="first" + "x" * 10_000 + "last"), names())
    assert told is not None
    assert told["exception"].startswith("first")
    assert told["exception"].endswith("last")
    assert len(told["exception"]) <= JSON_LIMIT
