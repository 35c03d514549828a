"""Handlers of a real monitor, fed by real tasks."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from app.monitor.handlers.delivery import NOTE_EVERY
from app.monitor.handlers.webhook import signature
from app.tasks import add, fail
from tests.support.brokers import Broker
from tests.support.eventually import eventually
from tests.support.flood import Flood
from tests.support.handlers import receiver
from tests.support.processes import Process
from tests.support.services import Monitor, Worker

MakeMonitor = Callable[..., Monitor]

MODULE = """
import os, threading
from pathlib import Path
from app.monitor.handlers import on

FOLDER = Path(os.environ["HANDLERS_FOLDER"])

def write(file, event):
    with (FOLDER / file).open("a") as out:
        out.write(f"{event['delivery']} {event['id']} {event['result']}\\n")

@on("task-succeeded", name="*.add")
def fragile(event):
    if (FOLDER / "down").exists():
        raise ConnectionError("the line is dead")
    write("fragile", event)

@on("task-succeeded", name="*.add")
@on("task-failed", name="nobody.*")
def steady(event):
    write("steady", event)

@on("task-succeeded", "task-failed", name="flood.*")
def flooded(event):
    write("flooded", event)

@on("task-failed", name="app.*")
def hanging(event):
    write("hanging", event)
    threading.Event().wait()
