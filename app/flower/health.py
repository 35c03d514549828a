"""Is Flower ready, is it deaf? Told from what its receiver did last."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from app.events.status import Status

__all__ = ["Health"]


class Health:
    """Written by the receiver, read by the web server and the watch. Seconds are those of ``clock``."""

    def __init__(self, ready_seconds: int, deaf_seconds: int, clock: Callable[[], float] = monotonic) -> None:
        self.ready_seconds = ready_seconds
        self.deaf_seconds = deaf_seconds
        self.status = Status()
        self.trouble: str | None = None
        """Why the log can't be read now."""
        self._clock = clock
        self._end_seen: float | None = None
        self._pulse = clock()

    def end_seen(self, at: float) -> None:
        """The log's end was seen at ``at``, with all before it taken."""
        self._end_seen = at
        self.trouble = None
        self.beat()

    def beat(self) -> None:
        """The receiver gets on: events are taken, the log's end was seen, or the broker is known to be away."""
        self._pulse = self._clock()

    @property
    def caught_up(self) -> bool:
        """Whether the log's end was seen at all."""
        return self._end_seen is not None

    def not_ready(self) -> str | None:
        """Why Flower is not ready, in a line; None if it is."""
        now = self._clock()
        if self._end_seen is not None and now - self._end_seen <= self.ready_seconds:
            return None
        if self.trouble is not None:
            return self.trouble
        if self.status.lag_events or self._end_seen is None:
            return f"the event log is being read, some {self.status.lag_events:,} events are left"
        return f"the end of the event log was last seen {now - self._end_seen:.0f} s ago"

    def deaf(self) -> float | None:
        """For how many seconds nothing was heard of the receiver, if that is longer than it may be."""
        silent = self._clock() - self._pulse
        return silent if silent > self.deaf_seconds else None
