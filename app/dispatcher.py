"""A worker's events where its connection is lost: its event loop does not look for the broker, and none is forgotten.

Celery 5.7 looks for a broker that is away wherever it sends a heartbeat, without end, while its loop stands: it does not find
out that the connection of its tasks is lost too, and hears no signal. And it forgets what it gathers to send together: when a
connection is lost, that the worker's tasks were cancelled.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from celery.app.events import Events as CeleryEvents
from celery.events.dispatcher import EventDispatcher

__all__ = ["Dispatcher", "Events", "Farewell"]


# For an event of the worker itself, on its own connection: one attempt more, should that alone be lost. What fails is kept for
# the next connection; a broker that is away is looked for by the consumer.
AGAIN = {"max_retries": 1, "interval_start": 0, "interval_max": 0}


class Dispatcher(EventDispatcher):
    """Celery's, which does not wait for a broker that is away, and takes over all that the one before had."""

    def _publish(
        self, event: Any, producer: Any, routing_key: str, retry: bool = False, retry_policy: Any = None, **options: Any
    ) -> None:
        if retry_policy is None and producer is self.producer:
            retry_policy = AGAIN
        super()._publish(event, producer, routing_key, retry=retry, retry_policy=retry_policy, **options)

    def extend_buffer(self, other: Any) -> None:
        super().extend_buffer(other)
        for group, events in other._group_buffer.items():
            if events:
                self._outbound_buffer.append((list(events), f"{group}.multi"))
                events.clear()


class Events(CeleryEvents):
    """``app.events``, with the dispatcher above."""

    dispatcher_cls = Dispatcher


class Farewell(bootsteps.StartStopStep):
    """Ends the connection of events without a goodbye where the broker would not answer it."""

    requires = ("celery.worker.consumer.events:Events", "celery.worker.consumer.heart:Heart")

    def start(self, consumer: Any) -> None:
        """Nothing to start: a step without this is not told of the end."""

    def stop(self, consumer: Any) -> None:
        """With the consumer's, which is lost: the broker may be as silent on this one.

        A worker that stops keeps both: its tasks may still end, and say so.
        """
        if consumer.connection is None:
            self.leave(consumer)

    def shutdown(self, consumer: Any) -> None:
        """A broker that takes no messages reads no goodbye either."""
        connection = getattr(consumer.event_dispatcher, "connection", None)
        if connection is not None and getattr(connection._connection, "blocked", False):
            self.leave(consumer)

    def leave(self, consumer: Any) -> None:
        if connection := getattr(consumer.event_dispatcher, "connection", None):
            connection.collect()
