"""What a worker knows to be revoked, for the two threads that add to it: Celery's main loop, and the stream's reader.

Celery's own structures are made for one thread. Its modules hold references to them, so they are mended where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import heappush
from threading import RLock
from time import monotonic
from typing import Any

from celery.utils.collections import LimitedSet
from celery.worker import state
from celery.worker.control import Panel

__all__ = ["Known", "add_headers", "has", "prepare"]

BY_HEADERS = "revoke_by_stamped_headers"

lock = RLock()


class Known(LimitedSet):
    """Celery's set, but an id that is added again is in it all the time.

    Celery takes it out first. Whoever looks in that moment (a task arrives while the reader adds what a broadcast has
    told already) would run the task.
    """

    settle: Callable[[], None] | None = None
    """Returns when what has arrived of the stream is in the set; called before an id is taken to be unknown."""

    def __contains__(self, item: Any) -> bool:
        if item in self._data:
            return True
        if (settle := self.settle) is None:
            return False
        settle()
        return item in self._data

    def add(self, item: Any, now: float | None = None) -> None:
        with lock:
            entry = (monotonic() if now is None else float(now), next(self._seq), item)
            self._data[item] = entry
            heappush(self._heap, entry)
            self._maybe_refresh_heap()
            if self.maxlen and len(self._data) >= self.maxlen:
                self.purge()

    def update(self, other: Iterable[Any]) -> None:
        with lock:
            super().update(other)

    def discard(self, item: Any) -> None:
        with lock:
            super().discard(item)

    pop_value = discard

    def purge(self, now: float | None = None) -> None:
        with lock:
            super().purge(now)

    def pop(self, default: Any = None) -> Any:
        with lock:
            return super().pop(default)

    def clear(self) -> None:
        with lock:
            super().clear()

    def as_dict(self) -> dict[Any, float]:
        with lock:
            return dict(super().as_dict())

    def __iter__(self) -> Iterator[Any]:
        with lock:
            return iter(super().__iter__())


def prepare(most: int, seconds: int) -> None:
    """Has this worker remember ``most`` ids, each for ``seconds`` at least unless there are more; safe to repeat."""
    state.revoked.__class__ = Known
    state.revoked.maxlen = most
    state.revoked.expires = seconds
    command: Callable[..., Any] = Panel.data[BY_HEADERS]
    if not hasattr(command, "one_at_a_time"):
        Panel.data[BY_HEADERS] = one_at_a_time(command)


def one_at_a_time(command: Callable[..., Any]) -> Callable[..., Any]:
    """``command``, which reads a list of stamps and writes a longer one, with nobody in between."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with lock:
            return command(*args, **kwargs)

    run.one_at_a_time = True  # type: ignore[attr-defined]
    return run


def has(id: str) -> bool:
    """Whether a task is known to be revoked, without waiting for what has arrived meanwhile."""
    return id in state.revoked._data


def add_headers(headers: Mapping[str, Sequence[str]]) -> bool:
    """Adds stamps, in Celery's own form; whether one of them is new."""
    new = False
    with lock:
        for header, stamps in headers.items():
            known = state.revoked_stamps.get(header) or []
            # A broadcast's, as its sender has written it.
            listed = list(known) if isinstance(known, list | tuple | set) else [known]
            if more := [stamp for stamp in stamps if stamp not in listed]:
                state.revoked_stamps[header] = listed + more
                new = True
    return new
