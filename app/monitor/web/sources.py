"""What the web server needs of the history, so that it can be tried without one."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Protocol, TypeAlias

from app.monitor.history import task
from app.monitor.history.filter import SORTS, Filter, Page
from app.monitor.history.task import STATES

__all__ = ["ATTENTION", "FINAL", "SORTS", "STATES", "Filter", "Json", "Page", "Reader"]

Json: TypeAlias = dict[str, Any]

FINAL = frozenset(STATES[code] for code in task.FINAL)
ATTENTION = task.ATTENTION[1:]


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
