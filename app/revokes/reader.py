"""The reader of the stream, which tells other threads whether it has taken all that has arrived."""

from __future__ import annotations

import select
from time import monotonic, sleep
from typing import Any

from app.eventlog import Log

__all__ = ["Reader"]

# Seconds that a task is held back at most. What has arrived is taken in far less than one hundredth.
SETTLE_LIMIT = 0.1
# Seconds between two looks; each lets the reader's thread run.
SETTLE_PAUSE = 0.0005


class Reader(Log):
    """A log that one thread reads, and another asks whether it is behind.

    A task that was sent just after its revoke arrives just after it, on another connection. Whichever thread the system
    lets run first, the revoke is to count.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._busy = False
        super().__init__(*args, **kwargs)
        # Of the thread that asks: a poll object serves one at a time.
        self._look = select.poll()
        self._look.register(self._socket, select.POLLIN)

    def _take(self) -> None:
        self._busy = True
        super()._take()

    def _receive(self, timeout: float) -> None:
        # It waits for more only when all has been taken.
        self._busy = False
        super()._receive(timeout)

    def settle(self) -> None:
        """Returns when all that has arrived is taken, at the latest after SETTLE_LIMIT."""
        limit = monotonic() + SETTLE_LIMIT
        while (self._busy or self._look.poll(0)) and monotonic() < limit:
            sleep(SETTLE_PAUSE)
