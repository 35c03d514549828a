"""What the web server needs of the history, so that it can be tried without one."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Protocol, TypeAlias

from app.monitor.history.reader import SORTS, Filter, Page

__all__ = ["ATTENTION", "FINAL", "SORTS", "STATES", "Filter", "Json", "Page", "Reader"]

Json: TypeAlias = dict[str, Any]

# Celery's names, in the order of a task's life.
STATES = ("PENDING", "RECEIVED", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED", "REJECTED")
FINAL = frozenset({"SUCCESS", "FAILURE", "REVOKED", "REJECTED"})
ATTENTION = ("unclaimed", "stalled", "orphaned")


class Reader(Protocol):
    """Answers questions about the history; used by one thread only."""

    def tasks(self, wanted: Filter, /) -> Page: ...
    def task(self, id: str, /) -> Json | None: ...
    def family(self, root: str, /) -> list[Json]: ...
    def workers(self) -> list[Json]: ...
    def chart(self, since: datetime, until: datetime, points: int, name: str | None, /) -> list[Json]: ...
    def counts(self) -> Json: ...
    def names(self) -> list[str]: ...
    def queues(self) -> list[str]: ...
    def close(self) -> None: ...