"""


@pytest.fixture
def make_monitor(broker: Broker, tmp_path: Path, processes: list[Process]) -> MakeMonitor:
    def make(**values: str) -> Monitor:
        (tmp_path / "watchers.py").write_text(MODULE)
        known = {"PYTHONPATH": str(tmp_path), "HANDLERS_FOLDER": str(tmp_path)}
        made = Monitor(broker, tmp_path, {**known, **values})
        processes.append(made)
        return made

    return make


def rows(folder: Path, file: str) -> list[list[str]]:
    path = folder / file
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def ready(monitor: Monitor) -> None:
    """Waits until handlers have their place in the log: what happens from now on is theirs."""
    # They get it before the first event is read; there is a task in the log.
    eventually(lambda: json.loads(monitor_get(monitor, "/tasks?limit=1"))["tasks"], 60, monitor.tail)


def monitor_get(monitor: Monitor, path: str) -> str:
    request = urllib.request.Request(
        f"http://127.0.0.1:{monitor.port}{path}", headers={"Authorization": f"Bearer {monitor.token}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.read().decode())


def test_a_failing_handler_gets_what_it_missed_in_order_also_over_kills(
    make_monitor: MakeMonitor, worker: Worker, producer: Celery, tmp_path: Path
) -> None:
    before = add.delay(0, 0)
    assert before.get(timeout=60) == 0
    monitor = make_monitor(MONITOR_HANDLERS="watchers")
    # From now on, not from the log's beginning.
    ready(monitor)
    (tmp_path / "down").touch()
    sent = [add.delay(number, 1) for number in range(20)]
    eventually(lambda: len(rows(tmp_path, "steady")) == 20, 60, monitor.tail)
    monitor.says("handler watchers.fragile failed", "ConnectionError: the line is dead")
    monitor.kill()
    # What happens while it is down is in the log.
    sent += [add.delay(number, 1) for number in range(20, 40)]
    assert sent[-1].get(timeout=60) == 40
    monitor.start()
    eventually(lambda: len({row[1] for row in rows(tmp_path, "steady")}) == 40, 60, monitor.tail)
    assert rows(tmp_path, "fragile") == []
    monitor.kill()
    (tmp_path / "down").unlink()
    monitor.start()
    eventually(lambda: len({row[1] for row in rows(tmp_path, "fragile")}) == 40, 60, monitor.tail)
    for file in ("fragile", "steady"):
        told = rows(tmp_path, file)
        assert {row[1] for row in told} == {one.id for one in sent}
        # A kill may repeat deliveries; their number tells. Without these, each came once, and in order.
        once = list({row[0]: row for row in told}.values())
        assert [row[1] for row in once] == [one.id for one in sent]
        assert [int(row[2]) for row in once] == list(range(1, 41))
        assert [int(row[0]) for row in once] == sorted(int(row[0]) for row in once)
    assert before.id not in (tmp_path / "steady").read_text()
    assert monitor.end() == 0


def test_a_flood_reaches_a_handler_over_kills(
    broker: Broker, make_monitor: MakeMonitor, worker: Worker, producer: Celery, tmp_path: Path
) -> None:
    add.delay(0, 0).get(timeout=60)
    monitor = make_monitor(MONITOR_HANDLERS="watchers")
    ready(monitor)
    flood = Flood(5_000)
    ends = [
        one["uuid"]
        for body in flood.bodies
        for one in json.loads(body)
        if one["type"] in {"task-succeeded", "task-failed"}
    ]
    flood.send(broker)
    kills = 0
    while kills < 8:
        # At a different place each time, also in between two transactions of the monitor.
        before = len(rows(tmp_path, "flooded"))
        eventually(lambda before=before: len(rows(tmp_path, "flooded")) > before, 60, monitor.tail)  # type: ignore[misc]
        monitor.kill()
        kills += 1
        if len({row[1] for row in rows(tmp_path, "flooded")}) == len(ends):
            break
        monitor.start()
    if monitor.popen.poll() is not None:
        monitor.start()
    eventually(lambda: len({row[1] for row in rows(tmp_path, "flooded")}) == len(ends), 120, monitor.tail)
    told = rows(tmp_path, "flooded")
    once = list({row[0]: row for row in told}.values())
    assert [row[1] for row in once] == ends
    assert len(told) - len(once) <= kills * NOTE_EVERY
    assert kills >= 2


def test_a_webhook_and_a_command_are_told_of_a_failure(
    broker: Broker, make_monitor: MakeMonitor, worker: Worker, producer: Celery, tmp_path: Path
) -> None:
    got: list[tuple[str, bytes]] = []

    def page(page: BaseHTTPRequestHandler, body: bytes) -> None:
        got.append((page.headers["X-Warren-Signature"], body))
        # The first is refused, and comes again.
        page.send_response(503 if len(got) == 1 else 200)
        page.end_headers()

    script = tmp_path / "report.sh"
    script.write_text('cat > "$1.part"; env > "$1.environment"; mv "$1.part" "$1"\n')
    add.delay(0, 0).get(timeout=60)
    with receiver(page) as url:
        monitor = make_monitor(
            MONITOR_WEBHOOK_URL=url,
            MONITOR_WEBHOOK_EVENTS="task-failed",
            MONITOR_COMMAND=f"sh {script} {tmp_path / 'event'}",
            MONITOR_COMMAND_EVENTS="task-failed",
        )
        ready(monitor)
        failed = fail.delay("so be it")
        eventually(lambda: len(got) == 2, 60, monitor.tail)
        eventually((tmp_path / "event").exists, 60, monitor.tail)
    monitor.says("handler webhook failed at task-failed", f"{url} answered 503")
    monitor.says("handler webhook works again")
    header, body = got[1]
    moment = int(header.removeprefix("t=").partition(",")[0])
    assert header == signature(broker.secrets["monitor-webhook"], moment, body)
    told: list[dict[str, Any]] = [json.loads(body), json.loads((tmp_path / "event").read_text())]
    for event in told:
        assert (event["type"], event["id"], event["state"]) == ("task-failed", failed.id, "FAILURE")
        assert event["name"] == "app.tasks.fail"
        # The sender tells its queue, sometimes too late.
        assert event["queue"] in {"default", None}
        assert event["worker"] == worker.node
        assert "so be it" in event["exception"]
        assert "Traceback" in event["traceback"]
    environment = dict(
        line.split("=", 1) for line in (tmp_path / "event.environment").read_text().splitlines() if "=" in line
    )
    assert environment["WARREN_TASK_ID"] == failed.id
    assert environment["WARREN_EVENT_TYPE"] == "task-failed"
    secrets = [value for name, value in broker.secrets.items() if name.startswith("monitor")]
    assert not any(secret in str(environment) for secret in secrets)
    # Nor are they in what the monitor says.
    assert not any(secret in monitor.text for secret in secrets)


def test_a_hanging_handler_holds_up_neither_others_nor_the_end(
    make_monitor: MakeMonitor, worker: Worker, producer: Celery, tmp_path: Path
) -> None:
    add.delay(0, 0).get(timeout=60)
    monitor = make_monitor(MONITOR_HANDLERS="watchers")
    ready(monitor)
    failed = fail.delay("no")
    eventually(lambda: rows(tmp_path, "hanging"), 60, monitor.tail)
    done = add.delay(1, 1)
    eventually(lambda: [row[1] for row in rows(tmp_path, "steady")] == [done.id], 60, monitor.tail)
    assert monitor.end() == 0
    # It was never told to the end, so it is told again.
    monitor.start()
    eventually(lambda: [row[1] for row in rows(tmp_path, "hanging")] == [failed.id] * 2, 60, monitor.tail)


def test_a_handler_that_is_gone_is_forgotten_with_a_line(
    make_monitor: MakeMonitor, worker: Worker, producer: Celery, tmp_path: Path
) -> None:
    add.delay(0, 0).get(timeout=60)
    (tmp_path / "down").touch()
    monitor = make_monitor(MONITOR_HANDLERS="watchers")
    ready(monitor)
    add.delay(1, 1).get(timeout=60)
    monitor.says("handler watchers.fragile failed")
    assert monitor.end() == 0
    (tmp_path / "others.py").write_text(MODULE.replace("fragile", "renamed"))
    monitor.values["MONITOR_HANDLERS"] = "others"
    monitor.start()
    said = monitor.says("removed handlers that are no longer registered")
    assert "watchers.fragile (1 events waited)" in said
    assert "watchers.steady (0 events waited)" in said
    done = add.delay(2, 2)
    (tmp_path / "down").unlink()
    eventually(lambda: [row[1] for row in rows(tmp_path, "renamed")] == [done.id], 60, monitor.tail)


def test_a_mistake_in_a_module_is_one_line(make_monitor: MakeMonitor, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    monitor = make_monitor(MONITOR_HANDLERS="broken,watchers", MONITOR_COMMAND="/no/such/program")
    assert monitor.popen.wait(60) == 3
    assert [line.split(":")[:2] for line in monitor.lines] == [
        ["error", " MONITOR_HANDLERS"],
        ["error", " MONITOR_COMMAND"],
    ]
