"""The event log: the RabbitMQ stream `celery.events`, which holds every event of the last days and is never consumed.

    read(url, "next")            follows the log
    replay(url, "first")         the log as it is now, then ends
    find(url, task_id)           all events of one task

Celery is not imported: py-amqp alone takes half the memory and a third of the time. The broker's definitions declare the
stream and bind it to Celery's event exchange; readers only have the right to read it.

A message of the log is one event, or up to 24 that a worker sent together. What is no event is skipped with a warning.
"""

from __future__ import annotations

import json
import logging
import select
import socket
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

import amqp
import msgspec

from app.frames import messages
from app.stop import Stop

__all__ = ["STREAM", "Entry", "Event", "Log", "Start", "Stop", "Unavailable", "decode", "find", "read", "replay"]

STREAM = "celery.events"

Event: TypeAlias = dict[str, Any]

# Where reading begins: an offset, or the chunk of messages that the log wrote at or before a time.
Start: TypeAlias = Literal["first", "last", "next"] | int | datetime

# Messages on their way to a reader. More gains nothing: from 400 on the broker sets the pace, some 40,000 a second.
PREFETCH = 400
# A quarter of that, so that the broker always has leave to send while an acknowledgement is under way.
ACKNOWLEDGE_EVERY = 100
# Seconds. A dead connection is noticed after two of them; sockets of a host that vanished stay silent for ever.
HEARTBEAT = 20
# Seconds. A broker that starts accepts connections a little before it answers.
ANSWER_TIMEOUT = 10.0
# Seconds. How long a log that seems empty is watched for a first message: the broker's count of messages runs some
# seconds behind, and a message that is there arrives within a few milliseconds.
EMPTY_WAIT = 1.0
# Seconds that a goodbye may take; the broker does as well without.
CLOSE_TIMEOUT = 0.3
# Bytes taken from the socket at once: some hundred messages.
CHUNK = 1 << 18

logger = logging.getLogger("warren.eventlog")


class Unavailable(Exception):
    """The log can't be read now. The text says why and what to do; ``lasting`` means that waiting alone won't help."""

    def __init__(self, text: str, *, lasting: bool = False) -> None:
        super().__init__(text)
        self.lasting = lasting


@dataclass(frozen=True, slots=True)
class Entry:
    """One message of the log. Without events if it was malformed, so that readers pass it.

    Offsets grow, but not always by one: the broker keeps notes of its own in the same sequence.
    """

    offset: int
    events: list[Event]
    body: bytes


