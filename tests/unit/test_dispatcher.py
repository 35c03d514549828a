"""app/dispatcher.py: events of a worker, which nobody waits for."""

from __future__ import annotations

import logging
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import amqp
import pytest
from amqp import spec
from celery import Celery

from app import config, dispatcher
from app.dispatcher import Dispatcher, Settled
from app.event_types import HEARTBEAT


class Channel:
    """As much of a channel of py-amqp as a producer needs."""

    def __init__(self) -> None:
        self.connection: Any = self
        self.confirm_publish = True
        self.blocked = False
        self.sent: list[Any] = []
        self.events: dict[str, set[Any]] = defaultdict(set)
        self._callbacks: dict[Any, Any] = {}
        self.selected = 0
        self.lost = False
        self.answers = 0

    def confirm_select(self) -> None:
        self.selected += 1

    def _basic_publish(self, message: Any, **_: Any) -> None:
        if self.lost:
            raise ConnectionResetError
        self.sent.append(message)

    def basic_publish(self, message: Any, **_: Any) -> None:
        raise AssertionError("waits for the confirm")

    def answer(self, tag: int, multiple: bool = False, kind: str = "basic_ack") -> None:
        for callback in self.events[kind]:
            callback(tag, multiple)

    def drain_events(self, timeout: float | None = None) -> None:
        if not self.answers:
            raise TimeoutError
        self.answers -= 1
        self.answer(len(self.sent), multiple=True)

    def _on_close(self, *_: Any) -> None:
        raise amqp.NotFound("no exchange 'celeryev'")


class Producer:
    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    def publish(self, event: Any, **_: Any) -> None:
        self.channel.basic_publish(event)


def make(channel: Channel) -> Dispatcher:
    app = Celery(set_as_current=False, broker="memory://")
    made = Dispatcher(app=app, enabled=False, hostname="here")
    made.enabled = True
    made.producer = Producer(channel)
    return made


def test_a_message_is_forgotten_when_it_is_confirmed() -> None:
    channel = Channel()
    made = make(channel)
    for number in range(5):
        made.send("task-started", uuid=str(number))
    assert [event["uuid"] for event in channel.sent] == list("01234")
    assert (channel.selected, list(made._unconfirmed)) == (1, [1, 2, 3, 4, 5])
    channel.answer(2)
    channel.answer(3, multiple=True)
    # Of one that was confirmed already.
    channel.answer(1)
    assert list(made._unconfirmed) == [4, 5]


def test_what_was_not_confirmed_goes_to_the_next_connection_in_its_order() -> None:
    first, second = Channel(), Channel()
    before = make(first)
    for number in range(3):
        before.send("task-started", uuid=str(number))
    first.answer(1)
    first.lost = True
    before.send("task-started", uuid="3")
    before.send("task-started", uuid="4")
    after = make(second)
    after.extend_buffer(before)
    after.flush()
    assert [event["uuid"] for event in second.sent] == list("1234")
    assert (len(after._unconfirmed), len(after._outbound_buffer)) == (4, 0)


def test_what_was_gathered_goes_to_the_next_connection_too() -> None:
    before, channel = make(Channel()), Channel()
    before.buffer_group = {"task"}
    before.send("task-cancelled", uuid="0")
    after = make(channel)
    after.extend_buffer(before)
    after.flush()
    assert [[event["uuid"] for event in events] for events in channel.sent] == [["0"]]


def test_no_more_than_a_window_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "WINDOW", 2)
    channel = Channel()
    made = make(channel)
    for number in range(5):
        made.send("task-started", uuid=str(number))
    made.send(HEARTBEAT)
    assert [event["uuid"] for event in channel.sent] == list("01")
    channel.answer(2, multiple=True)
    made.send("task-started", uuid="5")
    channel.answer(4, multiple=True)
    made.flush()
    # The heartbeat, of a time gone by, is not among them.
    assert [event["uuid"] for event in channel.sent] == list("012345")


def test_a_broker_that_takes_no_messages_is_sent_none() -> None:
    channel = Channel()
    made = make(channel)
    made.send("task-started", uuid="0")
    channel.blocked = True
    made.send("task-started", uuid="1")
    assert len(channel.sent) == 1
    channel.blocked = False
    made.send(HEARTBEAT)
    assert [event.get("uuid") for event in channel.sent] == ["0", "1"]


def test_it_stands_where_too_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "WINDOW", 1)
    monkeypatch.setattr(dispatcher, "WAITING", 2)
    channel = Channel()
    made = make(channel)
    channel.answers = 2
    for number in range(5):
        made.send("task-started", uuid=str(number))
    assert ([event["uuid"] for event in channel.sent], channel.answers) == (list("012"), 0)


def test_what_the_broker_refuses_is_sent_again(caplog: pytest.LogCaptureFixture) -> None:
    channel = Channel()
    made = make(channel)
    made.send("task-started", uuid="0")
    made.send("task-started", uuid="1")
    channel.answer(2, multiple=True, kind="basic_nack")
    made.flush()
    assert [event["uuid"] for event in channel.sent] == list("0101")
    assert sum("can't be sent" in line for line in caplog.messages) == 1


def test_a_channel_that_the_broker_closes_is_no_lost_connection(caplog: pytest.LogCaptureFixture) -> None:
    channel = Channel()
    made = make(channel)
    made.send("task-started", uuid="0")
    for _ in range(3):
        channel._callbacks[spec.Channel.Close]()
        made.flush()
    assert [event["uuid"] for event in channel.sent] == list("0000")
    assert (channel.selected, list(made._unconfirmed)) == (4, [1])
    assert sum("no exchange 'celeryev'" in line for line in caplog.messages) == 1


def test_a_stopping_worker_waits_for_its_confirms(caplog: pytest.LogCaptureFixture) -> None:
    channel = Channel()
    made = make(channel)
    made.send("task-started", uuid="0")
    channel.answers = 1
    with caplog.at_level(logging.WARNING):
        made.settle(5)
        assert (made._unconfirmed, caplog.messages) == ({}, [])
        made.send("task-started", uuid="1")
        made.settle(5)
    assert len(caplog.messages) == 1


def test_others_producers_are_as_they_were() -> None:
    made = make(Channel())
    channel = Channel()
    channel.basic_publish = lambda message, **_: channel.sent.append(message)  # type: ignore[method-assign]
    made.publish("task-sent", {"uuid": "0"}, Producer(channel))
    assert (len(channel.sent), channel.selected) == (1, 0)


@pytest.mark.parametrize(("heartbeat", "expected"), [(config.HEARTBEAT, dispatcher.INTERVAL), (0, 0), (120, 120)])
def test_only_the_heartbeats_that_are_ours_become_short(heartbeat: int, expected: int) -> None:
    consumer = SimpleNamespace(amqheartbeat=heartbeat)
    Settled(consumer)
    assert consumer.amqheartbeat == expected


def test_a_lost_connection_takes_that_of_events_with_it() -> None:
    collected: list[bool] = []
    events = SimpleNamespace(connection=SimpleNamespace(collect=lambda: collected.append(True)))
    consumer = SimpleNamespace(amqheartbeat=0, connection="up", event_dispatcher=events)
    step = Settled(consumer)
    step.stop(consumer)
    assert collected == []
    consumer.connection = None
    step.stop(consumer)
    assert collected == [True]
    consumer.event_dispatcher = None
    step.stop(consumer)
