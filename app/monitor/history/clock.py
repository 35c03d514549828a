"""Times as text: RFC 3339 in UTC, to the millisecond; and ages such as ``15m``."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

__all__ = ["parse_time", "read_time", "rfc3339"]

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
AGE = re.compile(r"(\d{1,9})\s*([smhdw])")


def rfc3339(stamp: float | None) -> str | None:
    """``2026-11-22T13:20:01.123Z`` for seconds since 1970; None for None and for what no calendar has."""
    if stamp is None:
        return None
    try:
        second, microseconds = divmod(round(stamp * 1e6), 1_000_000)
        return f"{to_the_second(second)}.{microseconds // 1000:03}Z"
    except (ValueError, OverflowError, OSError):
        return None


# A line is written for each event, and thousands of events happen in a second.
@lru_cache(256)
def to_the_second(stamp: int) -> str:
    return datetime.fromtimestamp(stamp, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def read_time(text: str | None) -> datetime | None:
    """What :func:`rfc3339` has written, or a sender in that form; None for None and for what is no time."""
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None


def parse_time(text: str) -> datetime:
    """A time, or the time an age ago: ``2026-11-22T13:20``, ``2026-11-22``, ``90s``, ``15m``, ``1h``, ``2d``.

    What names no time zone is UTC, as all times that are shown.

    Raises:
        ValueError: it is neither.
    """
    text = text.strip()
    try:
        if age := AGE.fullmatch(text):
            return datetime.now(UTC) - timedelta(**{UNITS[age[2]]: int(age[1])})
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is no time; write an age such as 90s, 15m, 1h or 2d, or 2026-11-22T13:20Z"
        ) from None
