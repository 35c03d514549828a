"""A worker's events, sent without waiting for their confirms.

Celery 5.7 sends an event and stands, with its whole event loop, until the broker has confirmed it: on a broker that hangs or
vanished for ever, and for a minute where the node that leads the event log did. Meanwhile the worker takes no task, says
nothing of those that ended, and hears no signal. Here the loop goes on; what is not confirmed is sent again on the next
connection.
"""

from __future__ import annotations

import logging
from functools import partial
from time import monotonic
from typing import Any

import amqp
from amqp import spec
from celery import bootsteps
from celery.app.events import Events as CeleryEvents
from celery.events.dispatcher import EventDispatcher
from kombu.exceptions import OperationalError

from app import config
from app.event_types import HEARTBEAT

__all__ = ["Dispatcher", "Events", "Settled"]

# Messages on their way to a broker that has not confirmed them. What is sent beyond must not fill the connection, where the
# loop would stand after all; a broker that is well confirms within milliseconds.
WINDOW = 200
# Messages that wait for a place among those, at about a kilobyte each. Then the loop does stand.
WAITING = 100_000
# Seconds that a worker which stops waits for the last confirms. More would be a broker that is ill.
PATIENCE = 5.0
# Seconds between two heartbeats of a worker's connections. A worker finds out that its broker is silent after two, and
# the broker gives a silent worker's tasks to others after two or three. Others have longer ones: whoever sends a task now
# and then does not answer heartbeats between two.
INTERVAL = 10

logger = logging.getLogger("warren.events")


