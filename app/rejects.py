"""The worker's part in dead letters: a message that no task can be made of is rejected, not acknowledged.

Celery acknowledges what it can't decode, so that it vanishes; and some malformed messages end the whole worker, one after
the other. A rejected message goes to `dead_letters`, where an operator finds it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery import bootsteps
from celery.worker import state

__all__ = ["Rejects"]

logger = logging.getLogger("warren.rejects")

# Characters of a body in the log; all of it is in the dead letter.
EXCERPT = 200


class Rejects(bootsteps.StartStopStep):
    """Changes how the consumer takes messages; made before any is taken, whatever its place among the steps."""

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        make_handler = consumer.create_task_handler

        def create_task_handler(*args: Any, **options: Any) -> Callable[[Any], None]:
            return guarded(consumer, make_handler(*args, **options))

        def on_decode_error(message: Any, error: BaseException) -> None:
            reject(consumer, message, error)

        consumer.create_task_handler = create_task_handler
        consumer.on_decode_error = on_decode_error


def guarded(consumer: Any, handler: Callable[[Any], None]) -> Callable[[Any], None]:
    """``handler``, which survives messages that are no tasks."""

    def take(message: Any) -> None:
        try:
            handler(message)
        except (*consumer.connection_errors, *consumer.channel_errors, MemoryError):
            raise
        except Exception as error:
            # Of what is known by its id a task was made: what went wrong then is no fault of the message.
            if message.acknowledged or known(message):
                raise
            reject(consumer, message, error)

    return take


def known(message: Any) -> bool:
    headers = message.headers
    return isinstance(headers, dict) and headers.get("id") in state.requests


def reject(consumer: Any, message: Any, error: BaseException) -> None:
    headers = message.headers if isinstance(message.headers, dict) else {}
    id_ = headers.get("id")
    logger.error(
        "message %s is no task that can be run (%s: %s) and goes to dead_letters: content type %r, %d bytes: %.*r",
        *(id_ or "without id", type(error).__name__, error, message.content_type, len(message.body or b"")),
        *(EXCERPT, message.body),
    )
    message.reject_log_error(logger, consumer.connection_errors)
    if isinstance(id_, str) and consumer.event_dispatcher:
        consumer.event_dispatcher.send("task-rejected", uuid=id_, requeue=False)
