"""Nothing is lost and nothing doubled, whatever is killed, stopped, full, malformed or gone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Thread
from time import sleep as sleep_

import amqp
import pytest
from celery import Celery

from app.monitor.history.schema import FILE
from app.tasks import sleep
from tests.integration.conftest import MakeWorker
from tests.support.brokers import Broker, only
from tests.support.events import event, heartbeat, life, new_id
from tests.support.eventually import eventually
from tests.support.flood import Flood, check, end_of_log, publish
from tests.support.processes import Process
from tests.support.services import Monitor
from tests.support.volume import fill, small_volume

pytestmark = pytest.mark.timeout(600)

MakeMonitor = Callable[..., Monitor]


@pytest.fixture
def make_monitor(broker: Broker, tmp_path: Path, processes: list[Process]) -> MakeMonitor:
    def make(folder: Path | None = None, **values: str) -> Monitor:
        made = Monitor(broker, tmp_path, {**values, **({"MONITOR_DIR": str(folder)} if folder else {})})
        processes.append(made)
        return made

    return make


def ready(monitor: Monitor) -> bool:
    return bool(monitor.ask("/readyz")[0] == 200)


def test_killed_in_a_tight_loop_during_a_flood(broker: Broker, make_monitor: MakeMonitor) -> None:
    # So many that it takes a dozen lives of the monitor, on one broker.
    flood = Flood(20_000 if broker.name.endswith("4.3") else 5_000)
    before = end_of_log(broker)
    monitor = make_monitor()
    sender = Thread(target=flood.send, args=(broker,))
    sender.start()
    kills = 0

    def got_on(at: int) -> bool:
        return monitor.position > at or (not sender.is_alive() and at >= before)

    # Each time it got on, it is killed; the next transaction is then under way.
    while sender.is_alive() or monitor.position < before:
        eventually(partial(got_on, monitor.position), 60, monitor.tail)
        monitor.kill()
        monitor.start()
        kills += 1
    sender.join()
    end = end_of_log(broker)
    while monitor.position < end:
        at = monitor.position
        eventually(lambda at=at: monitor.position > at, 60, monitor.tail)  # type: ignore[misc]
        monitor.kill()
        monitor.start()
        kills += 1
    assert kills >= 2
    check(broker, monitor.folder, flood.ids, flood.name)
    assert "ERROR" not in monitor.text


# --- the broker


def resend(broker: Broker, flood: Flood, done: list[int]) -> None:
    """Sends the flood, each message until the broker has taken it."""
    while done[0] < len(flood.bodies):
        try:
            with broker.connection("worker") as connection:
                channel = connection.channel()
                channel.confirm_select()
                while done[0] < len(flood.bodies):
                    publish(channel, [flood.bodies[done[0]]])
                    channel.wait(amqp.spec.Basic.Ack, timeout=10)
                    done[0] += 1
        except (OSError, amqp.AMQPError, AssertionError):
            # Until the stream can be read: before that, 3.10 after a kill confirms what it brings nowhere.
            eventually(lambda: end_of_log(broker) >= 0, 120, broker.log)


def test_the_broker_dies_during_a_flood(broker: Broker, make_monitor: MakeMonitor) -> None:
    only(broker, "4.3", "system", because="a restart takes ten seconds, and 4.0 restarts as 4.3 does")
    monitor = make_monitor()
    eventually(lambda: ready(monitor), 60, monitor.tail)
    flood, done = Flood(3_000), [0]
    sender = Thread(target=resend, args=(broker, flood, done))
    sender.start()
    eventually(lambda: done[0] > len(flood.bodies) // 3, 120, lambda: f"sent {done[0]}")
    broker.kill()
    broker.start()
    sender.join()
    monitor.says("reading the event log at", "again after", timeout=60)
    monitor.reaches(end_of_log(broker))
    check(broker, monitor.folder, flood.ids, flood.name)
    eventually(lambda: ready(monitor), 60, monitor.tail)


def test_the_broker_is_gone_for_ninety_seconds(
    broker: Broker, make_monitor: MakeMonitor, make_worker: MakeWorker, producer: Celery
) -> None:
    only(broker, "4.3", because="it takes two minutes, and who is gone has no version")
    monitor = make_monitor(MONITOR_FORMAT="json")
    worker = make_worker()
    sent = sleep.delay(100)
    eventually(lambda: monitor.task(sent.id).get("state") == "STARTED", 60, monitor.tail)
    container = broker.container.get_wrapped_container()  # type: ignore[attr-defined]
    broker.kill()
    # The time is what is tested.
    sleep_(90)
    assert monitor.popen.poll() is None
    status, answer = monitor.ask("/readyz")
    assert (status, monitor.ask("/healthz")[0]) == (503, 200), answer
    container.start()
    broker.wait()
    monitor.says("reading the event log at", "again after", timeout=60)
    eventually(lambda: worker.ready, 90, worker.tail)
    flood = Flood(100)
    flood.send(broker)
    monitor.reaches(end_of_log(broker))
    check(broker, monitor.folder, flood.ids, flood.name)
    # One line when it went, one when it came back; and nobody was called silent who could not be heard.
    assert sum("trying again until it works" in line for line in monitor.lines) == 1, monitor.tail()
    eventually(lambda: monitor.task(sent.id)["attempts"] == 2, 60, monitor.tail)
    steps = [step["state"] for step in monitor.task(sent.id)["steps"]]
    assert "ORPHANED" not in steps, steps


def test_a_wrong_password_is_said(broker: Broker, make_monitor: MakeMonitor) -> None:
    monitor = make_monitor(
        CELERY_BROKER_URL=broker.url("monitor").replace(":", ":wrong-", 2).replace("amqp:wrong-", "amqp:")
    )
    line = monitor.says("refuses the password of user monitor")
    assert "wrong-" not in line
    status, answer = monitor.ask("/readyz")
    assert status == 503, answer
    assert monitor.ask("/healthz")[0] == 200
    assert sum("refuses the password" in one for one in monitor.lines) == 1


# --- bad input

MALFORMED = (
    b"not JSON at all",
    b"",
    b"\xff\xfe\x00",
    b"17",
    b'["a", 5, null]',
    b"{}",
    b'{"type": "task-sent"}',
    b'{"type": "task-sent", "uuid": 7, "timestamp": 1}',
    b'{"type": "task-sent", "uuid": null, "timestamp": 1}',
    b'{"type": "task-progress", "uuid": "a", "timestamp": 1}',
    b'{"type": "task-started", "uuid": "a", "timestamp": "soon"}',
    b'{"type": "task-started", "uuid": "a", "timestamp": 1e300}',
    b'{"type": "task-started", "uuid": "a", "timestamp": 4000000000}',
    b'{"type": "task-succeeded", "uuid": "a", "timestamp": 1700000000, "runtime": NaN, "result": "\\ud800"}',
    b'{"type": "worker-heartbeat", "timestamp": 1700000000}',
    b"[" * 100_000 + b"]" * 100_000,
    b'{"type": "task-started", "uuid": "a", "timestamp": 1700000000, "x": ' + b"9" * 5_000 + b"}",
    json.dumps({"type": "task-failed", "uuid": "a", "timestamp": 1, "traceback": "x" * 5_000_000}).encode(),
)


def test_malformed_messages_among_good_ones(broker: Broker, make_monitor: MakeMonitor) -> None:
    monitor = make_monitor()
    eventually(lambda: ready(monitor), 60, monitor.tail)
    flood = Flood(200)
    bodies: list[bytes] = []
    for number, body in enumerate(flood.bodies):
        bodies += [MALFORMED[number % len(MALFORMED)], body]
    good = life(new_id(), 0)
    bodies.append(json.dumps([good[0], 5, {"no": "type"}, *good[1:], {**good[0], "uuid": None}]).encode())
    with broker.connection("worker") as connection:
        publish(connection.channel(), bodies)
    # RabbitMQ takes what is published before it answers.
    monitor.reaches(end_of_log(broker))
    check(broker, monitor.folder, flood.ids, flood.name)
    assert monitor.task(good[0]["uuid"])["state"] == "SUCCESS"
    said = [line for line in monitor.lines if "an event is skipped" in line]
    kinds = [line.split("(")[1].split(":")[0] for line in said]
    assert sorted(kinds) == sorted(set(kinds))
    assert set(kinds) >= {"not JSON", "not an object", "no type", "no uuid", "wrong types", "unknown type", "too large"}
    assert set(kinds) >= {"clock in the future", "no hostname"}
    assert all(len(line) < 1_000 for line in said)
    text = monitor.ask("/metrics")[1]
    assert 'warren_monitor_events_skipped_total{kind="not JSON"}' in text
    assert monitor.popen.poll() is None


def test_events_out_of_order_and_repeated(broker: Broker, make_monitor: MakeMonitor) -> None:
    monitor = make_monitor()
    sent, received, started, succeeded = life(id_ := new_id(), 0)
    order = [succeeded, received, started, sent, started, succeeded, received, succeeded, heartbeat(0)]
    with broker.connection("worker") as connection:
        publish(connection.channel(), [json.dumps(one).encode() for one in order])
        publish(connection.channel(), [json.dumps(order).encode()] * 3)
    monitor.reaches(end_of_log(broker))
    shown = monitor.task(id_)
    assert (shown["state"], shown["attempts"]) == ("SUCCESS", 1)
    assert [step["state"] for step in shown["steps"]] == ["PENDING", "RECEIVED", "STARTED", "SUCCESS"]
    assert sum(id_ in line for line in monitor.lines) == 4


# --- the log


def test_a_log_that_was_cut_says_what_is_missing(broker: Broker, make_monitor: MakeMonitor, tmp_path: Path) -> None:
    only(broker, "4.3", because="it sends 60 MB, and how logs are cut is no matter of ours")
    monitor = make_monitor()
    Flood(10).send(broker)
    monitor.reaches(end_of_log(broker))
    assert monitor.end() == 0
    at = monitor.position
    broker.change_policy("celery.events", max_length_bytes=1_000_000, stream_max_segment_size_bytes=1_000_000)
    try:
        # A log is cut by segments; the policy counts for new ones.
        padding = [json.dumps(event("succeeded", 1, new_id(), result="x" * 100_000)).encode()] * 30

        def cut() -> bool:
            with broker.connection("worker") as connection:
                publish(connection.channel(), padding)
            return first_of_log(broker) > at + 1

        eventually(cut, 120, lambda: f"the log begins behind {at}, not at {first_of_log(broker)}")
    finally:
        broker.change_policy("celery.events")
    flood = Flood(50)
    flood.send(broker)
    monitor.start()
    monitor.reaches(end_of_log(broker))
    monitor.says(f"events were lost: the log no longer holds its messages {at + 1} to ")
    check(broker, monitor.folder, flood.ids, flood.name)


def first_of_log(broker: Broker) -> int:
    from app.eventlog import Log

    with Log(broker.url("ops")) as log:
        log.consume("first")
        found = log.next_raw(10)
    return found[0] if found else -1


def test_a_log_that_was_made_anew(broker: Broker, make_monitor: MakeMonitor) -> None:
    monitor = make_monitor()
    old = Flood(200)
    old.send(broker)
    monitor.reaches(end_of_log(broker))
    assert monitor.end() == 0
    recreate(broker)
    new = Flood(20)
    new.send(broker)
    assert end_of_log(broker) < monitor.position
    monitor.start()
    monitor.says("the broker's event log is another one than before")
    eventually(lambda: monitor.position == end_of_log(broker), 60, monitor.tail)
    check(broker, monitor.folder, new.ids, new.name)
    # What is in the history stays there.
    assert sum(1 for _ in monitor.tasks(f"name={old.name}")) == len(old.ids)


def recreate(broker: Broker) -> None:
    """Deletes the stream and makes it as the definitions have it."""
    assert broker.api("DELETE", "queues/warren/celery.events").status == 204
    wanted = broker.definitions
    (queue,) = [one for one in wanted["queues"] if one["name"] == "celery.events"]
    body = {"durable": True, "auto_delete": False, "arguments": queue["arguments"]}
    eventually(lambda: broker.api("PUT", "queues/warren/celery.events", body).status in {201, 204}, 60)
    for binding in wanted["bindings"]:
        if binding["destination"] == "celery.events":
            made = broker.api(
                "POST",
                f"bindings/warren/e/{binding['source']}/q/celery.events",
                {"routing_key": binding["routing_key"], "arguments": {}},
            )
            assert made.status == 201, made


# --- the volume


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A volume of six megabytes."""
    with small_volume(tmp_path / "small", 6) as folder:
        yield folder


