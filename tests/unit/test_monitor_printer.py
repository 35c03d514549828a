"""The monitor's printer: it says what `lines` says, of any event, and all of it."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from app.event_types import LOGGED
from app.events.decoder import Decoder
from app.monitor.history.store import Told
from app.monitor.history.task import PENDING, Task
from app.monitor.lines import as_json, as_text
from app.monitor.printer import Printer, general, json_line, text_line
from tests.support.events import HOSTILE_TEXTS, body, event, heartbeat, life

VALUES = [
    *HOSTILE_TEXTS,
    " ",
    "()",
    "{}",
    "ünï",
    "plain",
    "a b",
    "a=b",
    0,
    7,
    0.1234567891,
    True,
    None,
    [1, "a\nb"],
]


def told(*events: dict[str, Any], name: str = "app.tasks.add") -> list[Told]:
    found = Decoder().events(0, body(list(events)))
    return [Told(one, Task(1, one.uuid, PENDING) if one.uuid else None, name, 0) for one in found]


def written(format_: Any, what: list[Told]) -> str:
    reader, writer = os.pipe()
    with os.fdopen(reader, encoding="utf-8", newline="") as stream:
        # A pipe holds 64 KB only.
        def write() -> None:
            Printer(format_, writer).write(what)
            os.close(writer)

        thread = threading.Thread(target=write)
        thread.start()
        text = stream.read()
        thread.join()
    return text


FIELDS = (
    "args",
    "kwargs",
    "retries",
    "eta",
    "expires",
    "queue",
    "result",
    "runtime",
    "exception",
    "traceback",
    "signum",
)


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_it_says_what_lines_says_of_any_event(value: Any) -> None:
    for kind in LOGGED:
        for field in (*FIELDS, "terminated", "expired", "requeue", "root_id", "parent_id", "hostname", "uuid", "all"):
            fields = dict.fromkeys(FIELDS, value) if field == "all" else {field: value}
            what = told({**event(kind.removeprefix("task-"), 1, "an id"), **fields})
            for one in what:
                record = general(one.event, one.name)
                line = text_line(one.event, one.name)
                assert line == as_text(record)
                assert line.isprintable()
                line = json_line(one.event, one.name)
                assert len(line.splitlines()) == 1
                assert json.loads(line) == json.loads(as_json(record))


@pytest.mark.parametrize("name", [name for name in VALUES if isinstance(name, str) and "\ud800" not in name])
def test_names_of_tasks(name: str) -> None:
    what = told(event("started", 1, "a"), name=name)
    assert written("text", what) == as_text(general(what[0].event, name)) + "\n"
    assert written("text", what).count("\n") == 1


def test_a_line_for_each_event_of_a_task_and_none_for_workers() -> None:
    text = written("text", told(*life("a"), heartbeat(5), *life("b", end="failed")))
    assert [line.split("[")[0].removeprefix("Status: ") for line in text.splitlines()] == [
        *("PENDING", "RECEIVED", "STARTED", "SUCCESS"),
        *("PENDING", "RECEIVED", "STARTED", "FAILURE"),
    ]
    assert written("json", told(heartbeat(5))) == ""


def test_more_than_a_pipe_takes_at_once_is_written_whole() -> None:
    what = told(*(one for number in range(2000) for one in life(f"task {number}")))
    for format_ in ("text", "json"):
        text = written(format_, what)
        assert text.count("\n") == 8000
        assert len(text) > 2**19
        assert text.endswith("\n")


def test_nobody_reads_any_more() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        Printer("text", writer).write(told(*life("a")))
    os.close(writer)


def test_a_full_disk_is_said() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError, match="No space") as caught:
        Printer("text", full.fileno()).write(told(*life("a")))
    assert caught.value.errno == errno.ENOSPC
