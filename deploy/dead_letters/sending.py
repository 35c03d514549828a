"""Sends a dead letter once more, as if it had never died."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from datetime import datetime
from typing import Any

import amqp

from app.monitor.history.task import moment
from deploy.dead_letters.letter import Letter
from deploy.dead_letters.reading import connect
from deploy.definitions import TASKS
from deploy.session import Session

__all__ = ["Sender", "fresh"]

# What RabbitMQ wrote on its way here, and what would make it send copies elsewhere.
STAMPS = re.compile(r"^(x-(death|(first|last)-death-.*|delivery-count|acquired-count)|CC|BCC)$")
# Properties that would not be true of the new message, or that the broker would refuse.
DROPPED = {"user_id", "expiration"}
# Seconds. The broker takes thousandths; a full disk makes it wait for ever.
CONFIRM_PATIENCE = 5


def fresh(letter: Letter, now: float) -> dict[str, Any]:
    """The letter's headers without its past. What has expired is sent to run, so it does not expire again."""
    headers = {key: value for key, value in letter.headers.items() if not STAMPS.match(key)}
    expires = headers.get("expires")
    if isinstance(expires, str) and 0 < moment(expires) < now:
        headers["expires"] = None
    return headers


class Sender:
    """Publishes as user producer, each message confirmed.

    Raises:
        OSError, amqp.AMQPError: as py-amqp, also when the broker does not confirm; the letter may have arrived then.
    """

    def __init__(self, s: Session) -> None:
        self._session = s
        self._stack = contextlib.ExitStack()
        self._channel: Any = None

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def send(self, letter: Letter, queue: str) -> None:
        """Returns when the broker has the task on disk."""
        if self._channel is None:
            self._channel = self._stack.enter_context(connect(self._session, "producer")).channel()
            self._channel.confirm_select()
        properties = {key: value for key, value in letter.properties.items() if key not in DROPPED}
        properties |= {"application_headers": fresh(letter, time.time()), "delivery_mode": 2}
        # Before a worker can tell that it has it.
        now = time.time()
        self._publish(amqp.Message(letter.body, **properties), TASKS, queue)
        with contextlib.suppress(OSError, amqp.AMQPError):
            self._tell(letter, queue, now)

    def _publish(self, message: Any, exchange: str, key: str) -> None:
        self._channel.basic_publish_confirm(
            message, exchange=exchange, routing_key=key, confirm_timeout=CONFIRM_PATIENCE
        )

    def _tell(self, letter: Letter, queue: str, now: float) -> None:
        """The event that a task was sent, as its sender's Celery would: the history shows that it waits again."""
        if not letter.name or letter.id.startswith("no-id-"):
            return
        here = datetime.now().astimezone().utcoffset()
        event = {
            "type": "task-sent",
            "uuid": letter.id,
            "name": letter.name,
            "hostname": f"dead-letters@{socket.gethostname()}",
            "queue": queue,
            "exchange": TASKS,
            "routing_key": queue,
            "timestamp": now,
            "utcoffset": int(-(here.total_seconds() if here else 0) // 3600),
            "pid": 0,
            "clock": 1,
            **{
                key: letter.headers.get(header)
                for key, header in {
                    **{"args": "argsrepr", "kwargs": "kwargsrepr", "retries": "retries"},
                    **{"root_id": "root_id", "parent_id": "parent_id"},
                }.items()
            },
        }
        message = amqp.Message(
            json.dumps(event, default=str), content_type="application/json", content_encoding="utf-8"
        )
        self._publish(message, "celeryev", "task.sent")
