"""Everything that is done with messages of the log: history, lines, handlers, metrics and whoever listens live.

What is written to disk for them is written in one transaction.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from time import monotonic, time
from typing import Any

import msgspec

from app.event_types import HEARTBEAT
from app.events.follow import Refused
from app.events.position import Position
from app.events.status import Status
from app.monitor.handlers.delivery import Delivery
from app.monitor.handlers.outbox import enroll, identity, positions, retire
from app.monitor.handlers.registry import Registry
from app.monitor.history import shape
from app.monitor.history.attention import Attention, Limits
from app.monitor.history.clock import rfc3339
from app.monitor.history.retention import prune
from app.monitor.history.schema import FILE, connect, damaged, set_aside
from app.monitor.history.store import History, Told
from app.monitor.history.task import CODES, STATES
from app.monitor.hub import Change, Hub
from app.monitor.metrics import Metrics
from app.monitor.printer import Printer
from app.settings import AppSettings

__all__ = ["Recorder"]

# Seconds between two looks for what is to be forgotten.
PRUNE_EVERY = 60.0
# Seconds of each look that forgetting may take.
PRUNE_FOR = 0.3
# What SQLite says of a damaged index of texts, which its check of the file may not look into.
INDEX_DAMAGED = "SQLITE_CORRUPT_VTAB"
# Its table, which SQLite names in what it says of it.
INDEX = "task_text"
# Messages in a row that may be skipped by a mistake of ours. More of them are no odd messages: going on would skip them all.
SKIPPED = 100
# Changes of one transaction that are told live. Nobody reads more of them at once.
LIVE = 500

logger = logging.getLogger("warren.monitor")

encode = msgspec.json.Encoder().encode


class Recorder:
    """Owns the history. Used by the thread that follows the log.

    Args:
        replaced: called when the history became another file.
    """

    def __init__(
        self,
        settings: AppSettings,
        registry: Registry,
        delivery: Delivery,
        printer: Printer,
        hub: Hub,
        status: Status,
        replaced: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._folder = Path(settings.monitor_dir)
        self._registry = registry
        self._delivery = delivery
        self._printer = printer
        self._hub = hub
        self._status = status
        self._replaced = replaced
        # When each worker was last heard of, by this host's monotonic clock; and since when they can be heard.
        self._heard: dict[str, float] = {}
        self._listening_since = monotonic()
        self._after: dict[str, int] = {}
        # Up to which offset lines are printed: what is taken again, after it could not be written, is not said again.
        self._printed = -1
        self._prune_at = 0.0
        self.metrics = Metrics(status, self._known_workers, self._attention_counts, delivery.stats)
        self._counts: dict[str, int] = {}
        self._skipped = 0
        # After which offset each handler gets events, where the file is gone and no new one could be opened yet.
        self._gone: dict[str, int] | None = None
        self._open()

    def _open(self) -> None:
        self.history = History(self._folder)
        self._identity = identity(self._folder / FILE)
        limits = Limits(
            self._settings.monitor_unclaimed_after,
            self._settings.longest_time_limit,
            self._settings.monitor_stalled_factor,
            {queue: self._settings.time_limit_of(queue) for queue in self._settings.every_queue},
        )
        self._attention = Attention(self.history, limits, self._beats)
        self._after = positions(self.history.connection)
        self._status.tasks = self.history.tasks
        self._status.malformed = self.history.decoder.malformed

    @property
    def position(self) -> Position | None:
        """The last message that is in the history."""
        return self.history.position if self._gone is None else None

    def connected(self, end: int | None) -> None:
        """Says that the log can be heard, and where it ends: what is new there, handlers that are new get.

        Raises:
            Refused
        """
        self._listening_since = monotonic()
        names = self._registry.names
        if set(self._after) == set(names):
            return

        def work() -> list[Told]:
            retire(self.history.connection, names)
            enroll(self.history.connection, names, -1 if end is None else end)
            return []

        self._guarded(lambda: self.history.transaction(work))
        self._after = positions(self.history.connection)

    def start_over(self) -> None:
        """The log is another one than before: all that it holds is new, for handlers too."""

        def work() -> list[Told]:
            self.history.start_over()
            self.history.connection.execute("UPDATE handler SET after = -1")
            return []

        self._guarded(lambda: self.history.transaction(work))
        self._after = dict.fromkeys(self._after, -1)
        self._printed = -1

    def take(self, messages: Sequence[tuple[int, bytes]]) -> None:
        """Does all that is to be done with messages of the log.

        Raises:
            Refused: nothing was done, but lines may have been printed; the same messages are to come again.
            OSError: lines can't be written.
        """
        try:
            told = self._guarded(lambda: self.history.write(messages, self._also))
        except (Refused, OSError, MemoryError):
            raise
        except Exception as error:
            self._take_apart(messages, error)
            return
        self._skipped = 0
        now = monotonic()
        self._heard.update(dict.fromkeys({one.event.hostname or "" for one in told}, now))
        self._spread(told)
        if now >= self._prune_at:
            self.prune()

    def _take_apart(self, messages: Sequence[tuple[int, bytes]], error: Exception) -> None:
        """Takes messages of which one can't be taken, and leaves that out: the next restart would fail with it as well."""
        if len(messages) > 1:
            middle = len(messages) // 2
            self.take(messages[:middle])
            self.take(messages[middle:])
            return
        self._skipped += 1
        if self._skipped > SKIPPED:
            raise error
        offset, body = messages[0]
        logger.exception(
            "message %d of the event log is skipped by a mistake of the monitor's own, please report it: %.500r",
            offset,
            body,
        )
        self.history.decoder.malformed["mistake of the monitor"] += 1
        self._guarded(lambda: self.history.skip(offset, body))

    def look(self) -> None:
        """Looks for tasks that need attention, and for what is to be forgotten. To be called while the log is caught up.

        Raises:
            Refused, OSError: as :meth:`take`.
        """
        if self._gone is None and identity(self._folder / FILE) != self._identity:
            # Nobody would ever notice: SQLite goes on with a file that has no name any more.
            self._leave()
            raise Refused(f"{self._folder / FILE} was removed: it is made again from the event log")
        if self._status.suspect is not None:
            self._guarded(self._inspect)
        told = self._guarded(lambda: self.history.transaction(lambda: self._attention.look(time()), self._also))
        self._counts = self._guarded(self._attention.counts)
        self._spread(told)
        end = monotonic() + PRUNE_FOR
        while self._prune_at <= monotonic() < end:
            self.prune()

    def prune(self) -> None:
        """Forgets what is too old or too much, a piece at a time."""
        settings = self._settings
        more = self._guarded(
            lambda: prune(self.history, time(), settings.monitor_keep_days, settings.monitor_keep_tasks)
        )
        self._prune_at = monotonic() + (0.0 if more else PRUNE_EVERY)
        self._status.tasks = self.history.tasks
        if len(self._heard) > 2 * len(self.history.workers.known) + LIVE:
            self._heard = {name: at for name, at in self._heard.items() if name in self.history.workers.known}

    def close(self) -> None:
        self.history.close()

    def _also(self, told: list[Told]) -> None:
        """What belongs into the same transaction; last of all, the lines."""
        if self._after:
            self._post(told)
        fresh = told
        if told and 0 <= told[0].offset <= self._printed:
            fresh = [one for one in told if one.offset > self._printed]
        self._printer.write(fresh)
        if told and told[-1].offset >= 0:
            self._printed = told[-1].offset

    def _post(self, told: list[Told]) -> None:
        """Puts what handlers want to hear of into their outboxes."""
        connection = self.history.connection
        rows = [
            (handler, self._event(one))
            for one in told
            for handler in self._registry.wanted(one.event.type, one.name)
            if one.offset < 0 or one.offset > self._after.get(handler, -1)
        ]
        if rows:
            connection.executemany("INSERT INTO outbox (handler, event) VALUES (?, ?)", rows)
        self._delivery.settle(connection)

    def _spread(self, told: list[Told]) -> None:
        """Tells those who keep nothing."""
        self._status.tasks = self.history.tasks
        if not told:
            return
        self.metrics.count(told)
        if self._registry.names:
            self._delivery.wake(self._registry.names)
        if self._hub.heard:
            changes = [self._change(one) for one in told[-LIVE:] if one.event.type != HEARTBEAT]
            if len(told) > LIVE:
                changes.insert(0, {"type": "skipped", "count": len(told) - LIVE})
            if changes:
                self._hub.publish(changes)

    def _change(self, told: Told) -> Change:
        event, task, _, _ = told
        if task is None:
            return {
                "type": event.type,
                "name": event.hostname,
                "worker": event.hostname,
                "time": rfc3339(event.timestamp),
            }
        about = shape.summary(task, self.history.words.text)
        code = CODES.get(event.type)
        # The task may have moved on in the same transaction; this is about the event.
        about |= {"type": event.type, "time": rfc3339(event.timestamp)}
        if code is not None and code < len(STATES):
            about["state"] = STATES[code]
        if code:
            about["worker"] = event.hostname
        if event.exception is not None:
            about["exception"] = event.exception
        return about

    def _event(self, told: Told) -> str:
        change = self._change(told)
        if told.task is not None:
            change["traceback"] = told.event.traceback or told.task.traceback
        return encode(change).decode()

    def _beats(self, worker: str) -> bool | None:
        """Whether a worker was heard of lately; None while that can't be said."""
        last, now = self._heard.get(worker, 0.0), monotonic()
        if last > self._listening_since:
            return now - last <= self._settings.monitor_silent_after
        return False if now - self._listening_since > self._settings.monitor_silent_after else None

    def _known_workers(self) -> list[Any]:
        return list(self.history.workers.known.values())

    def _attention_counts(self) -> dict[str, int]:
        return dict(self._counts)

    def _guarded(self, work: Callable[[], Any]) -> Any:
        """``work``, with what the database raises in words; a damaged file is set aside, and made again."""
        try:
            if self._gone is not None:
                self._begin_anew(self._gone)
            return work()
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorname", "").startswith(INDEX_DAMAGED) and self._index_again():
                raise Refused("the history's index of texts was damaged, and is made again") from error
            if damaged(error):
                self._leave()
                set_aside(self._folder / FILE, error)
            elif not isinstance(error, sqlite3.OperationalError):
                raise
            raise Refused(self._in_words(error)) from error

    def _inspect(self) -> None:
        """Looks for damage that a search has seen, in pages that writing may not touch for weeks."""
        seen, self._status.suspect = self._status.suspect, None
        found = self._check()
        # SQLite 3.44 and newer look into the index too.
        if all(INDEX in one for one in found) and (found or str(seen).startswith(INDEX_DAMAGED)):
            found = self._check() if self._index_again() else [*found, "its index of texts can't be made again"]
        if found:
            raise sqlite3.DatabaseError(f"database disk image is malformed: {found[0]}")

    def _check(self) -> list[str]:
        """What SQLite finds wrong with the file."""
        # By another connection, since the writer's may still have the pages as they were.
        with closing(connect(self._folder / FILE, readonly=True)) as connection:
            found = [str(row[0]) for row in connection.execute("PRAGMA quick_check")]
        return [] if found == ["ok"] else found

    def _index_again(self) -> bool:
        """Makes the index of texts anew from the tasks, which may be older than the log; whether it could be."""
        logger.error("the history's index of texts is damaged: making it again, half a minute for a million tasks")
        try:
            self.history.connection.execute("INSERT INTO task_text (task_text) VALUES ('rebuild')")
        except sqlite3.DatabaseError:
            return False
        return True

    def _leave(self) -> None:
        """Closes a file that is of no use any more. What handlers were handed from it they are not handed again."""
        done = self.history.position.offset if self.history.position else -1
        self._gone = {name: max(done, self._after.get(name, -1)) for name in self._registry.names}
        self.history.close()

    def _begin_anew(self, after: dict[str, int]) -> None:
        """Opens a new history in place of one that was left."""
        self._open()
        # Of searches that still had the old file open.
        self._status.suspect = None
        for name, offset in after.items():
            enroll(self.history.connection, [name], offset)
        self._after, self._gone = after, None
        self._replaced()

    def _in_words(self, error: sqlite3.DatabaseError) -> str:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith("SQLITE_FULL"):
            return f"the volume of {self._folder} is full: free space; nothing is lost, the event log waits"
        if name.startswith(("SQLITE_READONLY", "SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_PERM")):
            return f"{self._folder} can't be written ({error}): give it to this user, or look at its disk"
        return f"the history takes nothing ({error})"