class Dispatcher(EventDispatcher):
    """Celery's, whose own messages are confirmed while the event loop reads. Those of others' producers are as they were."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # By delivery tag, in the order in which they were sent.
        self._unconfirmed: dict[int, Any] = {}
        self._sent = 0
        self._current: Any = None
        self._confirming: Any = None
        self._complained = False
        super().__init__(*args, **kwargs)

    def _publish(self, event: Any, producer: Any, routing_key: str, retry: bool = False, **options: Any) -> None:
        if producer is None:
            return
        if producer is not self.producer or not self._confirms(producer):
            super()._publish(event, producer, routing_key, retry=retry, **options)
            return
        if routing_key == HEARTBEAT.replace("-", ".") and self._outbound_buffer:
            # Of no use later.
            self._go_on()
            return
        self._outbound_buffer.append((event, routing_key))
        self._go_on()
        while len(self._outbound_buffer) > WAITING and self._confirming is not None:
            try:
                self._confirming.connection.drain_events()
            except Exception:  # noqa: BLE001, RUF100 - whatever it is, the event loop will find it
                return
            self._go_on()

    def _confirms(self, producer: Any) -> bool:
        """Whether this is a connection that confirms messages; of one that is lost, whether it was."""
        try:
            return bool(getattr(producer.channel.connection, "confirm_publish", self._confirming is not None))
        except Exception:  # noqa: BLE001, RUF100 - the connection may be lost in any way; events then wait
            return self._confirming is not None

    def _go_on(self) -> None:
        """Sends what can be sent now. What fails stays: the loop finds a lost connection, and a new dispatcher takes over."""
        try:
            channel = self.producer.channel
            self._watch(channel)
            while self._outbound_buffer and len(self._unconfirmed) < WINDOW and not blocked(channel.connection):
                self._current = self._outbound_buffer.popleft()
                super()._publish(self._current[0], self.producer, self._current[1])
                if self._current is not None:
                    # Celery's has put what it could not send behind all others.
                    self._outbound_buffer.rotate(1)
                    return
        except Exception as error:  # noqa: BLE001, RUF100 - as above
            level = logging.DEBUG if isinstance(error, OSError | amqp.AMQPError | OperationalError) else logging.ERROR
            logger.log(level, "events wait: %s", error, exc_info=True)

    def _watch(self, channel: Any) -> None:
        """Has the broker confirm what is sent on ``channel``."""
        if channel is self._confirming:
            return
        self._take_back()
        channel.confirm_select()
        channel.events["basic_ack"].add(self._confirmed)
        channel.events["basic_nack"].add(self._refused)
        channel.basic_publish = partial(self._send, channel)
        channel._callbacks[spec.Channel.Close] = partial(self._channel_closed, channel)
        self._confirming, self._sent = channel, 0

    def _send(self, channel: Any, message: Any, confirm_timeout: Any = None, **options: Any) -> None:
        tag = self._sent + 1
        self._unconfirmed[tag] = self._current
        try:
            channel._basic_publish(message, **options)
        except BaseException:
            self._unconfirmed.pop(tag, None)
            raise
        self._sent, self._current = tag, None

    def _answered(self, tag: int, multiple: bool) -> list[Any]:
        tags = [one for one in list(self._unconfirmed) if one <= tag] if multiple else [tag]
        return [self._unconfirmed.pop(one) for one in tags if one in self._unconfirmed]

    def _confirmed(self, tag: int, multiple: bool) -> None:
        self._answered(tag, multiple)
        self._complained = False

    def _refused(self, tag: int, multiple: bool) -> None:
        self._complain("the broker does not take them")
        self._outbound_buffer.extendleft(reversed(self._answered(tag, multiple)))

    def _channel_closed(self, channel: Any, *args: Any) -> None:
        """The broker closed the channel: the exchange is gone, or this user may not write to it. py-amqp opens it again."""
        self._confirming = None
        self._take_back()
        try:
            channel._on_close(*args)
        except amqp.ChannelError as error:
            self._complain(error)

    def _complain(self, reason: object) -> None:
        """Says, once until it is over, that events wait for the broker to take them."""
        if not self._complained:
            self._complained = True
            logger.error("events can't be sent, and wait: %s", reason)

    def _take_back(self) -> None:
        """What was sent and not confirmed waits again, before all else."""
        self._outbound_buffer.extendleft(reversed(self._unconfirmed.values()))
        self._unconfirmed.clear()

    def extend_buffer(self, other: Any) -> None:
        """Takes over from the dispatcher of the connection before, also what that was not told to have arrived.

        And what it only gathered: when the connection was lost, tasks were cancelled, which Celery's forgets to tell.
        """
        if isinstance(other, Dispatcher):
            other._take_back()
        super().extend_buffer(other)
        for group, events in other._group_buffer.items():
            if events:
                self._outbound_buffer.append((list(events), f"{group}.multi"))
                events.clear()

    def settle(self, patience: float) -> None:
        """Returns when all that was sent is confirmed, or after ``patience`` seconds."""
        limit = monotonic() + patience
        try:
            self.flush()
            with self.mutex:
                while self._unconfirmed and (left := limit - monotonic()) > 0:
                    self._confirming.connection.drain_events(timeout=left)
                    self._go_on()
        except Exception as error:  # noqa: BLE001, RUF100 - the worker stops, whatever it is
            logger.debug("events are not confirmed: %s", error)
        if left_over := len(self._unconfirmed) + len(self._outbound_buffer):
            logger.warning("%d messages of events were not confirmed and may be lost", left_over)


def blocked(connection: Any) -> bool:
    """Whether the broker said that it takes no messages: what it is sent then fills the connection."""
    return bool(getattr(connection, "blocked", False))


class Events(CeleryEvents):
    """``app.events``, with the dispatcher above."""

    dispatcher_cls = Dispatcher


class Settled(bootsteps.StartStopStep):
    """Has connections of the worker find out soon that a broker is silent, and a worker that stops wait for its confirms."""

    requires = ("celery.worker.consumer.events:Events", "celery.worker.consumer.heart:Heart")

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        # Unless the app says otherwise.
        if consumer.amqheartbeat == config.HEARTBEAT:
            consumer.amqheartbeat = INTERVAL

    def start(self, consumer: Any) -> None:
        """Nothing to start: a step without this is not told of the end."""

    def stop(self, consumer: Any) -> None:
        """Where the consumer's connection is lost, ends that of events as well, which may be as silent: without a goodbye.

        A worker that stops keeps both: its tasks may still end, and say so.
        """
        if consumer.connection is None and (connection := getattr(consumer.event_dispatcher, "connection", None)):
            connection.collect()

    def shutdown(self, consumer: Any) -> None:
        if isinstance(consumer.event_dispatcher, Dispatcher):
            consumer.event_dispatcher.settle(PATIENCE)
