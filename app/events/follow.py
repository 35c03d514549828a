"""Follows the event log, over broker restarts and its own, and hands its messages to the recorder in batches."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from time import monotonic, time
from typing import Protocol

from app.eventlog import ANSWER_TIMEOUT, EMPTY_WAIT, Log, Stop, Unavailable, address
from app.events.position import Position
from app.events.status import Status

__all__ = ["Follower", "Records", "Refused"]

# Messages and bytes of one transaction. Workers under load put 24 events into a message: as many as take a tenth of a
# second, and 30 MB while they do.
MESSAGES = 500
BYTES = 8_000_000
# Seconds in which messages are gathered: what people don't notice, and few enough transactions for a slow disk.
GATHER = 0.1
# Seconds without a message until a transaction does not wait for more: the broker sends what it has at once.
DRAINED = 0.02
# Seconds between two looks at tasks that need attention.
LOOK_EVERY = 1.0
# Seconds between two questions where the log ends, while far behind.
END_EVERY = 5.0
# Seconds behind that don't count: events are on their way for some.
AT_ONCE = 3.0
# Seconds behind the log from which on the monitor does not count as ready.
FAR_BEHIND = 30.0
# Seconds. The first wait after a lost connection: a broker that goes on after an error must not be asked in a tight loop.
RETRY_FIRST = 0.5
# Seconds. The longest wait between two tries, and so how much later than the broker the monitor may be back.
RETRY_LIMIT = 5.0
# Seconds until a history that takes nothing is tried again.
REFUSED_WAIT = 2.0

TIMESTAMP = b'"timestamp":'
NUMBER = re.compile(rb"\s*(\d{1,12}(?:\.\d{1,9})?)")

logger = logging.getLogger("warren.monitor")


class Refused(Exception):
    """Nothing can be kept now. The text says why and what to do."""


class Records(Protocol):
    """What is done with messages; see :class:`app.monitor.recorder.Recorder`."""

    @property
    def position(self) -> Position | None: ...
    def connected(self, end: int | None) -> None: ...
    def start_over(self) -> None: ...
    def take(self, messages: list[tuple[int, bytes]]) -> None: ...
    def look(self) -> None: ...


class Follower:
    """Takes each message of the log to ``records``, in order; what was taken is never taken again."""

    def __init__(self, url: str, records: Records, stop: Stop, status: Status) -> None:
        self._url = url
        self._records = records
        self._stop = stop
        self._status = status
        # The log's last message, as far as is known, and when that was asked.
        self._end = -1
        self._end_asked = 0.0
        self._per_message = 1.0
        self._look_at = 0.0
        # When the log was lost, and what was said of it.
        self._lost_at: float | None = None
        self._said: str | None = None
        # What was said of a history that takes nothing.
        self._refusal: str | None = None

    def run(self) -> None:
        """Follows the log until the stop flag is set."""
        while not self._stop.is_set():
            try:
                with self._connected() as log:
                    self._follow(log)
            except Unavailable as error:
                self._lost(error)
                self._stop.wait(RETRY_FIRST)
            except Refused as error:
                self._refused(error)
                self._stop.wait(REFUSED_WAIT)
            finally:
                self._status.connected = False

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
        position = self._records.position
        # Nothing is only taken for a new, empty log after a broker has had the time to open an old one.
        end = log.end(EMPTY_WAIT if position is None else ANSWER_TIMEOUT)
        if self._stop.is_set():
            raise Unavailable("stopped")
        if position is not None and (end is None or end < position.offset):
            self._start_over()
            position = None
        self._end, self._end_asked = -1 if end is None else end, monotonic()
        self._records.connected(end)
        log.consume("first" if position is None else position.offset)

    def _start_over(self) -> None:
        logger.warning("the broker's event log is another one than before: starting with its first event")
        self._records.start_over()

    def _follow(self, log: Log) -> None:
        resumed = self._records.position
        self._status.connected = True
        if self._at_end():
            self._caught_up()
        else:
            # Whatever was said before an outage.
            self._status.caught_up = False
        while True:
            messages, drained = self._gather(log)
            if self._stop.is_set():
                # What was gathered comes again; stopping does not wait for it.
                return
            if messages and resumed is not None:
                if not self._goes_on(messages, resumed):
                    return
                resumed = None
            if messages:
                self._records.take(messages)
                self._taken(log, *messages[-1])
                self._status.error = None
            # A broker that is slow is silent in the middle of the log, too.
            if drained and self._at_end():
                self._caught_up()
            # Not while events are missing: the task that seems to hang may have ended in one of them.
            if self._status.caught_up and not self._status.lag_events and monotonic() >= self._look_at:
                self._look_at = monotonic() + LOOK_EVERY
                self._records.look()
                self._well()

    def _gather(self, log: Log) -> tuple[list[tuple[int, bytes]], bool]:
        """Messages for one transaction, and whether there were no more for now."""
        message = log.next_raw(LOOK_EVERY)
        if message is None:
            return [], True
        messages = [message]
        size = len(message[1])
        end = monotonic() + GATHER
        while len(messages) < MESSAGES and size < BYTES:
            left = min(end - monotonic(), DRAINED)
            message = log.next_raw(max(left, 0.0))
            if message is None:
                return messages, left == DRAINED
            messages.append(message)
            size += len(message[1])
        return messages, False

    def _goes_on(self, messages: list[tuple[int, bytes]], resumed: Position) -> bool:
        """Whether the log is the one that was left; takes away what was done already."""
        offset, body = messages[0]
        if offset == resumed.offset:
            if not resumed.is_of(offset, body):
                self._start_over()
                return False
            del messages[0]
        elif offset > resumed.offset + 1:
            first, last = resumed.offset + 1, offset - 1
            logger.warning("events were lost: the log no longer holds its messages %d to %d", first, last)
        return True

    def _taken(self, log: Log, offset: int, body: bytes) -> None:
        """Keeps account of how far behind the log this is."""
        # Its clock may be wrong, to either side; where the log ends is not a matter of clocks.
        behind = max(0.0, time() - newest(body))
        if behind >= AT_ONCE and monotonic() >= self._end_asked + END_EVERY:
            end = log.end(EMPTY_WAIT)
            self._end, self._end_asked = -1 if end is None else end, monotonic()
        if offset >= self._end:
            self._caught_up()
            return
        self._per_message = 0.9 * self._per_message + 0.1 * max(1, body.count(TIMESTAMP))
        self._status.lag_events = int((self._end - offset) * self._per_message)
        self._status.lag_seconds = behind
        if behind > FAR_BEHIND:
            self._status.caught_up = False

    def _at_end(self) -> bool:
        """Whether all is taken that the log was last known to have."""
        position = self._records.position
        return (position.offset if position else -1) >= self._end

    def _caught_up(self) -> None:
        self._status.caught_up = True
        self._status.lag_events = 0
        self._status.lag_seconds = 0.0

    def _refused(self, error: Refused) -> None:
        self._status.error = str(error)
        if self._refusal != str(error):
            self._refusal = str(error)
            logger.error("%s; trying again until it works", error)

    def _well(self) -> None:
        """Takes back what was said of the history, once it has all that the log had when it refused."""
        if self._refusal is not None and self._at_end():
            self._status.error = self._refusal = None
            logger.info("the history is written again")

    def _lost(self, error: Unavailable) -> None:
        """Says what is wrong: once an outage, and again where it turns out that waiting won't help."""
        first = self._lost_at is None
        self._status.connected = False
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


def newest(body: bytes) -> float:
    """When the last event of a message happened, in seconds since 1970; 0 if it does not say."""
    found = NUMBER.match(body, body.rfind(TIMESTAMP) + len(TIMESTAMP)) if TIMESTAMP in body else None
    return float(found[1]) if found else 0.0
