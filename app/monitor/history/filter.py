"""What may be asked of the history, and the pages that answer it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeAlias

import msgspec

from app.monitor.history.task import ATTENTION, STATES

__all__ = [
    "LIMIT",
    "SORTED_AMONG",
    "SORTS",
    "Filter",
    "Page",
    "Place",
    "Row",
    "check",
    "decode_cursor",
    "encode_cursor",
]

Row: TypeAlias = dict[str, Any]

# Tasks on a page.
LIMIT = 1_000
# Tasks among which a search by runtime or wait sorts: those that match and changed last.
SORTED_AMONG = 5_000
SORTS = ("-time", "time", "-runtime", "runtime", "-wait", "wait")


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks, and in which order. What is empty filters nothing."""

    states: tuple[str, ...] = ()
    attention: tuple[str, ...] = ()
    """Any of unclaimed, stalled, orphaned; "any" for all of them."""
    name: str | None = None
    """Exact, or a pattern with ``*``."""
    worker: str | None = None
    queue: str | None = None
    since: datetime | None = None
    """Changed last at this time or later; ``until``: before it."""
    until: datetime | None = None
    text: str | None = None
    """A part of arguments, result, exception or traceback in any case; or a whole id."""
    root: str | None = None
    sort: str = "-time"
    """``-time`` or ``time``; by runtime or wait among the 5,000 that changed last."""
    limit: int = 50
    cursor: str | None = None


class Page(msgspec.Struct):
    """What was found, and where to go on; a page that is not full may have more behind it."""

    tasks: list[Row]
    next: str | None


class Place(msgspec.Struct, array_like=True, frozen=True):
    """Where a search goes on: behind a task (time, key), or behind so many of a sorted list."""

    time: float
    key: int
    skip: int = 0


def check(filter: Filter) -> None:
    """Raises ValueError with one line for the first part of ``filter`` that makes no sense."""
    if not 1 <= filter.limit <= LIMIT:
        raise ValueError(f"limit must be 1 to {LIMIT}")
    if filter.sort not in SORTS:
        raise ValueError(f"sort must be one of {', '.join(SORTS)}")
    for state in filter.states:
        if state not in STATES:
            raise ValueError(f"{state!r} is no state; they are {', '.join(STATES)}")
    for one in filter.attention:
        if one not in {"any", *ATTENTION[1:]}:
            raise ValueError(f"attention must be any, {', '.join(ATTENTION[1:])}; not {one!r}")
    if filter.text and filter.sort != "-time":
        raise ValueError("a search for text is always newest first: leave out sort")


def encode_cursor(place: Place) -> str:
    return f"{place.time!r}_{place.key}_{place.skip}"


def decode_cursor(text: str | None) -> Place | None:
    if not text:
        return None
    try:
        stamp, key, skip = text.split("_")
        place = Place(float(stamp), int(key), int(skip))
    except ValueError:
        raise ValueError("cursor must be what `next` of the page before said") from None
    if not (abs(place.time) < 1e12 and 0 <= place.key < 2**62 and 0 <= place.skip <= SORTED_AMONG):
        raise ValueError("cursor must be what `next` of the page before said")
    return place