def decode(body: bytes) -> list[Event]:
    """The events in a message.

    Raises:
        ValueError: it is not JSON, or holds something that is no event.
    """
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Python senders may write NaN and lone surrogates, which are no JSON to msgspec.
        data = json.loads(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    events = data if isinstance(data, list) else [data]
    for event in events:
        if not isinstance(event, dict) or not isinstance(event.get("type"), str):
            raise ValueError("not an event")
    return events


def salvage(offset: int, body: bytes) -> list[Event]:
    """As :func:`decode`, but with a warning for what is malformed: good events of the same message stay."""
    try:
        return decode(body)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
    events: list[Event] = []
    with suppress(ValueError, RecursionError):
        data = json.loads(body)
        if isinstance(data, list):
            events = [item for item in data if isinstance(item, dict) and isinstance(item.get("type"), str)]
    logger.warning("message %d of the event log is malformed (%s) and skipped: %.80r", offset, reason, body)
    return events


def address(url: str) -> str:
    """Host and port of ``url``, for messages: what else is in it is secret."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or "localhost"
    return f"{host}:{parts.port or (5671 if parts.scheme == 'amqps' else 5672)}"


@contextmanager
def reasons(url: str, stream: str = STREAM) -> Iterator[None]:
    """Turns what py-amqp and the system raise into :class:`Unavailable`."""
    user, place = unquote(urlsplit(url).username or "guest"), address(url)
    vhost = unquote(urlsplit(url).path[1:]) or "/"
    try:
        yield
    except amqp.AccessRefused as error:
        if "login" in str(error).lower():
            text = f"the broker at {place} refuses the password of user {user}: correct it in CELERY_BROKER_URL"
        else:
            text = f"user {user} may not read {stream} at {place}: load the broker's definitions (`invoke up`)"
        raise Unavailable(text, lasting=True) from error
    except amqp.NotFound as error:
        if "down or inaccessible" in str(error):
            # So RabbitMQ 3.10 speaks of a stream that it is still recovering after a restart.
            raise Unavailable(f"the broker at {place} is still recovering {stream}") from error
        text = f"the broker at {place} has no stream {stream}: load the broker's definitions (`invoke up`)"
        raise Unavailable(text, lasting=True) from error
    except amqp.NotAllowed as error:
        text = (
            f"the broker at {place} keeps user {user} out of vhost {vhost}: load the broker's definitions (`invoke up`)"
        )
        raise Unavailable(text, lasting=True) from error
    except TimeoutError as error:
        raise Unavailable(f"the broker at {place} does not answer") from error
    except socket.gaierror as error:
        raise Unavailable(f"the broker's host {place} has no address ({error.strerror})") from error
    except (ConnectionResetError, BrokenPipeError) as error:
        raise Unavailable(f"the connection to the broker at {place} is lost") from error
    except OSError as error:
        raise Unavailable(f"no broker at {place} ({error.strerror or error})") from error
    except amqp.AMQPError as error:
        raise Unavailable(f"the broker at {place} ended the connection ({error})") from error
    except (AttributeError, TypeError, KeyError) as error:
        # py-amqp's parts may find their connection gone from under them.
        raise Unavailable(f"the connection to {place} broke ({error})") from error


class Log:
    """One connection to the log, or to another ``stream``. With ``stop``, every wait ends when it is set.

    Raises:
        Unavailable: on construction and by every method.
    """

    def __init__(self, url: str, stop: Stop | None = None, stream: str = STREAM) -> None:
        self.url = url
        self.stop = stop
        self.stream = stream
        self._waiting: deque[tuple[int, int, bytes]] = deque()
        self._unacknowledged = 0
        self._from = 0
        self._tag = 0
        if stop is not None and stop.is_set():
            raise Unavailable("stopped")
        with reasons(url, stream):
            self._connection = self._connect()
            self._socket: Any = self._connection.transport.sock
            # py-amqp waits for answers without a limit unless the socket has one.
            self._socket.settimeout(ANSWER_TIMEOUT)
            self._poll = select.poll()
            self._poll.register(self._socket, select.POLLIN)
            if stop is not None:
                self._poll.register(stop, select.POLLIN)
            self._tick_at = monotonic() + HEARTBEAT / 4
            self._channel = self._connection.channel()

    def _connect(self) -> Any:
        parts = urlsplit(self.url)
        connection = amqp.Connection(
            host=address(self.url),
            userid=unquote(parts.username or "guest"),
            password=unquote(parts.password or "guest"),
            virtual_host=unquote(parts.path[1:]) or "/",
            ssl={"server_hostname": parts.hostname} if parts.scheme == "amqps" else False,
            heartbeat=HEARTBEAT,
            connect_timeout=ANSWER_TIMEOUT,
            client_properties={"connection_name": f"reader of {self.stream}"},
        )
        connection.connect()
        return connection

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with suppress(Exception):
            self._socket.settimeout(CLOSE_TIMEOUT)
            self._connection.close()
        with suppress(Exception):
            self._connection.collect()

    def end(self, patience: float = EMPTY_WAIT) -> int | None:
        """The offset of the log's last message, or None if nothing came of it for ``patience`` seconds: it is empty.

        Streams tell nobody where they end. But their last chunk can be read, and when the broker has answered a question
        asked after an acknowledgement without using up the leave to send, there was no more.
        """
        seen: list[int] = []
        delivered = tag = 0

        def take(message: Any) -> None:
            nonlocal delivered, tag
            delivered, tag = delivered + 1, message.delivery_info["delivery_tag"]
            offset = message.headers.get("x-stream-offset")
            if isinstance(offset, int):
                seen.append(offset)

        with reasons(self.url, self.stream):
            channel = self._connection.channel()
            count = channel.queue_declare(self.stream, passive=True).message_count
            channel.basic_qos(0, PREFETCH, False)
            consumer = channel.basic_consume(self.stream, callback=take, arguments={"x-stream-offset": "last"})
            limit = monotonic() + (ANSWER_TIMEOUT if count else patience)
            while not delivered and (left := limit - monotonic()) > 0 and not (self.stop and self.stop.is_set()):
                if self._ready(left):
                    self._connection.drain_events(timeout=ANSWER_TIMEOUT)
            before = -1
            while delivered - before >= PREFETCH or before < 0 < delivered:
                before = delivered
                channel.basic_ack(tag, multiple=True)
                # Answered behind whatever the acknowledgement let the broker send.
                channel.basic_qos(0, PREFETCH, False)
            # Cancelled first: py-amqp warns of messages that arrive on a channel that is being closed.
            channel.basic_cancel(consumer)
            channel.close()
        return max(seen, default=None)

    def consume(self, start: Start) -> None:
        """Begins to read at ``start``. Beyond :meth:`end` the broker stays silent until the log has grown to it."""
        self._from = start if isinstance(start, int) else 0
        with reasons(self.url, self.stream):
            self._channel.basic_qos(0, PREFETCH, False)
            self._channel.basic_consume(self.stream, callback=self._delivered, arguments={"x-stream-offset": start})

    def next(self, timeout: float | None = None) -> Entry | None:
        """The next message, or None if there was none for ``timeout`` seconds or the stop flag is set."""
        if (message := self.next_raw(timeout)) is None:
            return None
        offset, body = message
        return Entry(offset, salvage(offset, body), body)

    def next_raw(self, timeout: float | None = None) -> tuple[int, bytes] | None:
        """As :meth:`next`, the body undecoded."""
        limit = None if timeout is None else monotonic() + timeout
        while True:
            if self.stop is not None and self.stop.is_set():
                return None
            if self._waiting:
                tag, offset, body = self._waiting.popleft()
                self._tag = tag
                self._unacknowledged += 1
                if self._unacknowledged >= ACKNOWLEDGE_EVERY:
                    self._acknowledge()
                if offset < self._from:
                    continue
                return offset, body
            left = HEARTBEAT / 4 if limit is None else limit - monotonic()
            if left <= 0:
                return None
            self._receive(min(left, HEARTBEAT / 4))

    def _acknowledge(self) -> None:
        with reasons(self.url, self.stream):
            self._channel.basic_ack(self._tag, multiple=True)
            self._unacknowledged = 0

    def _ready(self, timeout: float) -> bool:
        """Whether the socket has something to read, at the latest after ``timeout`` seconds."""
        if getattr(self._socket, "pending", int)():
            return True
        return any(descriptor == self._socket.fileno() for descriptor, _ in self._poll.poll(timeout * 1000))

    def _receive(self, timeout: float) -> None:
        # Before every wait: the broker closes channels whose messages stay unacknowledged for its consumer_timeout.
        if self._unacknowledged:
            self._acknowledge()
        with reasons(self.url, self.stream):
            if self._ready(timeout):
                self._take()
            # After reading, lest a reader that was busy for long takes its own silence for the broker's.
            if monotonic() >= self._tick_at:
                self._tick_at = monotonic() + HEARTBEAT / 4
                self._connection.heartbeat_tick()

    def _delivered(self, message: Any) -> None:
        """Takes a message that py-amqp read, while it waited for an answer."""
        offset = message.headers.get("x-stream-offset")
        body = message.body if isinstance(message.body, bytes) else message.body.encode()
        if isinstance(offset, int):
            self._waiting.append((message.delivery_info["delivery_tag"], offset, body))

    def _take(self) -> None:
        """Takes what has arrived.

        py-amqp reads each message with nine system calls and builds three objects of it, 20,000 a second. Whole messages
        are therefore cut from a large piece of the stream here; all else, and what is incomplete, is left to py-amqp.
        """
        transport = self._connection.transport
        piece = self._socket.recv(CHUNK)
        if not piece:
            raise ConnectionResetError("the broker closed the connection")
        data = transport._read_buffer + piece if transport._read_buffer else piece
        transport._read_buffer = b""
        end, count = 0, 0
        for after, delivery, frame in messages(data):
            end, count = after, count + 1
            if delivery is not None:
                self._waiting.append(delivery)
            elif frame is not None:
                # Set first: it may raise, or read an answer itself.
                transport._read_buffer = b""
                self._connection.on_inbound_frame(frame)
        self._connection.bytes_recv += count
        transport._read_buffer = data[end:]


def read(url: str, start: Start = "next", *, stop: Stop | None = None, idle: float | None = None) -> Iterator[Entry]:
    """Follows the log from ``start``, until ``stop`` is set or nothing came for ``idle`` seconds.

    Raises:
        Unavailable: there is no connection, or no longer.
    """
    with Log(url, stop) as log:
        log.consume(start)
        while (entry := log.next(idle)) is not None:
            yield entry


def replay(url: str, start: Start = "first", *, stop: Stop | None = None) -> Iterator[Entry]:
    """The log from ``start`` to where it ends now.

    Raises:
        Unavailable: there is no connection, or no longer.
    """
    for offset, body in replay_raw(url, start, stop=stop):
        yield Entry(offset, salvage(offset, body), body)


def replay_raw(
    url: str, start: Start, *, stop: Stop | None = None, stream: str = STREAM
) -> Iterator[tuple[int, bytes]]:
    """As :func:`replay`, the bodies undecoded; of another ``stream`` too."""
    with Log(url, stop, stream) as log:
        end = log.end()
        if end is None or start == "next" or (isinstance(start, int) and start > end):
            return
        log.consume(start)
        # Nothing at all comes from a time after the log's last message.
        message = log.next_raw(EMPTY_WAIT if isinstance(start, datetime) else ANSWER_TIMEOUT)
        if message is None and isinstance(start, datetime):
            return
        while message is not None and message[0] < end:
            yield message
            message = log.next_raw(ANSWER_TIMEOUT)
        if message is not None and message[0] == end:
            yield message
        elif message is None and not (stop and stop.is_set()):
            raise Unavailable(f"the broker at {address(url)} stopped sending before the end of {stream}; try again")


def find(url: str, task_id: str, start: Start = "first") -> list[Event]:
    """All events of a task, in the order in which they were logged.

    Messages that do not hold its id are not decoded, which is what makes it fast.

    Raises:
        Unavailable: there is no connection, or no longer.
    """
    # As the sender's json module writes it.
    needle = json.dumps(task_id)[1:-1].encode()
    return [
        event
        for offset, body in replay_raw(url, start)
        if needle in body
        for event in salvage(offset, body)
        if event.get("uuid") == task_id
    ]
