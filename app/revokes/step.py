"""The worker's part: what was revoked, and which queues are paused, it knows before it takes its first task."""

from __future__ import annotations

import logging
import select
import uuid
from threading import Thread
from time import monotonic
from typing import Any

import amqp
from celery import bootsteps
from celery.worker import state
from celery.worker.consumer.connection import Connection
from kombu.exceptions import OperationalError

from app.eventlog import Stop, Unavailable
from app.revokes import known
from app.revokes.log import STREAM, Record, append, decode, make
from app.revokes.pauses import Pauses
from app.revokes.reader import Reader
from app.settings import AppSettings, from_environment

__all__ = ["Revokes"]

# Ids that a worker remembers: 250 MB at worst. The stream holds fewer, unless its retention is set beyond reason.
REMEMBERED = 1_000_000
# Seconds without a message before the stream's end. A broker that is there delivers what it has confirmed at once.
READ_TIMEOUT = 10.0
# Seconds for which the stream is asked for again before the worker's own connection is given up as well: after a restart
# a broker accepts connections a little before its streams can be read.
PATIENCE = 20.0
# Seconds between two attempts.
RETRY = 1.0
# Ids that a line of the log names.
NAMED = 5

logger = logging.getLogger("warren.revokes")


class Revokes(bootsteps.StartStopStep):
    """Reads the whole stream whenever the worker connects, before it consumes; and follows it in a thread.

    Where the stream ends is told by a mark that the worker itself appends: what was revoked before is read before that.
    Nothing is remembered of what was read before. It is read in a fraction of a second, and no stream that was removed
    and made again, or came back from a backup, can have another meaning at the same offset.
    """

    requires = (Connection,)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._settings: AppSettings = from_environment()
        self._stop = Stop()
        self._thread: Thread | None = None
        self._pauses = Pauses(consumer)
        # Celery's own limits, 50,000 ids and three hours, hold no longer than a night.
        known.prepare(REMEMBERED, self._settings.revokes_seconds)

    def start(self, consumer: Any) -> None:
        """Raises a connection error, after which Celery connects anew, if the stream can't be read now."""
        if not hasattr(select, "poll"):
            # The pool of eventlet takes it from the standard library.
            logger.error(
                "revokes reach this worker by broadcast only: its pool lets nothing wait for the stream %s", STREAM
            )
            return
        begun = monotonic()
        self._stop = Stop()
        log: Reader | None = None
        try:
            log = self._catch_up(consumer.app)
        except (amqp.NotFound, amqp.AccessRefused, Unavailable) as error:
            logger.error(
                "revokes reach this worker by broadcast only, and those from before it started do not: %s; "
                "`invoke up` makes the stream %s, which is looked for until then",
                error,
                STREAM,
            )
        else:
            if state.revoked or state.revoked_stamps:
                what = (len(state.revoked), len(state.revoked_stamps), monotonic() - begun)
                logger.info("revoked: %d tasks, and stamps of %d headers (read in %.2f s)", *what)
        self._pauses.select(consumer)
        state.revoked.settle = log.settle if log is not None else None
        self._thread = Thread(target=self._follow, args=(consumer, self._stop, log), name="revokes", daemon=True)
        self._thread.start()

    def stop(self, consumer: Any) -> None:
        state.revoked.settle = None
        self._stop.set()
        if self._thread is not None:
            self._thread.join(READ_TIMEOUT)
            self._thread = None

    shutdown = stop
    terminate = stop

    def _catch_up(self, app: Any) -> Reader:
        """Reads all that was revoked before now; the log to follow from there.

        Raises:
            amqp.NotFound, amqp.AccessRefused, Unavailable: it can't be read, and waiting won't help.
            amqp.RecoverableConnectionError: it can't be read now.
        """
        limit = monotonic() + PATIENCE
        while True:
            # A worker that is told to stop meanwhile does.
            state.maybe_shutdown()
            try:
                return self._read(app, self._stop)
            except (amqp.NotFound, Unavailable, OperationalError) as error:
                if getattr(error, "lasting", False) or "no exchange" in str(error):
                    raise
                if monotonic() > limit:
                    if isinstance(error, amqp.NotFound):
                        raise
                    raise amqp.RecoverableConnectionError(f"the stream {STREAM} can't be read: {error}") from error
                logger.info("%s can't be read yet: %s", STREAM, error)
            self._stop.wait(RETRY)

    def _read(self, app: Any, stop: Stop) -> Reader:
        """Takes what is in the stream now."""
        mark = make(mark=uuid.uuid4().hex)
        try:
            append(app, mark)
        except amqp.NotFound:
            # Who writes is not told whether the stream is missing or just being recovered, who reads is.
            with Reader(self._settings.broker_url, stop, STREAM) as log:
                log.consume("first")
            raise
        log = Reader(self._settings.broker_url, stop, STREAM)
        try:
            log.consume("first")
            self._pauses.forget()
            while (message := log.next_raw(READ_TIMEOUT)) is not None:
                record = decode(message[1])
                if record is not None and record.mark == mark.mark:
                    return log
                self._take(record)
            raise Unavailable(f"the broker does not send {STREAM} to its end")
        except BaseException:
            log.close()
            raise

    def _take(self, record: Record | None) -> Record | None:
        if record is not None and record.queue:
            return record if self._pauses.take(record) else None
        return take(record)

    def _follow(self, consumer: Any, stop: Stop, log: Reader | None) -> None:
        while not stop.is_set():
            try:
                if log is None:
                    log = self._read(consumer.app, stop)
                    state.revoked.settle = log.settle
                    logger.info("following %s", STREAM)
                    self._pauses.follow(consumer)
                while (message := log.next_raw()) is not None:
                    new = self._take(decode(message[1]))
                    if new is not None and new.queue:
                        self._pauses.follow(consumer)
                    elif new is not None:
                        tell(new)
            except Exception as error:  # noqa: BLE001, RUF100 - without its thread a worker would hear nothing and not say so
                # As a rule the worker's own connection is lost too, and it starts anew with this step.
                expected = isinstance(error, Unavailable | OperationalError | amqp.AMQPError)
                logger.log(logging.DEBUG if expected else logging.WARNING, "following %s: %s", STREAM, error)
                if log is not None:
                    log.close()
                    log = None
                if not stop.is_set():
                    state.revoked.settle = None
                stop.wait(RETRY)
        if log is not None:
            log.close()


def take(record: Record | None) -> Record | None:
    """Has the worker know what is in ``record``; what of it is new."""
    if record is None or record.mark:
        return None
    ids = tuple(one for one in record.ids if not known.has(one))
    state.revoked.update(record.ids)
    new = known.add_headers(record.headers)
    return Record(record.at, record.by, ids, record.headers if new else {}) if ids or new else None


def tell(record: Record) -> None:
    """Says who it was; of what a broadcast has told before, Celery has said so."""
    parts = list(record.ids[:NAMED])
    if len(record.ids) > NAMED:
        parts.append(f"and {len(record.ids) - NAMED} more")
    parts += [f"{header}={stamp}" for header, stamps in record.headers.items() for stamp in stamps]
    logger.info("revoked by %s: %s", record.by, ", ".join(parts))
