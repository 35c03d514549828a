"""A worker's events where its connection is lost: those that were only gathered go to the next one, and nobody is waited for.

Celery 5.7 takes over what it failed to send, and forgets what it gathers to send together: when a connection is lost,
that the worker's tasks were cancelled.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from celery.app.events import Events as CeleryEvents
from celery.events.dispatcher import EventDispatcher

__all__ = ["Dispatcher", "Events", "Farewell"]


class Dispatcher(EventDispatcher):
    """Celery's, which takes over all that the one before had."""

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
