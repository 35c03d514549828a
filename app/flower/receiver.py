"""Reads the event log for Flower: the monitor's follower, with Flower's state in the place of the monitor's history."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic, time
from typing import Any, Protocol
from zlib import crc32

import msgspec

from app.eventlog import EMPTY_WAIT, Log, Stop, Unavailable
from app.events.decoder import Decoder, Event
from app.events.follow import Follower
from app.events.position import Position
from app.flower.health import Health

__all__ = ["Batch", "Heard", "Inlet", "Receiver", "State"]

# Seconds without a message until the broker is asked where the log ends. Workers that are up tell of themselves every two;
# where there are none, silence alone would not tell a quiet log from a broker that hangs.
ASK_AFTER = 10.0
# Seconds until a follower that ended by a mistake of its own is tried again.
AGAIN = 5.0
# What Celery takes for the clock of who sends tasks: behind all that workers did so far.
SENDER_SKEW = -1

logger = logging.getLogger("warren.flower")


class Heard(Event):
    """What Flower shows of an event beyond the monitor."""

    clock: int | None = None
    freq: float | None = None
    exchange: str | None = None
    sw_sys: str | None = None


class Batch(msgspec.Struct, frozen=True):
    """Events of one message of the log, and the place behind it."""

    position: Position
    events: list[dict[str, Any]]


class State(Protocol):
    """Where the messages go. Called in the receiver's thread."""

    @property
    def position(self) -> Position | None: ...
    def take(self, batches: list[Batch]) -> None:
        """Returns when they are taken."""
        ...

    def at_end(self) -> None:
        """All that the log has is taken."""
        ...

    def start_over(self) -> None:
        """The log is another one."""
        ...


class Inlet:
    """Makes Flower's events of the log's messages; what the follower calls its records."""

    def __init__(self, state: State, health: Health, clock: int = 0, now: Callable[[], float] = time) -> None:
        self._state = state
        self._health = health
        self._decoder = Decoder(Heard)
        self.clock = clock
        self._now = now
        # The log's last message when it was opened: what is behind it happens now.
        self._old = -1
        self.heard = 0.0

    @property
    def position(self) -> Position | None:
        return self._state.position

    def connected(self, end: int | None) -> None:
        self._old = -1 if end is None else end
        # No sign of life yet: who fails at the same message time and again is connected each time, too.
        self.heard = monotonic()

    def start_over(self) -> None:
        self._state.start_over()

    def take(self, messages: list[tuple[int, bytes]]) -> None:
        self._state.take([Batch(Position(offset, crc32(body)), self.events(offset, body)) for offset, body in messages])
        self._health.beat()

    def look(self) -> None:
        # Called at the log's end, as far as that is known: it is from when the broker was heard last.
        first = not self._health.caught_up
        self._health.end_seen(self.heard)
        if first:
            self._state.at_end()

    def events(self, offset: int, body: bytes) -> list[dict[str, Any]]:
        now = self._now()
        return [self._event(event, offset, now) for event in self._decoder.events(offset, body)]

    def _event(self, event: Event, offset: int, now: float) -> dict[str, Any]:
        """As Celery's own receiver hands them on, but with the time at which an old event was to be heard.

        Celery's takes every event for one of this moment, so that each worker of the last week would live again. And it
        shifts times by the difference of time zones, which seconds since 1970 don't have.
        """
        made: dict[str, Any] = msgspec.to_builtins(event)
        clock = made.get("clock")
        if made["type"] == "task-sent":
            made["clock"] = clock = (self.clock or 1) + SENDER_SKEW
        self.clock = max(self.clock, clock or 0) + 1
        made.setdefault("clock", self.clock)
        made.setdefault("hostname", "")
        made["local_received"] = now if offset > self._old else min(now, event.timestamp)
        return made


class Receiver(Follower):
    """Follows the log until the stop flag is set, and tells ``health`` how that goes."""

    def __init__(self, url: str, inlet: Inlet, stop: Stop, health: Health) -> None:
        super().__init__(url, inlet, stop, health.status)
        self._inlet = inlet
        self._health = health
        self._ask_after = min(ASK_AFTER, health.ready_seconds / 3)

    def run(self) -> None:
        while not self._stop.is_set():
            try:
                super().run()
            except Exception:
                # Nothing is told of life here: the watch ends Flower where this does not help.
                logger.exception("reading the event log failed by a mistake of our own, please report it; trying again")
                self._stop.wait(AGAIN)

    def _gather(self, log: Log) -> tuple[list[tuple[int, bytes]], bool]:
        messages, drained = super()._gather(log)
        if messages:
            self._inlet.heard = monotonic()
        elif monotonic() - self._inlet.heard > self._ask_after:
            end = log.end(EMPTY_WAIT)
            self._end = -1 if end is None else end
            self._inlet.heard = monotonic()
        return messages, drained

    def _lost(self, error: Unavailable) -> None:
        self._health.beat()
        self._health.trouble = str(error)
        super()._lost(error)
