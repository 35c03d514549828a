"""app/results.py: what receives rpc:// results. (That none is lost is shown on real brokers.)"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import amqp
import kombu
import pytest

from app import factory, results
from app.settings import AppSettings


class Connection:
    """One that raises these errors, one after the other."""

    connection_errors = amqp.Connection.connection_errors
    channel_errors = amqp.Connection.channel_errors
    recoverable_connection_errors = amqp.Connection.recoverable_connection_errors

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.collected = 0

    def fail(self, **_: Any) -> None:
        raise self.errors.pop(0)

    ensure_connection = drain_events = fail

    def collect(self) -> None:
        self.collected += 1


def receiving(*errors: Exception) -> tuple[Any, Connection]:
    consumer = factory.make(AppSettings()).backend.result_consumer
    consumer._connection = connection = Connection(*errors)
    return consumer, connection


def test_nothing_came(caplog: pytest.LogCaptureFixture) -> None:
    consumer, connection = receiving(TimeoutError())
    consumer._consumer = object()
    with pytest.raises(TimeoutError):
        consumer.drain_events(timeout=0)
    assert (consumer._consumer is None, connection.collected, caplog.messages) == (False, 0, [])


@pytest.mark.parametrize(
    "error", [OSError("gone"), TimeoutError(110, "dead"), amqp.ConnectionForced("bye"), amqp.PreconditionFailed("late")]
)
def test_a_lost_connection_is_said_once(caplog: pytest.LogCaptureFixture, error: Exception) -> None:
    consumer, connection = receiving(
        error, OSError("away"), amqp.NotFound("its node is away"), amqp.AccessRefused("not yet")
    )
    consumer._consumer, consumer._consumed = object(), True
    for _ in range(4):
        with pytest.raises(TimeoutError) as raised:
            consumer.drain_events(timeout=0.01)
        assert raised.value.errno is None
    assert consumer._consumer is None
    assert connection.collected == 4
    assert len(caplog.messages) == 1


def test_what_never_worked_is_an_error() -> None:
    consumer, _ = receiving(OSError("away"), amqp.AccessRefused("no such user"))
    with pytest.raises(TimeoutError):
        consumer.drain_events(timeout=0.01)
    with pytest.raises(amqp.AccessRefused):
        consumer.drain_events(timeout=0.01)


def test_the_queue_outlives_connections_and_not_its_process_for_long() -> None:
    app = factory.make(AppSettings())
    for expires, expected in ((60, 60), (None, results.DAY)):
        app.conf.result_expires = expires
        backend = results.RPCBackend(app)
        assert (backend.binding.auto_delete, backend.binding.durable, backend.binding.expires) == (
            False,
            True,
            expected,
        )


def test_the_queue_is_not_the_last_thing_that_the_broker_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = factory.make(AppSettings()).backend
    connection = kombu.Connection("memory://")
    producer = SimpleNamespace(channel=connection.channel(), connection=connection)
    said: list[tuple[str, str]] = []
    for name in ("queue_declare", "queue_delete"):

        def note(queue: str, *_: Any, name: str = name, **__: Any) -> Any:
            said.append((name, queue))
            return SimpleNamespace(queue=queue)

        monkeypatch.setattr(producer.channel, name, note)
    monkeypatch.setattr(results, "uuid", lambda: "last")
    for _ in range(2):
        backend.on_task_call(producer, "id")
    ours = ("queue_declare", backend.oid)
    assert said == [ours, ("queue_declare", "last"), ("queue_delete", "last"), ours]


class Message:
    def __init__(self) -> None:
        self.said: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda: self.said.append(name)


def test_a_result_is_acknowledged_when_it_was_handled() -> None:
    def fails(*_: Any) -> None:
        raise KeyError

    message = Message()
    with pytest.raises(KeyError):
        results.Consumer(None, callbacks=[fails], no_ack=True).receive({}, message)
    assert message.said == []
    results.Consumer(None, callbacks=[lambda *_: None], no_ack=True).receive({}, message)
    assert message.said == ["ack"]


def test_what_can_not_be_read_does_not_come_again() -> None:
    message = Message()
    with pytest.raises(ValueError, match="json"):
        results.Consumer(None).on_decode_error(message, ValueError("json"))
    assert message.said == ["reject"]


@pytest.mark.parametrize(("pid", "said"), [(os.getpid(), ["cancel"]), (os.getppid(), [])], ids=["ours", "a fork's"])
def test_a_forked_child_leaves_its_parents_queue_alone(pid: int, said: list[str]) -> None:
    consumer, connection = receiving()
    connection.connection = SimpleNamespace(sock=SimpleNamespace(settimeout=lambda _: None))  # type: ignore[attr-defined]
    consumer._consumer, consumer._pid = Message(), pid
    consumer.leave()
    assert consumer._consumer.said[:1] == said
