"""Reads all dead letters without taking anything out of the queue.

Readers hold what they have read until they give it back, and meanwhile nobody else sees it. So one reads at a time, each
reads all there is, in order, and gives it back in that order; whoever dies gives it back by dying.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from time import monotonic, sleep
from typing import Any

import amqp

from deploy.dead_letters.letter import Letter, letter_of
from deploy.definitions import VHOST
from deploy.errors import ExitCode, WarrenError
from deploy.session import Session

__all__ = ["QUEUE", "Letters", "connect"]

QUEUE = "dead_letters"
# Whose exclusive queue this is, reads: the broker itself knows when the reader is gone.
LOCK = "dead_letters.reader"

# Seconds. A hundred thousand letters take a reader ten.
LOCK_PATIENCE = 60.0
# Seconds after which nothing more comes: a letter that is there takes thousandths.
IDLE = 2.0
# Seconds that the broker gets for a connection, and for each answer.
PATIENCE = 10.0
# Seconds between two looks for what the broker tells nobody: that a lock is free, that letters are back in their queue.
LOOK = 0.05
# Seconds. A message is back in its queue within thousandths; the broker does it without our waiting too.
RETURN_PATIENCE = 2.0
# The protocol's most for one consumer; 0 would be RabbitMQ's own limit of 2,000 for quorum queues.
PREFETCH = 65_535


@contextlib.contextmanager
def connect(s: Session, role: str) -> Iterator[Any]:
    """A plain AMQP connection.

    Raises:
        OSError, amqp.AMQPError: as py-amqp; :func:`deploy.commands.control.connected` puts them in words.
    """
    connection = amqp.Connection(
        f"{s.endpoints.host}:{s.endpoints.amqp}",
        userid=role,
        password=s.secrets[role],
        virtual_host=VHOST,
        connect_timeout=PATIENCE,
        read_timeout=PATIENCE,
        write_timeout=PATIENCE,
        heartbeat=20,
        client_properties={"connection_name": "invoke"},
    )
    try:
        connection.connect()
        yield connection
    finally:
        with contextlib.suppress(Exception):
            connection.close()


class Letters:
    """All dead letters, each held until it is dropped or this is left; then the rest is back as it was.

    Args:
        patience: seconds to wait for another reader to finish.

    Raises:
        WarrenError: another command reads for longer than that (exit code 8).
        OSError, amqp.AMQPError: as py-amqp.
    """

    def __init__(self, s: Session, patience: float = LOCK_PATIENCE) -> None:
        self._session = s
        self._patience = patience
        self._stack = contextlib.ExitStack()
        self._held = 0
        self.total = 0
        """Letters that there were at the beginning."""

    def __enter__(self) -> Letters:
        self._session.runner.show(f"read the queue {QUEUE}  # as user ops; all of it is given back")
        try:
            self._connection = self._stack.enter_context(connect(self._session, "ops"))
            self._lock()
            self._channel = self._connection.channel()
            # Bodies are whatever their senders wrote.
            self._channel.auto_decode = False
            self.total = self._count()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._give_back()
        finally:
            self._stack.close()

    def __iter__(self) -> Iterator[Letter]:
        """Each letter once, the oldest first. To be read to its end: what is read is given back behind what is not."""
        if not self.total:
            return
        arrived: list[Any] = []
        read = 0
        self._channel.basic_qos(0, PREFETCH, False)
        while read < self.total:
            # A consumer gets no more than its prefetch, since nothing is acknowledged.
            tag = self._channel.basic_consume(QUEUE, callback=arrived.append)
            for _ in range(min(PREFETCH, self.total - read)):
                while not arrived:
                    try:
                        self._connection.drain_events(timeout=IDLE)
                    except TimeoutError:
                        # Somebody else has taken some, with RabbitMQ's own page for example.
                        self.total = read
                        break
                if not arrived:
                    break
                self._held += 1
                read += 1
                yield letter_of(arrived.pop(0))
                self._connection.heartbeat_tick()
            self._channel.basic_cancel(tag)
            arrived.clear()

    def drop(self, letter: Letter) -> None:
        """Takes a letter out of the queue. It is gone for good when this is left."""
        self._channel.basic_ack(letter.tag)
        self._held -= 1

    def _lock(self) -> None:
        limit = monotonic() + self._patience
        while True:
            channel = self._connection.channel()
            try:
                channel.queue_declare(
                    LOCK, durable=False, exclusive=True, auto_delete=True, arguments={"x-queue-type": "classic"}
                )
                return
            except amqp.ResourceLocked:
                if monotonic() > limit:
                    raise WarrenError(
                        f"another command has been reading {QUEUE} for {self._patience:g} s; try again when it is done",
                        ExitCode.TIMEOUT,
                    ) from None
                sleep(LOOK)

    def _count(self) -> int:
        return int(self._channel.queue_declare(QUEUE, passive=True).message_count)

    def _give_back(self) -> None:
        """Returns when whoever reads next sees all that is left."""
        with contextlib.suppress(OSError, amqp.AMQPError):
            # RabbitMQ 3.10 gives back in order what a channel that ends held, but not what `basic.recover` names.
            self._channel.close()
            self._channel = self._connection.channel()
            limit = monotonic() + RETURN_PATIENCE
            while self._count() < self._held and monotonic() < limit:
                sleep(LOOK)
