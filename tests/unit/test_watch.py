"""`invoke watch`: what is gathered, how it fits a terminal, and that the terminal is afterwards as it was."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from deploy import management
from deploy.commands.watch import command
from deploy.commands.watch.frame import bars, frame, natural, rate
from deploy.commands.watch.snapshot import Gatherer, Totals
from deploy.errors import ExitCode, WarrenError
from deploy.paths import ROOT
from deploy.platforms.base import Endpoints
from deploy.secrets import Secrets
from deploy.session import Session
from tests.support.monitor_api import FakeMonitor, serving
from tests.unit.conftest import make_session
from tests.unit.test_history import summary

QUEUE = {
    **{"queue": "default", "ready": 1, "unacked": 2, "consumers": 3, "in_per_second": 1.5, "out_per_second": 0.0},
    **{"type": "quorum", "state": "running"},
}


def worker(number: int, **changes: Any) -> dict[str, Any]:
    return {
        **{"name": f"worker-{number}@warren", "alive": True, "active": 1, "processed": 1234, "load": [0.5, 0.4, 0.3]},
        **changes,
    }


def snapshot(**changes: Any) -> dict[str, Any]:
    return {
        **{"time": "2026-11-22T13:30:00.000Z", "project": "warren", "monitor": {"behind": None, "error": None}},
        **{"broker": {"error": None}, "queues": [QUEUE], "workers": [worker(10), worker(2)]},
        **{"counts": {"states": {"SUCCESS": 12345, "FAILURE": 1, "RETRY": 0}, "attention": {}}},
        **{"minutes": [{"time": str(minute), "succeeded": minute, "failed": 0} for minute in range(30)]},
        **{"rates": {"succeeded": 12.34, "failed": 0.0, "retried": 0.0, "revoked": 0.0}},
        **{"attention": [], "failures": [summary(state="FAILURE", exception="E('no')")]},
        **changes,
    }


def shown(of: dict[str, Any], width: int = 140, height: int | None = 40) -> list[str]:
    return [one.plain for one in frame(of, width, height)]


# --- frames


def test_a_frame() -> None:
    lines = shown(snapshot())
    assert lines[0] == "warren  13:30:00 UTC  monitor up to date  q leaves"
    assert lines[1].startswith("12.3 succeeded/s  0.0 failed/s   ▁")
    assert lines[1].endswith("up to 29 a minute")
    assert lines[2] == "24 h:  12,345 SUCCESS  1 FAILURE"
    assert lines[4:7] == [
        "worker            alive  active  processed  load    queue    ready  unacked  consumers  in/s  out/s",
        "worker-2@warren   yes         1      1,234  0.50    default      1        2          3   1.5    0.0",
        "worker-10@warren  yes         1      1,234  0.50",
    ]
    assert lines[8] == "last failures"
    assert lines[10].endswith("E('no')")


def test_on_a_narrow_terminal_tables_stand_below_each_other() -> None:
    lines = shown(snapshot(), width=80)
    assert any(line.startswith("worker ") for line in lines)
    assert any(line.startswith("queue ") for line in lines)


def test_what_needs_attention_comes_before_failures() -> None:
    of = snapshot(attention=[summary(state="PENDING", attention="unclaimed")])
    text = "\n".join(shown(of))
    assert text.index("needs attention") < text.index("unclaimed: no worker took it") < text.index("last failures")


@pytest.mark.parametrize("height", [1, 3, 5, 8, 12, 24, 60])
@pytest.mark.parametrize("width", [20, 60, 80, 119, 120, 200])
def test_no_frame_is_larger_than_its_terminal(width: int, height: int) -> None:
    long = "x" * 300
    of = snapshot(
        workers=[worker(number, name=f"{long}{number}") for number in range(50)],
        queues=[{**QUEUE, "queue": f"{long}{number}"} for number in range(20)],
        attention=[summary(attention="stalled", state="STARTED", name=long)] * 30,
        failures=[summary(state="FAILURE", exception=long)] * 30,
        monitor={"behind": None, "error": long},
    )
    lines = frame(of, width, height)
    assert len(lines) <= height
    assert all(one.cell_len <= width for one in lines)


def test_of_many_workers_it_is_said_how_many_are_not_shown() -> None:
    lines = shown(snapshot(workers=[worker(number) for number in range(50)]), width=80, height=24)
    (line,) = [line for line in lines if "more" in line]
    rows = sum(line.startswith("worker-") for line in lines)
    assert line == f"... and {50 - rows} more"
    assert "last failures" in lines


def test_workers_that_have_gone_are_shown_for_a_while_and_those_that_went_with_a_task_for_longer() -> None:
    gone = {"alive": False, "active": 0}
    workers = [
        worker(1, **gone, heartbeat="2026-11-22T13:26:00.000Z"),
        worker(2, **gone, heartbeat="2026-11-22T13:24:00.000Z"),
        worker(3, **{**gone, "active": 1}, heartbeat="2026-11-22T13:24:00.000Z"),
        worker(4, **gone, heartbeat=None),
    ]
    lines = shown(snapshot(workers=workers), width=80)
    assert [line.split()[0] for line in lines if line.startswith("worker-")] == [
        *("worker-1@warren", "worker-3@warren", "worker-4@warren"),
    ]


@pytest.mark.parametrize(("width", "height"), [(80, 11), (140, 10)])
def test_in_a_low_window_workers_and_queues_are_a_line_each(width: int, height: int) -> None:
    stream = {**QUEUE, "type": "stream", "queue": "celery.events"}
    of = snapshot(workers=[worker(number) for number in range(9)], queues=[QUEUE, stream])
    lines = shown(of, width, height)
    assert lines[4:6] == ["9 workers alive, 9 tasks active", "ready: default 1"]
    assert lines[7] == "last failures"


def test_an_old_snapshot_says_so() -> None:
    assert "ago" not in frame(snapshot(), 80, 24, age=2)[0].plain
    assert "  7 s ago  " in frame(snapshot(), 80, 24, age=7)[0].plain


def test_without_anything_to_show() -> None:
    of = snapshot(
        workers=[], queues=[], minutes=[], counts={}, failures=[], rates=dict.fromkeys(("succeeded", "failed"))
    )
    assert [line for line in shown(of) if line] == [
        "warren  13:30:00 UTC  monitor up to date  q leaves",
        "- succeeded/s  - failed/s",
        "no workers    no queues",
    ]


def test_what_is_away_or_late_is_said() -> None:
    assert "monitor: 9 events behind" in shown(snapshot(monitor={"behind": "9 events behind", "error": None}))[0]
    lines = shown(snapshot(monitor={"behind": None, "error": "no monitor"}, broker={"error": "no broker"}))
    assert "monitor away" in lines[0]
    assert lines[1:3] == ["no monitor", "no broker"]


def test_nothing_of_tasks_reaches_the_terminal_as_it_is() -> None:
    hostile = "\x1b[2J\r\n[bold]"
    of = snapshot(
        workers=[worker(1, name=hostile, load=[hostile], active=hostile)],
        queues=[{**QUEUE, "queue": hostile}],
        failures=[summary(state="FAILURE", name=hostile, exception=hostile, id=hostile)],
        project=hostile,
    )
    assert all(line.isprintable() for line in shown(of))


def test_numbers() -> None:
    assert [rate(value) for value in (None, 0, 0.04, 12.34, 99.96, 1234.5)] == [
        "-",
        "0.0",
        "0.0",
        "12.3",
        "100.0",
        "1,234",
    ]
    assert bars([0, 1, 50, 100]) == " ▁▄█"
    assert sorted(["w-10", "w-2", "a", "10"], key=natural) == ["10", "a", "w-2", "w-10"]


# --- what is gathered


@pytest.fixture
def api() -> Iterator[FakeMonitor]:
    with serving() as made:
        now = datetime.now(UTC).replace(second=0, microsecond=0)
        times = [(now - timedelta(minutes=29 - minute)).isoformat() for minute in range(30)]
        made.answers |= {
            "/workers": {"workers": [worker(1)]},
            "/counts": {"states": {"SUCCESS": 1}, "attention": {}},
            "/chart": {
                "points": [{"time": one, "succeeded": 60, "failed": 6, "retried": 0, "revoked": 0} for one in times]
            },
            "/tasks": {"tasks": [summary()], "next": None},
        }
        yield made


@pytest.fixture
def session(api: FakeMonitor, secrets: Secrets, monkeypatch: pytest.MonkeyPatch) -> Session:
    queue = {"name": "default", "arguments": {"x-queue-type": "quorum"}, "messages_ready": 4}
    monkeypatch.setattr(management, "queues", lambda *_: [queue, {"name": "celery@a.celery.pidbox"}])
    monkeypatch.setattr(management, "alarms", lambda *_: [])
    return make_session(secrets, api.where)


def test_one_snapshot(api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    command.watch(session, 1, once=False, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {
        *("time", "project", "monitor", "broker", "queues"),
        *("workers", "counts", "minutes", "rates", "attention", "failures"),
    }
    assert [queue["queue"] for queue in found["queues"]] == ["default"]
    # Of the last whole minute, since there was no look before.
    assert found["rates"] == {"started": None, "succeeded": 1.0, "failed": 0.1, "retried": 0.0, "revoked": 0.0}
    assert [one.partition("?")[0] for one in api.asked] == [
        *("/readyz", "/chart", "/workers", "/counts", "/tasks", "/tasks"),
    ]
    assert [one for one in api.asked if one.startswith("/tasks")] == [
        *("/tasks?attention=any&limit=50", "/tasks?state=FAILURE%2CREJECTED&limit=50"),
    ]


def test_without_a_terminal_it_is_one_frame(
    api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    command.watch(session, 1, once=False, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("warren  ")
    assert "q leaves" not in lines[0]
    assert "last failures" in lines


def test_rates_are_of_the_last_seconds(api: FakeMonitor, session: Session) -> None:
    clock = iter([100.0, 102.0, 130.0, 131.0])
    gatherer = Gatherer(session, lambda: next(clock))
    minute = api.answers["/chart"]["points"][-1]
    gatherer.snapshot()
    minute["succeeded"] += 20
    assert gatherer.snapshot()["rates"]["succeeded"] == 10
    minute["succeeded"] += 28
    # The look before last is the youngest that is as old as the window.
    assert gatherer.snapshot()["rates"]["succeeded"] == 1
    minute["failed"] += 29
    assert gatherer.snapshot()["rates"] == {
        **{"started": 0, "succeeded": 28 / 29, "failed": 1.0, "retried": 0, "revoked": 0},
    }


def test_totals_grow_with_minutes_that_come_and_go() -> None:
    totals = Totals()
    totals.after([{"time": "1", "succeeded": 100}, {"time": "2", "succeeded": 5}], [])
    assert totals.after([{"time": "2", "succeeded": 7}, {"time": "3", "succeeded": 1}], [])["succeeded"] == 108
    # A late end in a minute that was told before.
    assert totals.after([{"time": "2", "succeeded": 8}, {"time": "3", "succeeded": 1}], [])["succeeded"] == 109
    assert totals.after([], [])["succeeded"] == 109


def test_what_workers_started_is_counted_from_the_first_look_on() -> None:
    totals = Totals()
    assert totals.after([], [worker(1, processed=100)])["started"] == 0
    assert totals.after([], [worker(1, processed=103), worker(2, processed=50)])["started"] == 3
    # The first one began anew.
    assert totals.after([], [worker(1, processed=1), worker(2, processed=51)])["started"] == 4
    assert totals.after([], [worker(1, processed=2), worker(2, processed=None)])["started"] == 5


def test_a_monitor_that_goes_away_leaves_what_was_known_and_comes_back(api: FakeMonitor, session: Session) -> None:
    gatherer = Gatherer(session)
    assert gatherer.snapshot()["monitor"] == {"behind": None, "error": None}
    workers, api.answers["/workers"] = api.answers["/workers"], (500, b"")
    found = gatherer.snapshot()
    assert "answers 500 to /workers" in found["monitor"]["error"]
    assert [one["name"] for one in found["workers"]] == ["worker-1@warren"]
    api.answers["/workers"] = workers
    assert gatherer.snapshot()["monitor"]["error"] is None


def test_a_broker_that_goes_away_or_takes_no_messages(
    api: FakeMonitor, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    gatherer = Gatherer(session)
    monkeypatch.setattr(management, "alarms", lambda *_: ["disk"])
    assert gatherer.snapshot()["broker"]["error"] == "the disk alarm is on: it takes no messages"

    def gone(*_: Any) -> None:
        raise WarrenError("no broker", ExitCode.BROKER)

    monkeypatch.setattr(management, "queues", gone)
    found = gatherer.snapshot()
    assert found["broker"]["error"] == "no broker"
    assert [queue["ready"] for queue in found["queues"]] == [4]


def test_one_frame_without_a_monitor_is_exit_code_10(
    api: FakeMonitor, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers["/workers"] = (500, b"")
    with pytest.raises(SystemExit) as caught:
        command.watch(session, 1, once=True, as_json=False)
    assert caught.value.code == ExitCode.MONITOR
    assert "monitor away" in capsys.readouterr().out


# --- on a terminal


def test_the_ways_to_the_stack_are_opened_before_the_thread_begins(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[Any] = []

    class Ways(Endpoints):
        def soon(self, *services: str) -> None:
            did.append(services)

    session.__dict__["endpoints"] = Ways("127.0.0.1", 1, 2, 3, 4, 5)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(command, "live", lambda _: did.append("live"))
    command.watch(session, 1, once=False, as_json=False)
    assert did == [("rabbitmq", "monitor"), "live"]


PROGRAM = """
import sys
from deploy.commands.watch import command
from deploy.commands.watch.snapshot import Gatherer
from deploy.menu import with_exit_codes
from deploy.platforms.base import Endpoints
from deploy.session import Session
import json
pictures = json.loads(sys.argv[1])
Gatherer.snapshot = lambda self: dict(pictures.pop(0) if len(pictures) > 1 else pictures[0])
session = Session(None)
session.__dict__.update(endpoints=Endpoints("127.0.0.1", 1, 2, 3, 4, 5), secrets=None)
with_exit_codes(lambda: command.watch(session, 0.2, False, False))
"""


class Terminal:
    """A program in a pseudo-terminal."""

    def __init__(self, *pictures: dict[str, Any]) -> None:
        self._ours, self._theirs = pty.openpty()
        self.before = termios.tcgetattr(self._theirs)
        self.screen = b""
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(pictures)],
            cwd=ROOT,
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"},
            start_new_session=True,
        )

    def read(self) -> None:
        while select.select([self._ours], [], [], 0.05)[0]:
            try:
                self.screen += os.read(self._ours, 65536)
            except OSError:
                return

    def shows(self, text: str) -> None:
        end = time.monotonic() + 30
        while text.encode() not in self.screen:
            assert time.monotonic() < end, self.screen.decode(errors="replace")
            assert self.process.poll() is None, self.screen.decode(errors="replace")
            self.read()

    def type_in(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def ends(self) -> int:
        end = time.monotonic() + 30
        while self.process.poll() is None:
            assert time.monotonic() < end, self.screen.decode(errors="replace")
            self.read()
        self.read()
        return self.process.returncode

    @property
    def as_before(self) -> bool:
        return termios.tcgetattr(self._theirs) == self.before

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


@pytest.fixture
def terminal() -> Iterator[Any]:
    made: list[Terminal] = []

    def start(*pictures: dict[str, Any]) -> Terminal:
        made.append(Terminal(*pictures))
        return made[-1]

    yield start
    for one in made:
        one.close()


def leave_by_key(terminal: Terminal) -> None:
    terminal.type_in(b"xq")


def leave_by_ctrl_c(terminal: Terminal) -> None:
    terminal.process.send_signal(signal.SIGINT)


def leave_by_a_signal(terminal: Terminal) -> None:
    terminal.process.terminate()


@pytest.mark.parametrize(
    ("leave", "code"), [(leave_by_key, 0), (leave_by_ctrl_c, 0), (leave_by_a_signal, 128 + signal.SIGTERM)]
)
def test_whatever_ends_it_leaves_the_terminal_as_it_was(terminal: Any, leave: Any, code: int) -> None:
    seen = terminal(snapshot())
    seen.shows("13:30:00 UTC")
    assert not seen.as_before
    leave(seen)
    assert seen.ends() == code
    assert seen.as_before
    # The other screen is left, and the cursor shown.
    assert seen.screen.rindex(b"\x1b[?1049l") > seen.screen.rindex(b"\x1b[?1049h")
    assert seen.screen.rindex(b"\x1b[?25h") > seen.screen.rindex(b"\x1b[?25l")


def test_it_goes_on_with_what_comes(terminal: Any) -> None:
    away = snapshot(monitor={"behind": None, "error": "the monitor does not answer"})
    seen = terminal(snapshot(), away, snapshot(project="again"))
    seen.shows("the monitor does not answer")
    seen.shows("again")
    seen.type_in(b"q")
    assert seen.ends() == 0


def test_a_mistake_ends_it_with_the_terminal_as_it_was(terminal: Any) -> None:
    seen = terminal(snapshot(), {})
    assert seen.ends() not in {0, None}
    assert seen.as_before
    assert b"KeyError" in seen.screen
