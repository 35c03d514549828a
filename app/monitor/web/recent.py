"""Answers that many pages ask for, kept for a moment."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from time import monotonic
from typing import Any, TypeVar

__all__ = ["Recent"]

T = TypeVar("T")

# Answers that are kept: charts of some ranges and names, and a few lists.
MOST = 64


class Recent:
    """Answers by what was asked, each for as long as nobody sees that it is old. Used by several threads."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._kept: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()

    def get(self, what: Hashable, seconds: float, make: Callable[[], T]) -> T:
        """The answer to ``what``: the kept one if it is younger than ``seconds``, or what ``make`` returns."""
        with self._lock:
            kept = self._kept.get(what)
        if kept is not None and self._clock() - kept[0] < seconds:
            known: T = kept[1]
            return known
        # Not under the lock: two threads that make the same take no longer than one that waits for the other.
        answer = make()
        with self._lock:
            self._kept[what] = (self._clock(), answer)
            self._kept.move_to_end(what)
            if len(self._kept) > MOST:
                self._kept.popitem(last=False)
        return answer
