"""One message of the queue `dead_letters`: which task it is, and why it is there."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

__all__ = ["Letter", "letter_of"]


@dataclass(frozen=True, slots=True)
class Letter:
    """One message of the queue."""

    tag: int
    id: str
    """The task's; of a message that names none, one made of its content."""
    name: str | None
    reason: str
    """rejected, delivery_limit, expired or maxlen, as RabbitMQ calls them; or unroutable: there was no queue for it."""
    queue: str
    """Where it came from; of one that is unroutable, where it was to go."""
    count: int
    """How often it became a dead letter."""
    time: datetime | None
    """When it last did; RabbitMQ does not tell of those that are unroutable."""
    headers: dict[str, Any]
    properties: dict[str, Any]
    body: bytes

    @property
    def arguments(self) -> tuple[Any, Any] | None:
        """Positional and named arguments; None where the body is not one of Celery's in JSON."""
        try:
            decoded = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        if isinstance(decoded, list) and len(decoded) == 3 and isinstance(decoded[1], dict):
            return decoded[0], decoded[1]
        if isinstance(decoded, dict) and "args" in decoded:
            return decoded["args"], decoded.get("kwargs", {})
        return None

    @property
    def deaths(self) -> list[dict[str, Any]]:
        return [one for one in self.headers.get("x-death") or [] if isinstance(one, dict)]


def letter_of(message: Any) -> Letter:
    properties = dict(message.properties)
    headers = dict(properties.pop("application_headers", None) or {})
    body = message.body if isinstance(message.body, bytes) else str(message.body).encode("utf-8", "surrogateescape")
    deaths = [one for one in headers.get("x-death") or [] if isinstance(one, dict)]
    info = message.delivery_info
    if deaths:
        # The broker puts the latest first.
        death = deaths[0]
        reason, queue, count = str(death.get("reason")), str(death.get("queue")), int(death.get("count", 1))
        time = moment(death.get("time"))
    else:
        reason, count, time = "unroutable", 1, None
        queue = str(info.get("routing_key") or "").rpartition(".")[2]
    given = headers.get("id") or first_protocol(body).get("id") or properties.get("correlation_id")
    name = headers.get("task") or first_protocol(body).get("task")
    return Letter(
        tag=info["delivery_tag"],
        id=str(given) if given else f"no-id-{hashlib.sha256(repr(sorted(headers)).encode() + body).hexdigest()[:12]}",
        name=str(name) if name else None,
        reason=reason,
        queue=queue,
        count=count,
        time=time,
        headers=headers,
        properties=properties,
        body=body,
    )


def first_protocol(body: bytes) -> dict[str, Any]:
    """The fields of a task in Celery's first protocol, which has them in the body."""
    if not body.startswith(b"{"):
        return {}
    try:
        decoded = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return decoded if isinstance(decoded, dict) else {}


def moment(value: Any) -> datetime | None:
    """A time of AMQP, which are in UTC and don't say so."""
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value
