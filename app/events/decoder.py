"""Messages of the log as typed events. What is malformed is counted, told once a kind, and skipped."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator
from time import time
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from app.event_types import HEARTBEAT, LOGGED, WORKER_TYPES

__all__ = ["Decoder", "Event"]

logger = logging.getLogger("warren.monitor")

OF_TASKS = frozenset(LOGGED)
OF_WORKERS = frozenset((*WORKER_TYPES, HEARTBEAT))

# Bytes of one message. Workers put 24 events into one, each with a traceback of some 10 KB at worst.
MESSAGE_LIMIT = 4_000_000
# Characters of ids and names, which stand in indexes: Celery's own ids have 36.
NAME_LIMIT = 500
# Characters of arguments, results and exceptions. Celery cuts the first two at 1,024 by itself.
TEXT_LIMIT = 10_000
# Characters of a traceback: what recursion leaves is longer, and repeats itself in the middle.
TRACEBACK_LIMIT = 50_000
# Seconds ahead of this host's clock. A clock that is wrong by a time zone or two is still believed, one that is not set
# at all isn't: its tasks would head every list for years.
FUTURE_LIMIT = 86_400

# Seconds: more than a float's precision in this century.
MOMENT = 1e-6

# Fits SQLite's integers with room for adding up.
Count = Annotated[int, Meta(ge=0, le=2**53)]


class Event(msgspec.Struct, gc=False, omit_defaults=True):
    """What the history reads of an event; Celery's events have more. ``timestamp`` in seconds since 1970."""

    type: str
    timestamp: float
    uuid: str | None = None
    hostname: str | None = None
    name: str | None = None
    args: str | None = None
    kwargs: str | None = None
    retries: Count | None = None
    eta: str | None = None
    expires: str | None = None
    queue: str | None = None
    routing_key: str | None = None
    root_id: str | None = None
    parent_id: str | None = None
    result: str | None = None
    runtime: float | None = None
    exception: str | None = None
    traceback: str | None = None
    terminated: bool | None = None
    signum: int | str | None = None
    expired: bool | None = None
    requeue: bool | None = None
    active: Count | None = None
    processed: Count | None = None
    pid: Count | None = None
    loadavg: list[float] | None = None
    sw_ident: str | None = None
    sw_ver: str | None = None


LONG = {
    **dict.fromkeys(("args", "kwargs", "result", "exception"), TEXT_LIMIT),
    "traceback": TRACEBACK_LIMIT,
    **dict.fromkeys(
        ("eta", "expires", "queue", "routing_key", "root_id", "parent_id", "signum", "sw_ident", "sw_ver"), NAME_LIMIT
    ),
}
# Fields that senders other than Celery fill with what is no text: shown as their JSON.
TEXTS = ("args", "kwargs", "result", "exception", "traceback", "eta", "expires", "signum")


class Decoder:
    """Turns bodies of messages into events, ``of`` the type named: it may have more fields than the monitor needs."""

    def __init__(self, of: type[Event] = Event) -> None:
        self.malformed: Counter[str] = Counter()
        """What was skipped, by kind."""
        self._of = of
        # Of a variable, which type checkers don't take for a type.
        self._decode: Callable[[bytes], list[Event] | Event] = msgspec.json.Decoder(list[of] | of).decode  # type: ignore[valid-type]
        self._said: set[str] = set()
        self._now = time()

    def events(self, offset: int, body: bytes) -> list[Event]:
        """The events of a message that are well-formed."""
        self._now = max(self._now, time())
        if len(body) > MESSAGE_LIMIT:
            self._skip("too large", offset, body, f"{len(body):,} bytes")
            return []
        try:
            found = self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # Not at once malformed: Python's json writes NaN and lone surrogates, and other senders other types.
            return list(self._salvage(offset, body))
        if len(body) > TEXT_LIMIT:
            for event in found if isinstance(found, list) else [found]:
                shorten(event)
        if isinstance(found, list):
            for event in found:
                if self._flaw(event):
                    return [event for event in found if self._sound(event, offset, body)]
            return found
        return [found] if self._sound(found, offset, body) else []

    def _flaw(self, event: Event) -> str | None:
        """The kind of what is wrong with an event, or None."""
        flaw = None
        if event.type in OF_TASKS:
            if not event.uuid:
                flaw = "no uuid"
            elif len(event.uuid) > NAME_LIMIT or (event.name is not None and len(event.name) > NAME_LIMIT):
                flaw = "id or name too long"
        elif event.type not in OF_WORKERS:
            flaw = "unknown type"
        elif not event.hostname:
            flaw = "no hostname"
        if event.queue is None and event.routing_key:
            # Of a delayed task Celery tells only the key, whose last word is the queue's name: those have no dots.
            event.queue = event.routing_key.rpartition(".")[2] or None
        if event.hostname is not None and len(event.hostname) > NAME_LIMIT:
            flaw = "id or name too long"
        if event.runtime is not None and not 0 <= event.runtime < math.inf:
            event.runtime = None
        if not 0 < event.timestamp < self._now:
            if not event.timestamp > 0:
                flaw = "wrong types"
            elif event.timestamp > self._now + FUTURE_LIMIT:
                flaw = "clock in the future"
            else:
                # Each a little later than the one before, so that their order stays.
                event.timestamp = self._now = self._now + MOMENT
        return flaw

    def _sound(self, event: Event, offset: int, body: bytes) -> bool:
        kind = self._flaw(event)
        if kind is not None:
            self._skip(kind, offset, body, f"{event.type:.100}")
        return kind is None

    def _salvage(self, offset: int, body: bytes) -> Iterator[Event]:
        """The events of a message that is not as Celery writes it."""
        try:
            data = json.loads(body)
        except (ValueError, RecursionError) as error:
            self._skip("not JSON", offset, body, str(error))
            return
        for item in data if isinstance(data, list) else [data]:
            if not isinstance(item, dict):
                self._skip("not an object", offset, body, type(item).__name__)
            elif not isinstance(item.get("type"), str):
                self._skip("no type", offset, body, "")
            elif item["type"] not in OF_TASKS and item["type"] not in OF_WORKERS:
                self._skip("unknown type", offset, body, f"{item['type']:.100}")
            else:
                try:
                    event = msgspec.convert({key: tidy(key, value) for key, value in item.items()}, self._of)
                except msgspec.ValidationError as error:
                    self._skip(
                        "no uuid" if "uuid" in item and item["uuid"] is None else "wrong types",
                        offset,
                        body,
                        str(error),
                    )
                else:
                    shorten(event)
                    if self._sound(event, offset, body):
                        yield event

    def _skip(self, kind: str, offset: int, body: bytes, detail: str) -> None:
        self.malformed[kind] += 1
        if kind not in self._said:
            self._said.add(kind)
            logger.warning(
                "an event is skipped (%s: %s) at offset %d of the log: %.200r; more of this kind are only counted",
                *(kind, " ".join(detail.split())[:200], offset, body),
            )


def shorten(event: Event) -> None:
    """Cuts texts that are too long in the middle."""
    for field, limit in LONG.items():
        value = getattr(event, field)
        if isinstance(value, str) and len(value) > limit:
            setattr(event, field, f"{value[: limit * 2 // 3]} ... {value[-limit // 4 :]}")


def tidy(key: str, value: Any) -> Any:
    """A field's value without what can't be stored: lone surrogates, NaN, and objects where text is expected."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if key in TEXTS and value is not None and not isinstance(value, str):
        value = json.dumps(value, default=str)[: TRACEBACK_LIMIT * 2]
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "backslashreplace").decode()
    return value