def test_a_full_volume(broker: Broker, make_monitor: MakeMonitor, small: Path) -> None:
    # What earlier tests left would fill it.
    recreate(broker)
    monitor = make_monitor(small)
    eventually(lambda: ready(monitor), 60, monitor.tail)
    ballast = fill(small)
    flood = Flood(1_000)
    flood.send(broker)
    monitor.says("is full: free space", timeout=60)
    eventually(lambda: "is full" in str(monitor.ask("/readyz")), 60, monitor.tail)
    assert not ready(monitor)
    # Searching goes on.
    assert monitor.ask("/tasks?limit=1")[0] == 200
    # And it is no reason to end, nor to fill the log with lines.
    assert monitor.ask("/healthz")[0] == 200
    ballast.unlink()
    monitor.reaches(end_of_log(broker))
    eventually(lambda: ready(monitor), 60, monitor.tail)
    check(broker, small, flood.ids, flood.name)
    assert sum("is full" in line for line in monitor.lines) == 1, monitor.tail()
    assert sum(f"[{flood.name}]" in line for line in monitor.lines) == 4 * len(flood.ids)


def test_a_volume_that_is_full_from_the_start(broker: Broker, make_monitor: MakeMonitor, small: Path) -> None:
    recreate(broker)
    ballast = fill(small)
    flood = Flood(100)
    flood.send(broker)
    monitor = make_monitor(small)
    monitor.says("free space there", timeout=30)
    assert monitor.popen.poll() is None
    ballast.unlink()
    eventually(lambda: monitor.position >= 0, 60, monitor.tail)
    monitor.reaches(end_of_log(broker))
    check(broker, small, flood.ids, flood.name)


