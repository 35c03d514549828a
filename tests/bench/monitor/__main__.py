"""What the monitor takes in a second, in how much memory, and how quickly a million tasks are searched.

    .venv/bin/python -m tests.bench.monitor [EVENTS] [TASKS]

Everything is measured in this run, on a RabbitMQ 4.3 of its own in a container; readers are held to one core. Needs a
Docker engine and the broker's image; by default it takes six minutes and 2 GB of disk.
"""

from __future__ import annotations

import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from app.eventlog import Log
from app.monitor.history.store import History
from deploy.settings import Settings
from tests.bench.monitor.flood import PER_MESSAGE, PER_TASK, messages, publish
from tests.support.brokers import HOST, Broker
from tests.support.containers import ContainerBroker
from tests.support.eventually import eventually
from tests.support.processes import environment
from tests.support.services import Monitor

# The last one: the broker's schedulers are on all of them, and the first is the busiest as a rule.
CORE = max(os.sched_getaffinity(0))
PATIENCE = 600
# Requests of each kind of search.
SEARCHES = 40
# Messages, and seconds between them, of the publisher that the monitor must not slow down: 4,800 events a second.
PACED = 1500
PACE = 0.005


def pinned(monitor: Monitor) -> Monitor:
    for thread in Path(f"/proc/{monitor.popen.pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {CORE})
    return monitor


def start(broker: Broker, folder: Path, **values: str) -> Monitor:
    """A monitor on one core; its lines go where nobody reads them."""
    folder.mkdir(exist_ok=True)
    return pinned(Monitor(broker, folder, values))


def get(monitor: Monitor, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(HOST, monitor.port, timeout=30)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {monitor.token}"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def ready(monitor: Monitor) -> bool:
    assert monitor.popen.poll() is None, monitor.tail()
    try:
        return get(monitor, "/readyz")[0] == 200
    except OSError:
        return False


def tasks(monitor: Monitor) -> int:
    try:
        status, body = get(monitor, "/metrics")
    except OSError:
        return 0
    line = next((one for one in body.decode().splitlines() if one.startswith("warren_monitor_history_tasks ")), "x 0")
    return int(float(line.split()[1])) if status == 200 else 0


def until(monitor: Monitor, count: int) -> None:
    """Waits until the history has so many tasks."""
    eventually(lambda: tasks(monitor) >= count, PATIENCE, monitor.tail)


def memory(process: int, what: str = "VmRSS") -> float:
    """MiB. VmHWM is the most that it ever was."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) / 1024
    raise AssertionError(what)


def processor(process: int) -> float:
    """Seconds of processor time so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ingest(broker: Broker, folder: Path, events: int) -> None:
    print(f"Taking in {events:,} events, {PER_MESSAGE} a message, from the broker; each on one core")
    rates = {}
    for what, more in (("Celery's Receiver and State, in memory", []), ("Celery's monitor example", ["example"])):
        command = [sys.executable, "-m", "tests.bench.monitor.celery_reader", broker.url("admin"), str(events), *more]
        done = subprocess.run(
            ["taskset", "-c", str(CORE), *command],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False, env=environment({}),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        rates[what] = float(done.stderr.splitlines()[-1])
    for what, values in (
        ("the monitor, persisted", {}),
        ("the monitor, persisted, lines as JSON", {"MONITOR_FORMAT": "json"}),
    ):
        monitor = start(broker, folder / what.replace(" ", "-"), **values)
        try:
            until(monitor, 1)
            begun, first, used = time.perf_counter(), tasks(monitor), processor(monitor.popen.pid)
            until(monitor, events // PER_TASK)
            taken = time.perf_counter() - begun
            used = processor(monitor.popen.pid) - used
            done_events = events - first * PER_TASK
            rates[what] = done_events / taken
            print(f"  ({what}: {done_events / used:,.0f} events per second of processor time)")
            peak = memory(monitor.popen.pid, "VmHWM")
        finally:
            monitor.end()
    base = rates["Celery's Receiver and State, in memory"]
    for what, rate in rates.items():
        print(f"  {what:44} {rate:8,.0f} events/s   ratio {rate / base:.2f}")
    print(f"  memory of the monitor while it caught up: {peak:.0f} MiB at most")


def publishers(broker: Broker, folder: Path) -> None:
    """Confirmations of a steady publisher, with and without a monitor that catches up with what is there."""

    def middle(seed: int) -> float:
        return statistics.median(publish(broker, messages(PACED, seed), PACE)) * 1000

    alone = [middle(101)]
    monitor = start(broker, folder / "publishers")
    try:
        beside = [middle(102)]
    finally:
        monitor.end()
    alone.append(middle(103))
    print(f"A publisher of {PER_MESSAGE / PACE:,.0f} events/s, median time to the broker's confirmation")
    print(f"  alone {statistics.mean(alone):.2f} ms, beside a monitor that catches up {beside[0]:.2f} ms", end="")
    print(f"   ratio {beside[0] / statistics.mean(alone):.2f}")


def fill(folder: Path, count: int, broker: Broker) -> None:
    """A history of ``count`` tasks that stands where the broker's log ends."""
    (folder / "monitor").mkdir(parents=True)
    history = History(folder / "monitor")
    batch: list[tuple[int, bytes]] = []
    for number, body in enumerate(messages(count * PER_TASK // PER_MESSAGE, 7)):
        batch.append((number, body))
        if len(batch) == 1000:
            history.write(batch)
            batch.clear()
    history.write(batch)
    with Log(broker.url("monitor")) as log:
        end = log.end()
        log.consume("last")
        while (message := log.next_raw(10)) is not None:
            if message[0] == end:
                history.write([message])
                break
    history.close()


def searches(monitor: Monitor) -> None:
    some = json.loads(get(monitor, "/tasks?limit=200")[1])["tasks"]
    asked: dict[str, list[str]] = {
        "newest": [""],
        "state=FAILURE": ["state=FAILURE"],
        "state=SUCCESS": ["state=SUCCESS"],
        "state=REVOKED (none)": ["state=REVOKED"],
        "state=FAILURE,RETRY,REVOKED": ["state=FAILURE,RETRY,REVOKED"],
        "name": [f"name=shop.tasks.task{n}" for n in range(30)],
        "name=...*": [f"name=shop.tasks.task{n}*" for n in range(3)],
        "worker": [f"worker={quote(f'celery@worker-{n}')}" for n in range(8)],
        "name, worker and state": [
            f"name=shop.tasks.task{n}&state=FAILURE&worker={quote(f'celery@worker-{n % 8}')}" for n in range(30)
        ],
        "worker and state (none)": [f"worker={quote(f'celery@worker-{n}')}&state=REVOKED" for n in range(8)],
        "since and until": ["since=10m&until=8m", "since=15m&until=14m"],
        "queue (none)": ["queue=default"],
        "text, rare": [f"text={quote(task['args'][-14:-1])}" for task in some[:40]],
        "text, common": ["text=customer", "text=invoice", "text=order"],
        "text, none": ["text=nobody-wrote-this"],
        "text and state": ["text=customer&state=FAILURE", "text=stock&name=shop.tasks.task3"],
        "sort=-runtime": ["sort=-runtime"],
        "sort=-runtime, name": [f"sort=-runtime&name=shop.tasks.task{n}" for n in range(30)],
        "one task": [""],
    }
    print("  95 of 100 answers within (over HTTP, 50 tasks a page)")
    worst = 0.0
    for what, queries in asked.items():
        taken = []
        for number in range(SEARCHES):
            path = f"/tasks/{some[number]['id']}" if what == "one task" else f"/tasks?{queries[number % len(queries)]}"
            begun = time.perf_counter()
            status, body = get(monitor, path)
            taken.append((time.perf_counter() - begun) * 1000)
            assert status == 200, body
        slow = statistics.quantiles(taken, n=20)[-1]
        worst = max(worst, slow)
        print(f"    {what:32} {slow:6.1f} ms   (median {statistics.median(taken):.1f})")
    print(f"    worst {worst:.1f} ms")


def million(broker: Broker, folder: Path, count: int) -> None:
    fill(folder, count, broker)
    print(f"With {count:,} tasks in the history ({(folder / 'monitor/history.db').stat().st_size / 1e6:,.0f} MB)")
    taken = []
    for _ in range(3):
        begun = time.perf_counter()
        monitor = start(broker, folder)
        try:
            eventually(partial(ready, monitor), PATIENCE, monitor.tail)
            taken.append(time.perf_counter() - begun)
        finally:
            monitor.end()
    print(f"  start to ready: median {statistics.median(taken):.2f} s (worst {max(taken):.2f} s)")
    monitor = start(broker, folder)
    try:
        eventually(lambda: ready(monitor), PATIENCE, monitor.tail)
        print(f"  resident memory after the start: {memory(monitor.popen.pid):.0f} MiB")
        searches(monitor)
        print(f"  resident memory after the searches: {memory(monitor.popen.pid):.0f} MiB")
        sender = threading.Thread(target=publish, args=(broker, messages(PACED, 9), PACE))
        sender.start()
        sender.join()
        eventually(lambda: tasks(monitor) >= count + PACED * PER_MESSAGE // PER_TASK, PATIENCE, monitor.tail)
        print(f"  resident memory after {PACED * PER_MESSAGE:,} more events: {memory(monitor.popen.pid):.0f} MiB")
    finally:
        monitor.end()


def main() -> None:
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    events -= events % (PER_MESSAGE * PER_TASK)
    with tempfile.TemporaryDirectory() as folder:
        broker: Any = ContainerBroker("4.3", Path(folder), Settings(disk_free_limit_mb=50))
        broker.start()
        try:
            publish(broker, messages(events // PER_MESSAGE, 1))
            ingest(broker, Path(folder), events)
            publishers(broker, Path(folder))
            million(broker, Path(folder) / "million", count)
        finally:
            broker.stop()


if __name__ == "__main__":
    main()
