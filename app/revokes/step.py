"""The worker's part: what was revoked, and which queues are paused, it knows before it takes its first task."""

from __future__ import annotations

import logging
import uuid
from threading import Thread
from time import monotonic
from typing import Any

import amqp
from celery import bootsteps
from celery.worker import state
from celery.worker.consumer.connection import Connection
from kombu.exceptions import OperationalError

from app.eventlog import Log, Stop, Unavailable
from app.revokes.log import STREAM, Record, append, decode, make
from app.settings import AppSettings, from_environment

__all__ = ["Revokes"]

# Ids that a worker remembers: 250 MB at worst. The stream holds fewer, unless its retention is set beyond reason.
REMEMBERED = 1_000_000
# Seconds. As long as a broker that is there takes to deliver what it has confirmed, many times over.
READ_TIMEOUT = 10.0
# Seconds between two attempts to follow the stream again while the worker's own connection is well.
RETRY = 1.0

logger = logging.getLogger("warren.revokes")


class Revokes(bootsteps.StartStopStep):
    """Reads the stream to its end whenever the worker connects, before it consumes; and follows it in a thread.

    Where the stream ends is told by a mark that the worker itself appends: what was revoked before is read before that.
    """

    requires = (Connection,)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._settings: AppSettings = from_environment()
        self._offset = -1
        self._log: Log | None = None
        self._stop = Stop()
        self._thread: Thread | None = None
        # This worker's queues; of others it is not to begin to consume because somebody resumes them.
        self._queues = tuple(consumer.app.amqp.queues.consume_from)
        self._paused: set[str] = set()
        self._left_out: set[str] = set()
        # Celery's own limits, 50,000 ids and three hours, hold no longer than a night.
        state.revoked.maxlen = REMEMBERED
        state.revoked.expires = self._settings.revokes_seconds

    def start(self, consumer: Any) -> None:
        """Raises a connection error, which Celery tries again after, if the stream can't be read now."""
        begun, known = monotonic(), len(state.revoked)
        self._stop = Stop()
        try:
            mark = make(mark=uuid.uuid4().hex)
            append(consumer.app, mark)
            log = self._log = self._open()
            self._read_to(log, mark.mark)
        except (amqp.NotFound, Unavailable, OperationalError) as error:
            self._close()
            if isinstance(error, amqp.NotFound) or "NOT_FOUND" in str(error) or getattr(error, "lasting", False):
                logger.error(
                    "revokes are only broadcast, and lost for workers that are away: %s; `invoke up` makes the stream %s",
                    *(error, STREAM),
                )
                return
            raise amqp.RecoverableConnectionError(f"the stream {STREAM} can't be read: {error}") from error
        if count := len(state.revoked) - known:
            logger.info("%d tasks are revoked (read in %.2f s)", count, monotonic() - begun)
        self._select(consumer)
        self._thread = Thread(target=self._follow, args=(consumer,), name="revokes", daemon=True)
        self._thread.start()

    def stop(self, consumer: Any) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(READ_TIMEOUT)
            self._thread = None
        self._close()

    shutdown = stop
    terminate = stop

    def _open(self) -> Log:
        log = Log(self._settings.broker_url, self._stop, STREAM)
        log.consume("first" if self._offset < 0 else self._offset + 1)
        return log

    def _close(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    def _read_to(self, log: Log, mark: str) -> None:
        limit = monotonic() + READ_TIMEOUT
        while monotonic() < limit:
            message = log.next_raw(limit - monotonic())
            if message is None:
                break
            limit = monotonic() + READ_TIMEOUT
            if (record := self._take(*message)) is not None and record.mark == mark:
                return
        if self._offset >= 0:
            # Another stream in the place of the one that was read: beyond its end, brokers stay silent.
            self._offset = -1
            self._paused.clear()
        raise Unavailable(f"the broker does not send {STREAM} to its end")

    def _take(self, offset: int, body: bytes) -> Record | None:
        self._offset = offset
        record = decode(body)
        if record is not None:
            if record.queue:
                (self._paused.add if record.paused else self._paused.discard)(record.queue)
            state.revoked.update(record.ids)
            for header, stamps in record.headers.items():
                # Celery's own form; it has no limit of its own.
                known = list(state.revoked_stamps.get(header) or [])
                state.revoked_stamps[header] = known + [stamp for stamp in stamps if stamp not in known]
        return record

    def _select(self, consumer: Any) -> None:
        """Has Celery, which has not begun to consume, leave out what is paused."""
        queues = consumer.app.amqp.queues
        for queue in self._queues:
            if queue in self._paused:
                queues.deselect(queue)
                logger.info("the queue %s is paused", queue)
            elif queue in self._left_out:
                queues.select_add(queues[queue])
        self._left_out = self._paused.intersection(self._queues)

    def _follow(self, consumer: Any) -> None:
        while not self._stop.is_set():
            try:
                log = self._log = self._log or self._open()
                while (message := log.next_raw()) is not None:
                    record = self._take(*message)
                    if record is not None and record.ids:
                        logger.info("revoked by %s: %s", record.by, ", ".join(record.ids))
                    if record is not None and record.queue in self._queues:
                        logger.info("%s by %s: %s", "paused" if record.paused else "resumed", record.by, record.queue)
                        # In the worker's own loop: its connection is not for other threads.
                        (self._left_out.add if record.paused else self._left_out.discard)(record.queue)
                        turn = consumer.cancel_task_queue if record.paused else consumer.add_task_queue
                        consumer.call_soon(turn, record.queue)
            except Unavailable as error:
                # As a rule the worker's own connection is lost too, and it starts anew with this step.
                logger.debug("following %s: %s", STREAM, error)
                self._close()
                self._stop.wait(RETRY)
