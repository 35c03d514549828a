"""An event as JSON that every receiver can read."""

from __future__ import annotations

import json
import math
from typing import Any

from app.monitor.handlers.registry import Event

__all__ = ["bounded", "encode"]

# Characters of one value: enough for any traceback that somebody reads, and below what web servers refuse.
LIMIT = 32_000


def bounded(event: Event) -> Event:
    """``event`` with the middle taken out of each text that is too long: what went wrong stands at its end."""
    return {name: shorten(value) for name, value in event.items()}


def shorten(value: Any) -> Any:
    if isinstance(value, str) and len(value) > LIMIT:
        return f"{value[: LIMIT // 2]} ... {value[-LIMIT // 2 :]}"
    return value


def encode(event: Event) -> bytes:
    """``event`` as JSON in ASCII, with null for numbers that JSON does not know."""
    plain = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in event.items()
    }
    return json.dumps(plain, separators=(",", ":"), default=str).encode()
