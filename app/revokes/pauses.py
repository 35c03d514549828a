"""Which of a worker's queues are paused: the stream of revokes tells that too."""

from __future__ import annotations

import logging
from typing import Any

from app.revokes.log import Record

__all__ = ["Pauses"]

logger = logging.getLogger("warren.revokes")


class Pauses:
    """The pauses that the stream tells of, and what of them the worker has followed."""

    def __init__(self, consumer: Any) -> None:
        # This worker's queues; of others it is not to begin to consume because somebody resumes them.
        self._queues = tuple(consumer.app.amqp.queues.consume_from)
        self._paused: dict[str, str] = {}
        self._left_out: set[str] = set()
        self._resumed_by = ""

    def forget(self) -> None:
        """The stream is read anew."""
        self._paused.clear()

    def take(self, record: Record) -> bool:
        """Whether ``record`` was about one of this worker's queues."""
        if record.paused:
            self._paused[record.queue] = record.by
        else:
            self._paused.pop(record.queue, None)
            self._resumed_by = record.by
        return record.queue in self._queues

    def select(self, consumer: Any) -> None:
        """Has Celery, which has not begun to consume, leave out what is paused."""
        queues = consumer.app.amqp.queues
        for queue in self._queues:
            if queue in self._paused:
                queues.deselect(queue)
                logger.info("the queue %s is paused by %s", queue, self._paused[queue])
            elif queue in self._left_out:
                queues.select_add(queues[queue])
        self._left_out = set(self._paused).intersection(self._queues)

    def follow(self, consumer: Any) -> None:
        """Has Celery, which consumes, stop or begin anew with what has changed.

        In the worker's own loop: its connection is not for other threads.
        """
        wanted = set(self._paused).intersection(self._queues)
        for queue in sorted(wanted - self._left_out):
            logger.info("paused by %s: %s", self._paused[queue], queue)
            consumer.call_soon(consumer.cancel_task_queue, queue)
        for queue in sorted(self._left_out - wanted):
            logger.info("resumed by %s: %s", self._resumed_by, queue)
            consumer.call_soon(consumer.add_task_queue, queue)
        self._left_out = wanted
