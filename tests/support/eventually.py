"""Waiting for facts, never for time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, TypeVar

__all__ = ["eventually"]

T = TypeVar("T")

# Seconds between two looks.
INTERVAL = 0.05


def eventually(
    fact: Callable[[], T | Literal[False] | None], timeout: float = 60, describe: str | Callable[[], str] = ""
) -> T:
    """The first true value of ``fact``, which is asked again and again; an exception counts as "not yet".

    Raises:
        AssertionError: there was none within ``timeout`` seconds. ``describe`` says what was waited for.
    """
    limit = time.monotonic() + timeout
    seen: object
    while True:
        try:
            value = fact()
            if value:
                return value
            seen = value
        except Exception as error:  # noqa: BLE001, RUF100 - a broker that is away raises all kinds
            seen = error
        if time.monotonic() > limit:
            what = describe() if callable(describe) else describe
            raise AssertionError(f"not within {timeout:g} s: {what or fact}; last seen: {seen!r}")
        time.sleep(INTERVAL)
