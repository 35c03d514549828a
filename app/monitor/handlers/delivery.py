"""A thread a handler: takes what waits for it, hands it over, tries again, and notes what is done."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from time import monotonic

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential_jitter

from app.eventlog import Stop
from app.monitor.handlers.failure import reason, tidy
from app.monitor.handlers.outbox import BOUND, Outbox, identity, trim
from app.monitor.handlers.registry import FIELDS, Event, Handler, Registry
from app.monitor.history.schema import connect

__all__ = ["Delivery", "HandlerStats"]

# Seconds. From "it was only restarting" to "once in five minutes harms nobody, and is soon enough after a weekend".
RETRY_FIRST = 1.0
RETRY_LIMIT = 300.0
# Events whose delivery is not noted yet, and seconds: what a SIGKILL repeats at most.
NOTE_EVERY = 100
NOTE_AFTER = 1.0
# Seconds that a stopping thread waits for the writer's lock; what it can't note then is repeated.
STOP_PATIENCE = 0.3
# Seconds until a database that failed is tried again.
REOPEN_AFTER = 1.0
# Seconds between two lines on the same failing handler.
SAY_EVERY = 60.0
# Seconds between two looks at how much waits. At 50,000 events a second a handler is half a million over its bound.
TRIM_EVERY = 10.0

logger = logging.getLogger("warren.monitor")

Pause = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class HandlerStats:
    """What became of a handler's events since this process started.

    ``delivered``, ``given_up`` (its retries were used up), ``dropped`` (too many waited) and ``waiting`` (now) count
    events, ``failed`` attempts. ``last_error`` says why the last attempt failed, None once one has succeeded.
    """

    delivered: int
    failed: int
    given_up: int
    dropped: int
    waiting: int
    last_error: str | None


class Seldom:
    """Lets a line through at most once in ``every`` seconds, and counts the others."""

    def __init__(self, every: float = SAY_EVERY) -> None:
        self._every = every
        self._next = 0.0
        self.kept_back = 0

    def now(self) -> bool:
        if monotonic() < self._next:
            self.kept_back += 1
            return False
        self._next = monotonic() + self._every
        return True

    def others(self) -> str:
        """Words on those that were kept back since the last line."""
        count, self.kept_back = self.kept_back, 0
        return f" ({count} more since the last line)" if count else ""


class Unwell(Exception):
    """An attempt failed; the cause says why."""


class Courier:
    """Brings one handler its events, on a thread of its own."""

    def __init__(self, path: Path, handler: Handler, stop: Stop, pause: Pause) -> None:
        self.handler = handler
        self.delivered = self.failed = self.given_up = self.dropped = self.waiting = 0
        self.last_error: str | None = None
        self.bell = Flag()
        # The last key that is done, in which file, and how many are done but not deleted, since when.
        self.done = 0
        self.identity: tuple[int, int] | None = None
        self.unnoted = 0
        self._unnoted_since = 0.0
        self._path = path
        self._stop = stop
        self._pause = pause
        self._failure_line, self._given_up_line = Seldom(), Seldom()
        # Failed attempts since the last that succeeded, and whether that was said.
        self._failures = 0
        self._failure_said = False
        self._stuck_since: float | None = None
        self._stuck_said = False
        self.thread = Thread(target=self.run, name=f"handler {handler.name}", daemon=True)

    def run(self) -> None:
        """Delivers until the stop flag is set."""
        while not self._stop.is_set():
            try:
                with closing(Outbox(self._path, self.handler.name)) as outbox:
                    self._serve(outbox)
            except sqlite3.Error as error:
                self._say_stuck(error)
                self._pause(REOPEN_AFTER)
            except Exception:
                # A thread that ended would let events pile up in silence.
                logger.exception("delivery to %s failed by a mistake of the monitor's own", self.handler.name)
                self._pause(REOPEN_AFTER)

    def _serve(self, outbox: Outbox) -> None:
        """Delivers from one open file, until another takes its place or the stop flag is set."""
        if outbox.identity != self.identity:
            # In this order: meanwhile `settle` must not take the progress in one file for that in another.
            self.unnoted, self.done, self.identity = 0, 0, outbox.identity
        # First of all: while nothing can be noted, nothing more is delivered, so that little is ever repeated.
        self._note(outbox)
        try:
            while not (self._stop.is_set() or outbox.moved()):
                self.bell.clear()
                rows = outbox.read(self.done)
                self._say_free()
                for key, text in rows:
                    if self._stop.is_set() or not self._deliver(outbox, key, text):
                        return
                    self._finished(key)
                    if self._until_note() <= 0:
                        self._note(outbox)
                if not rows:
                    self.bell.wait(self._until_note() if self.unnoted else None)
                    if self._until_note() <= 0:
                        self._note(outbox)
        finally:
            # Whatever ends this: what is done need not be repeated.
            with suppress(sqlite3.Error):
                self._note(outbox)

    def _finished(self, key: int) -> None:
        self.done = key
        if not self.unnoted:
            self._unnoted_since = monotonic()
        self.unnoted += 1

    def _until_note(self) -> float:
        """Seconds until progress is to be noted."""
        if self.unnoted >= NOTE_EVERY:
            return 0.0
        return self._unnoted_since + NOTE_AFTER - monotonic() if self.unnoted else NOTE_AFTER

    def _note(self, outbox: Outbox) -> None:
        """Removes what is done. While the history's writer has the lock, this waits: for the lock, or for it to do so."""
        patience = monotonic() + STOP_PATIENCE
        while self.unnoted and not outbox.moved():
            try:
                outbox.delete(self.done)
                break
            except sqlite3.OperationalError as error:
                if not is_busy(error) or (self._stop.is_set() and monotonic() >= patience):
                    raise
                self._say_stuck(error)
        self.unnoted = 0

    def _deliver(self, outbox: Outbox, key: int, text: str) -> bool:
        """Whether the event is done with: delivered, or given up. False if the monitor stops first."""
        try:
            event = json.loads(text)
            retries = self.handler.retries(event["type"], event.get("name") or "")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            logger.error("event %d of handler %s is no event (%s), and skipped", key, self.handler.name, reason(error))
            self.given_up += 1
            return True
        retrying = Retrying(
            retry=retry_if_exception_type(Unwell),
            wait=wait_exponential_jitter(RETRY_FIRST, RETRY_LIMIT),
            stop=lambda state: self._stop.is_set() or (retries is not None and state.attempt_number > retries),
            before_sleep=lambda state: self._before_pause(state, outbox, event),
            sleep=self._pause,
            reraise=True,
        )
        try:
            retrying(self._attempt, key, text)
        except Unwell as unwell:
            if self._stop.is_set():
                return False
            self.given_up += 1
            self._say_given_up(unwell, event)
        return True

    def _attempt(self, key: int, text: str) -> None:
        if self._stop.is_set():
            raise Unwell
        try:
            # Read anew for each attempt: the one before may have changed it.
            self.handler.call({**dict.fromkeys(FIELDS), **json.loads(text), "delivery": key})
        except BaseException as error:
            # Also SystemExit: one handler's wish to end is no reason to end the monitor, nor this thread.
            if not self._stop.is_set():
                self.failed += 1
                self._failures += 1
                self.last_error = reason(error)
            raise Unwell from error
        self.delivered += 1
        self.last_error = None
        self._say_working()

    def _before_pause(self, state: RetryCallState, outbox: Outbox, event: Event) -> None:
        unwell = state.outcome.exception() if state.outcome else None
        self._say_failing(unwell, event, state.upcoming_sleep)
        # It may last for days: what is done until here need not be repeated after them.
        self._note(outbox)

    def _say_failing(self, unwell: BaseException | None, event: Event, pause: float) -> None:
        if self._failure_line.now():
            logger.warning(
                "handler %s failed at %s: %s; trying again in %.0f s%s",
                *(self.handler.name, about(event), why(unwell), pause, self._failure_line.others()),
            )
            self._failure_said = True

    def _say_given_up(self, unwell: Unwell, event: Event) -> None:
        if self._given_up_line.now():
            logger.error(
                "handler %s failed at %s: %s; its retries are used up, the event is dropped%s",
                *(self.handler.name, about(event), why(unwell), self._given_up_line.others()),
            )

    def _say_working(self) -> None:
        if self._failure_said:
            logger.info("handler %s works again, after %d failures", self.handler.name, self._failures)
        self._failures, self._failure_said = 0, False

    def _say_stuck(self, error: sqlite3.Error) -> None:
        now = monotonic()
        if self._stuck_since is None:
            self._stuck_since = now
        # That another thread writes is no news, unless it never ends.
        patience = SAY_EVERY if is_busy(error) else 0.0
        if not self._stuck_said and not self._stop.is_set() and now >= self._stuck_since + patience:
            logger.warning(
                "handler %s waits: %s can't be read or written (%s); look whether its volume has room. "
                "What was delivered last may be repeated",
                *(self.handler.name, self._path, tidy(str(error))),
            )
            self._stuck_said = True

    def _say_free(self) -> None:
        if self._stuck_said:
            logger.info("handler %s goes on", self.handler.name)
        self._stuck_since, self._stuck_said = None, False


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection has the lock, which is no fault."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def about(event: Event) -> str:
    return f"{event['type']} of {tidy(str(event.get('id') or event.get('worker')))}"


