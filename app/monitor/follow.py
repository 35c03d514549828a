"""Follows the event log, over broker restarts and its own, and hands every message to the sinks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from time import monotonic, time
from typing import Protocol

from app.eventlog import ANSWER_TIMEOUT, Entry, Log, Stop, Unavailable, address, replay
from app.monitor.position import Position, PositionFile

__all__ = ["Follower", "Sink"]

# Seconds. What SIGKILL may repeat: lines of this time.
SAVE_EVERY = 1.0
# Seconds, where nothing was printed: workers' heartbeats are read again in no time, and an idle disk may sleep.
SAVE_IDLE_EVERY = 60.0
# Seconds. The first wait after a lost connection: a broker that goes on after an error must not be asked in a tight loop.
RETRY_FIRST = 0.5
# Seconds. The longest wait between two tries, and so how much later than the broker the monitor may be back.
RETRY_LIMIT = 5.0
logger = logging.getLogger("warren.monitor")


class Sink(Protocol):
    """Something that is done with events."""

    def recall(self, entry: Entry) -> None:
        """Sees a message that was handled before this process started."""

    def handle(self, entry: Entry) -> bool:
        """Handles a message. True if handling it twice would show, so that its position is to be saved soon."""


def happened(entry: Entry) -> float:
    """When the last of a message's events happened, or 0. Not later than now, whatever its worker's clock says."""
    now = time()
    stamps = [stamp for event in entry.events if isinstance(stamp := event.get("timestamp"), int | float)]
    # NaN and infinity, which Python's json writes, fail this comparison as well.
    return max((float(stamp) for stamp in stamps if 0 < stamp <= now), default=0.0)


class Follower:
    """Hands each message to all sinks, in the order of the log, and then saves its position.

    After a clean stop each message is handled exactly once; after a kill those of the last second may be handled again.

    Args:
        memory: seconds before the saved position that sinks are reminded of at the start.
    """

    def __init__(self, url: str, sinks: Sequence[Sink], file: PositionFile, stop: Stop, memory: float) -> None:
        self._url = url
        self._sinks = sinks
        self._file = file
        self._stop = stop
        self._memory = memory
        self._position = file.load()
        self._reminded = False
        # When the position is to be saved; None while the saved one is the last.
        self._save_at: float | None = None
        # When the log was lost, and what was said of it.
        self._lost_at: float | None = None
        self._said: str | None = None

    def run(self) -> None:
        """Follows the log until the stop flag is set. Whatever ends it, the position is saved."""
        try:
            while not self._stop.is_set():
                try:
                    with self._connected() as log:
                        self._follow(log)
                except Unavailable as error:
                    self._lost(error)
                    self._save()
                    self._stop.wait(RETRY_FIRST)
        finally:
            self._save()

    def _connected(self) -> Log:
        """The log, reading where this left off. It is tried until it works or the stop flag is set."""
        with suppress(Unavailable):
            return self._try()
        # Imported now, since it brings asyncio and 5 MB that a monitor with a broker never needs.
        from tenacity import Retrying, retry_if_exception_type, wait_random_exponential

        retrying = Retrying(
            retry=retry_if_exception_type(Unavailable),
            wait=wait_random_exponential(RETRY_FIRST, RETRY_LIMIT),
            stop=lambda _: self._stop.is_set(),
            sleep=self._pause,
            reraise=True,
        )
        return retrying(self._try)

    def _pause(self, seconds: float) -> None:
        self._stop.wait(seconds)

    def _try(self) -> Log:
        try:
            log = Log(self._url, self._stop)
            try:
                self._resume(log)
            except BaseException:
                log.close()
                raise
        except Unavailable as error:
            self._lost(error)
            raise
        self._back()
        return log

    def _resume(self, log: Log) -> None:
        if self._position is not None:
            # Nothing is only taken for a new, empty log after a broker has had the time to open an old one.
            end = log.end(ANSWER_TIMEOUT)
            if self._stop.is_set():
                raise Unavailable("stopped")
            if end is None or end < self._position.offset:
                self._start_over()
            else:
                self._remind(self._position)
        log.consume("first" if self._position is None else self._position.offset)

    def _start_over(self) -> None:
        logger.warning("the broker's event log is another one than before: starting with its first event")
        self._position = None

    def _remind(self, position: Position) -> None:
        """Shows the sinks, once, what happened shortly before the position: a line of a running task needs its name."""
        if self._reminded:
            return
        try:
            start = datetime.fromtimestamp(position.time - self._memory, UTC)
        except (ValueError, OverflowError, OSError):
            # No clock showed this time; nothing can be looked up by it.
            return
        for entry in replay(self._url, start, stop=self._stop):
            if entry.offset > position.offset:
                break
            for sink in self._sinks:
                sink.recall(entry)
        self._reminded = True

    def _follow(self, log: Log) -> None:
        resumed = self._position
        while True:
            entry = log.next(self._until_save())
            if entry is None:
                if self._stop.is_set():
                    return
            elif resumed is None or self._is_new(entry, resumed):
                self._handle(entry)
            if entry is not None:
                if resumed is not None and self._position is None:
                    return
                resumed = None
            if self._save_at is not None and monotonic() >= self._save_at:
                self._save()

    def _is_new(self, entry: Entry, resumed: Position) -> bool:
        """Whether the first message after resuming is still to be handled; where it shows another log, starts over."""
        if entry.offset == resumed.offset:
            if not resumed.is_of(entry):
                self._start_over()
            return False
        if entry.offset > resumed.offset + 1:
            first, last = resumed.offset + 1, entry.offset - 1
            logger.warning("events were lost: the log no longer holds its messages %d to %d", first, last)
        return True

    def _handle(self, entry: Entry) -> None:
        shows = False
        for sink in self._sinks:
            shows |= sink.handle(entry)
        self._position = Position.of(entry, happened(entry) or (self._position.time if self._position else 0.0))
        due = monotonic() + (SAVE_EVERY if shows else SAVE_IDLE_EVERY)
        self._save_at = due if self._save_at is None else min(self._save_at, due)

    def _until_save(self) -> float | None:
        return None if self._save_at is None else max(0.0, self._save_at - monotonic())

    def _save(self) -> None:
        if self._save_at is not None and self._position is not None:
            self._file.save(self._position)
        self._save_at = None

    def _lost(self, error: Unavailable) -> None:
        """Says what is wrong: once an outage, and again where it turns out that waiting won't help."""
        first = self._lost_at is None
        if self._stop.is_set():
            return
        if self._lost_at is None:
            self._lost_at = monotonic()
        if first or (error.lasting and str(error) != self._said):
            self._said = str(error)
            logger.warning("%s; trying again until it works", error)

    def _back(self) -> None:
        if self._lost_at is not None:
            logger.info(
                "reading the event log at %s again after %.0f s", address(self._url), monotonic() - self._lost_at
            )
        self._lost_at = self._said = None