def test_a_history_that_is_damaged_or_removed_is_made_again(broker: Broker, make_monitor: MakeMonitor) -> None:
    flood = Flood(500)
    flood.send(broker)
    end = end_of_log(broker)
    monitor = make_monitor()
    monitor.reaches(end)
    path = monitor.folder / FILE
    # While it runs: somebody removes it.
    path.unlink()
    monitor.says("was removed")
    eventually(lambda: path.exists() and monitor.position >= end, 60, monitor.tail)
    eventually(lambda: monitor.task(flood.ids[0]).get("id") == flood.ids[0], 60, monitor.tail)
    assert monitor.end() == 0
    # While it is stopped: the disk does.
    for part in (path, path.with_name(f"{FILE}-wal")):
        if part.exists():
            part.write_bytes(b"\xa5" * part.stat().st_size)
    monitor.start()
    monitor.says("is damaged", "made again from the event log")
    eventually(lambda: monitor.position >= end, 60, monitor.tail)
    check(broker, monitor.folder, flood.ids, flood.name)


# --- who asks


def test_the_wrong_token_gets_nothing(broker: Broker, make_monitor: MakeMonitor) -> None:
    monitor = make_monitor()
    eventually(lambda: ready(monitor), 60, monitor.tail)
    for path in ("/tasks", "/tasks/a", "/workers", "/counts", "/metrics", "/events", "/openapi.json"):
        status, answer = monitor.ask(path, token="wrong")
        assert status == 401, (path, status)
        assert monitor.token not in str(answer)
    assert monitor.ask("/tasks")[0] == 200