def why(unwell: BaseException | None) -> str:
    cause = unwell.__cause__ if unwell else None
    return reason(cause) if cause else "unknown"


class Delivery:
    """Hands waiting events to all handlers of a registry, each at its own pace.

    Args:
        path: the history's database.
        stop: ends everything when it is set.
        pause: waits so many seconds, less if the stop flag is set; for tests.
    """

    def __init__(self, path: Path, registry: Registry, stop: Stop, pause: Pause | None = None) -> None:
        self._path = path
        self._stop = stop
        self._couriers = {
            one.name: Courier(path, one, stop, self._wait if pause is None else pause) for one in registry.handlers
        }
        self._trim_at = 0.0

    def _wait(self, seconds: float) -> None:
        self._stop.wait(seconds)

    def start(self) -> None:
        for courier in self._couriers.values():
            courier.thread.start()

    def wake(self, names: Iterable[str]) -> None:
        """Says that there is something new for these handlers: after the transaction that brought it."""
        for name in names:
            if courier := self._couriers.get(name):
                courier.bell.set()

    def settle(self, connection: sqlite3.Connection) -> None:
        """Notes progress in a transaction of the history's writer, and drops what waits beyond the bound.

        The threads do the first themselves, but while a flood of events keeps the writer busy they would have to wait for
        its lock. At most 100 rows a handler; microseconds where there is nothing to do.
        """
        current = identity(self._path)
        for name, courier in self._couriers.items():
            if courier.unnoted and courier.identity == current:
                connection.execute("DELETE FROM outbox WHERE handler = ? AND key <= ?", (name, courier.done))
        if monotonic() >= self._trim_at:
            self._trim_at = monotonic() + TRIM_EVERY
            for name, courier in self._couriers.items():
                if dropped := trim(connection, name):
                    courier.dropped += dropped
                    logger.error(
                        "more than %d events wait for handler %s: dropped the oldest %d; it last failed with: %s",
                        *(BOUND, name, dropped, courier.last_error or "nothing, it is too slow"),
                    )

    def stats(self) -> dict[str, HandlerStats]:
        """Counts by handler. Counting what waits takes some 30 ms for each million."""
        with suppress(sqlite3.Error), closing(connect(self._path, readonly=True)) as connection:
            for name, courier in self._couriers.items():
                courier.waiting = connection.execute(
                    "SELECT count(*) FROM outbox WHERE handler = ? AND key > ?", (name, courier.done)
                ).fetchone()[0]
        return {
            name: HandlerStats(one.delivered, one.failed, one.given_up, one.dropped, one.waiting, one.last_error)
            for name, one in self._couriers.items()
        }

    def stop(self, timeout: float) -> None:
        """Ends all threads: those that are in the middle of a delivery get half of ``timeout`` seconds to end it.

        A handler that hangs does not hold this up; what it was given comes again with the next start.
        """
        self._stop.set()
        now = monotonic()
        for courier in self._couriers.values():
            courier.bell.set()
        self._join(now + timeout / 2)
        for courier in self._couriers.values():
            if courier.thread.is_alive():
                courier.handler.close()
        self._join(now + timeout)

    def _join(self, until: float) -> None:
        for courier in self._couriers.values():
            if courier.thread.ident is not None:
                courier.thread.join(max(0.0, until - monotonic()))
