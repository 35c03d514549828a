"""The stream of revokes: what is in it, how it is appended to and read. Which queues are paused is in it too."""

from __future__ import annotations

import getpass
import logging
import math
import socket
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from app.eventlog import Start, Unavailable, replay_raw

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["EXCHANGE", "STREAM", "Record", "append", "decode", "make", "paused", "read", "who"]

logger = logging.getLogger("warren.revokes")

STREAM = "celery.revoked"
# A fanout with the stream bound to it: whoever may write to an exchange can't read or delete what is behind it.
EXCHANGE = "celery.revoked"

# Ids in a message: 40 KB, which a worker reads in a millisecond.
IDS = 1_000
# Seconds. A broker that takes no messages (a full disk) confirms none; whoever revokes is to know.
CONFIRM_TIMEOUT = 5.0
# Seconds. A broker that has just started knows the exchange a little before it has the stream again.
ROUTE_TIMEOUT = 5.0
ROUTE_PAUSE = 0.1


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message: tasks that are not to run, or a queue that is not to be consumed."""

    at: float
    """When, in seconds since 1970."""
    by: str = ""
    """Who wants it, user@host."""
    ids: tuple[str, ...] = ()
    headers: dict[str, list[str]] = {}
    """Stamped headers: a task that has one of these values is not to run."""
    queue: str = ""
    """This queue is paused, or no more, from now on; nothing is revoked then."""
    paused: bool = False
    mark: str = ""
    """Of a worker that reads up to here; nothing is revoked then."""


decoder = msgspec.json.Decoder(Record)
encoder = msgspec.json.Encoder()


def who() -> str:
    """This user and host, as they stand in the stream."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A container's user has no name.
        user = "nobody"
    return f"{user}@{socket.gethostname()}"


def decode(body: bytes) -> Record | None:
    """The record in a message; None, and a warning, for what is none."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        logger.warning("a message of %s is malformed (%s) and skipped: %.200r", STREAM, error, body)
        return None


def append(app: Celery, record: Record) -> None:
    """Appends to the stream, and returns when the broker has it on disk.

    Raises:
        kombu.exceptions.OperationalError: the broker can't be reached, or does not take it.
        amqp.NotFound: it lacks the stream.
        amqp.AccessRefused: this user may not write to it.
    """
    import amqp
    from kombu import Producer  # who only reads does without its 100 ms

    pieces: list[Record] = [record]
    if len(record.ids) > IDS:
        pieces = [msgspec.structs.replace(record, ids=ids) for ids in parts(record.ids)]
    options = {**app.conf.broker_transport_options, "confirm_publish": True}
    connection = app.connection_for_write(transport_options=options)
    try:
        # Turns what py-amqp raises into kombu's error.
        with connection._reraise_as_library_errors():
            # One attempt: by itself a producer would look for its broker without end.
            connection.connect()
            returned: list[bool] = []
            producer = Producer(connection, on_return=lambda *_: returned.append(True))
            for piece in pieces:
                limit = time.monotonic() + ROUTE_TIMEOUT
                while True:
                    returned.clear()
                    producer.publish(
                        encoder.encode(piece),
                        exchange=EXCHANGE,
                        routing_key="",
                        content_type="application/json",
                        content_encoding="utf-8",
                        delivery_mode=2,
                        # Without, an exchange without its stream confirms too, and drops.
                        mandatory=True,
                        confirm_timeout=CONFIRM_TIMEOUT,
                    )
                    if not returned:
                        break
                    if time.monotonic() > limit:
                        raise amqp.NotFound(f"there is no stream {STREAM}")
                    time.sleep(ROUTE_PAUSE)
    except BaseException:
        # A broker that reads no more does not answer a goodbye either: closing would wait for that without end.
        connection.collect()
        raise
    connection.release()


def parts(ids: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for start in range(0, len(ids), IDS):
        yield tuple(ids[start : start + IDS])


def read(url: str, since: datetime | None = None) -> Iterator[Record]:
    """The revokes that are in the stream now, from ``since`` on.

    Raises:
        app.eventlog.Unavailable: the stream can't be read.
    """
    start: Start = "first" if since is None else since
    for _, body in replay_raw(url, start, stream=STREAM):
        record = decode(body)
        if record is None or not (record.ids or record.headers):
            continue
        if since is None or record.at >= since.timestamp():
            yield record


def paused(url: str, patience: float = math.inf) -> dict[str, Record]:
    """The queues that are paused now, each with the record that says so.

    Raises:
        app.eventlog.Unavailable: the stream can't be read, or not within ``patience`` seconds.
    """
    found: dict[str, Record] = {}
    limit = time.monotonic() + patience
    for _, body in replay_raw(url, "first", stream=STREAM):
        if time.monotonic() > limit:
            raise Unavailable(f"{STREAM} is too long to be read within {patience:g} s")
        record = decode(body)
        if record is not None and record.queue:
            found.pop(record.queue, None)
            if record.paused:
                found[record.queue] = record
    return found


def make(
    ids: Sequence[str] = (),
    headers: dict[str, Any] | None = None,
    by: str = "",
    mark: str = "",
    queue: str = "",
    paused: bool = False,
) -> Record:
    """A record of now."""
    listed = {
        key: [str(one) for one in (value if isinstance(value, list | tuple | set) else [value])]
        for key, value in (headers or {}).items()
    }
    return Record(at=time.time(), by=by or who(), ids=tuple(ids), headers=listed, mark=mark, queue=queue, paused=paused)
