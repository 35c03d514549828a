"""Events by the thousand, as workers send them under load; and whether a history has each of them once."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from time import time

import amqp

from app import eventlog
from app.eventlog import Log
from app.monitor.history.clock import rfc3339
from app.monitor.history.reader import Reader
from app.monitor.history.schema import FILE, connect
from app.monitor.lines import STATES
from tests.support.brokers import Broker
from tests.support.events import BASE, Event, life, new_id

__all__ = ["Flood", "check", "end_of_log", "publish"]

# Events that a worker puts into one message at most.
BATCH = 24

FOUND = {"UNCLAIMED", "STALLED", "ORPHANED"}


def publish(channel: amqp.Channel, bodies: Iterable[bytes]) -> None:
    """Sends messages to the event log."""
    for body in bodies:
        message = amqp.Message(body, content_type="application/json", content_encoding="utf-8", delivery_mode=2)
        channel.basic_publish(message, "celeryev", "task.multi")


def end_of_log(broker: Broker) -> int:
    """The offset of the log's last message; -1 if it is empty."""
    with Log(broker.url("ops")) as log:
        end = log.end()
    return -1 if end is None else end


class Flood:
    """Tasks that nobody runs: only their events are sent, under a name of their own."""

    def __init__(self, tasks: int) -> None:
        self.name = f"flood.{new_id()}"
        self.ids = [new_id() for _ in range(tasks)]
        now = time()
        events: list[Event] = []
        for number, id_ in enumerate(self.ids):
            # Begun a few at a time, so that the events of a task are spread over several messages; all of them lately.
            at = now - 30 + number / 1000
            end = "failed" if number % 10 == 0 else "succeeded"
            events += life(id_, at - BASE if at < BASE else at, end, name=self.name, runtime=0.5, wait=0.25)
        events.sort(key=lambda one: float(one["timestamp"]))
        self.bodies = [json.dumps(events[at : at + BATCH]).encode() for at in range(0, len(events), BATCH)]

    def send(self, broker: Broker) -> None:
        with broker.connection("worker") as connection:
            publish(connection.channel(), self.bodies)


def logged(broker: Broker, ids: Iterable[str]) -> dict[str, set[tuple[str, str | None]]]:
    """State and time of every event of the log, by task: what is in the log twice counts once."""
    found: dict[str, set[tuple[str, str | None]]] = {id_: set() for id_ in ids}
    for entry in eventlog.replay(broker.url("ops")):
        for event in entry.events:
            if event.get("uuid") in found:
                found[event["uuid"]].add((STATES[event["type"]], rfc3339(event["timestamp"])))
    for events in found.values():
        # Celery tells of sending once the broker has the task; the history shows it no later than the worker has it.
        received = min((time for state, time in events if state == "RECEIVED" and time), default=None)
        for one in [one for one in events if one[0] == "PENDING" and one[1] and received and one[1] > received]:
            events.remove(one)
            events.add(("PENDING", received))
    return found


def check(broker: Broker, folder: Path, ids: Sequence[str], name: str | None = None) -> None:
    """Each event of the log is in the history once, and nothing else is; and so in what is added up by ``name``."""
    expected = logged(broker, ids)
    wrong: dict[str, object] = {}
    ends: Counter[str] = Counter()
    with closing(Reader(folder / FILE)) as reader:
        for id_ in ids:
            task = reader.task(id_)
            # What the monitor finds by itself while it waits for the rest of a flood is in no log.
            steps = [(one["state"], one["time"]) for one in task["steps"] if one["state"] not in FOUND] if task else []
            if sorted(steps, key=str) != sorted(expected[id_], key=str):
                wrong[id_] = (sorted(expected[id_], key=str), steps)
            received = sum(state == "RECEIVED" for state, _ in expected[id_])
            if task and task["attempts"] != received:
                wrong[id_] = ("attempts", received, task["attempts"])
            ends.update(state for state, _ in expected[id_])
    assert not wrong, f"{len(wrong)} of {len(ids)}: {dict(list(wrong.items())[:3])}"
    with closing(connect(folder / FILE, readonly=True)) as connection:
        held = connection.execute("SELECT id FROM task").fetchall()
        assert len(held) == len(set(held))
        if name is not None:
            counted = defaultdict(int)
            query = "SELECT state, sum(count) FROM minute JOIN word ON key = name WHERE text = ? GROUP BY 1"
            for state, count in connection.execute(query, (name,)):
                counted[state] = count
            # 4 and 5 are SUCCESS and FAILURE.
            assert (counted[4], counted[5]) == (ends["SUCCESS"], ends["FAILURE"])
