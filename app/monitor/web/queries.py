"""Questions to the history, answered in threads of their own so that the loop never waits for the disk."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from app.monitor.history.schema import damaged
from app.monitor.web.errors import Refused
from app.monitor.web.sources import Reader

__all__ = ["Queries"]

T = TypeVar("T")

# Two: a search through much text leaves the other for what is quick; each costs a connection and its cache.
THREADS = 2
# Questions that wait. More come only when the disk is far too slow for them, and then memory must not grow.
MOST_WAITING = 64

logger = logging.getLogger("warren.monitor")


class Queries:
    """A small pool of threads, each with a reader of its own, opened when it is first needed.

    Args:
        suspect: told SQLite's name for what looks like damage of the file.
    """

    def __init__(self, make: Callable[[], Reader], suspect: Callable[[str], None] = lambda _: None) -> None:
        self._make = make
        self._suspect = suspect
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="query")
        self._mine = threading.local()
        self._waiting = 0
        self._edition = 0
        self._stopped = False

    def __len__(self) -> int:
        """Questions that wait or are being answered."""
        return self._waiting

    def reopen(self) -> None:
        """Says that the history is another file now: readers of the old one answer no further question."""
        self._edition += 1

    async def ask(self, question: Callable[[Reader], T]) -> T:
        """What ``question`` makes of a reader.

        Raises:
            Refused: 503, where the history can't be read now or too many questions wait.
        """
        return await self.run(lambda: self._answer(question))

    async def run(self, work: Callable[[], T]) -> T:
        """What ``work`` returns, done in the pool; it needs no reader."""
        if self._waiting >= MOST_WAITING:
            raise Refused(503, "too many searches at once; try again in a moment", {"Retry-After": "2"})
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except RuntimeError as error:
            if not self._stopped:
                raise
            raise Refused(503, "the monitor is stopping") from error
        except asyncio.CancelledError:
            # Whoever asked is gone. An exception of Tornado's kind, which it does not report as a mistake.
            raise Refused(503, "cancelled") from None
        finally:
            self._waiting -= 1

    def _answer(self, question: Callable[[Reader], T]) -> T:
        try:
            return question(self._reader())
        except sqlite3.DatabaseError as error:
            # The file may have been replaced or be damaged: a new connection sees what is there now.
            self._drop()
            if damaged(error):
                self._suspect(getattr(error, "sqlite_errorname", ""))
            logger.warning("the history can't be read (%s); trying anew with the next request", error)
            raise Refused(
                503, f"the history can't be read now ({error}); try again in a moment", {"Retry-After": "2"}
            ) from error

    def _reader(self) -> Reader:
        if getattr(self._mine, "edition", None) != self._edition:
            self._drop()
        reader: Reader | None = getattr(self._mine, "reader", None)
        if reader is None:
            reader = self._mine.reader = self._make()
            self._mine.edition = self._edition
        return reader

    def _drop(self) -> None:
        reader: Reader | None = getattr(self._mine, "reader", None)
        self._mine.reader = None
        if reader is not None:
            try:
                reader.close()
            except sqlite3.Error:
                logger.debug("a reader of the history did not close", exc_info=True)

    def stop(self) -> None:
        """Ends without waiting for questions that are being answered."""
        self._stopped = True
        self._pool.shutdown(wait=False, cancel_futures=True)
