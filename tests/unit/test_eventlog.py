"""The event log's parts that need no broker: decoding, cutting frames, filtering, the stop flag."""

from __future__ import annotations

import json
import logging
import struct
import threading
from collections import deque
from typing import Any

import amqp
import pytest
from amqp.serialization import dumps

from app import eventlog
from app.eventlog import Entry, Log, Stop, Unavailable, address, decode, reasons, salvage
from app.frames import messages, offset_of

SENT = {"type": "task-sent", "uuid": "1", "name": "app.tasks.add"}


def frame(kind: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, 1, len(payload)) + payload + b"\xce"


def header(size: int, headers: dict[str, Any]) -> bytes:
    message = amqp.Message(b"", application_headers=headers, content_type="application/json")
    return struct.pack(">HHQ", 60, 0, size) + bytes(message._serialize_properties())


def delivery(tag: int, offset: int, body: bytes, parts: int = 1) -> bytes:
    method = b"\0\x3c\0\x3c" + dumps("sLbss", ("consumer", tag, False, "celeryev", "task.multi"))
    # py-amqp writes small numbers as 32 bits, the broker always as 64.
    table = header(len(body), {"hostname": "h"})
    value = b"\x0fx-stream-offset" + b"l" + struct.pack(">q", offset)
    at = table.index(b"\x08hostname") - 4
    length = struct.unpack_from(">I", table, at)[0]
    table = (
        table[:at]
        + struct.pack(">I", length + len(value))
        + table[at + 4 : at + 4 + length]
        + value
        + table[at + 4 + length :]
    )
    step = max(1, -(-len(body) // parts))
    pieces = [body[start : start + step] for start in range(0, len(body), step)]
    return frame(1, method) + frame(2, table) + b"".join(frame(3, piece) for piece in pieces)


class TestDecode:
    def test_one_event(self) -> None:
        assert decode(json.dumps(SENT).encode()) == [SENT]

    def test_a_batch(self) -> None:
        batch = [{**SENT, "uuid": str(number)} for number in range(24)]
        assert decode(json.dumps(batch).encode()) == batch

    def test_what_python_writes_but_json_has_not(self) -> None:
        events = decode(b'{"type": "task-succeeded", "runtime": NaN, "result": "\\ud800"}')
        assert events[0]["result"] == "\ud800"

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"hello",
            b"\xff\xfe",
            b"17",
            b"null",
            b'"task-sent"',
            b"{}",
            b'{"type": 5}',
            b"[1]",
            b'{"type": "task-sent"',
            b"[" * 100_000,
            b'{"type": "x", "n": ' + b"9" * 10_000 + b"}x",
        ],
    )
    def test_malformed_messages_are_skipped_with_one_line(self, body: bytes, caplog: pytest.LogCaptureFixture) -> None:
        with pytest.raises((ValueError, RecursionError)):
            decode(body)
        with caplog.at_level(logging.WARNING):
            assert salvage(7, body) == []
        assert len(caplog.records) == 1
        assert "\n" not in caplog.messages[0]
        assert "message 7" in caplog.messages[0]
        assert len(caplog.messages[0]) < 600

    def test_good_events_beside_a_bad_one_stay(self, caplog: pytest.LogCaptureFixture) -> None:
        assert salvage(7, json.dumps([SENT, 5, {"no": "type"}, SENT]).encode()) == [SENT, SENT]
        assert len(caplog.records) == 1


class TestFrames:
    def test_deliveries_and_other_frames(self) -> None:
        data = delivery(1, 40, b"{}") + frame(8, b"") + delivery(2, 41, b"[]")
        cut = list(messages(data))
        assert [(found, other) for _, found, other in cut] == [
            ((1, 40, b"{}"), None),
            (None, (8, 1, b"")),
            ((2, 41, b"[]"), None),
        ]
        assert cut[-1][0] == len(data)

    def test_a_message_in_several_frames(self) -> None:
        assert [found for _, found, _ in messages(delivery(1, 5, b"x" * 1000, parts=3))] == [(1, 5, b"x" * 1000)]

    def test_an_empty_message(self) -> None:
        assert [found for _, found, _ in messages(delivery(1, 5, b""))] == [(1, 5, b"")]

    def test_wherever_the_data_is_cut_nothing_is_lost(self) -> None:
        data = delivery(1, 40, b"{}") + frame(8, b"") + delivery(2, 41, b"[1]", parts=3)
        whole = [(found, other) for _, found, other in messages(data)]
        for at in range(len(data)):
            first = list(messages(data[:at]))
            rest = data[first[-1][0] if first else 0 :]
            assert [(found, other) for _, found, other in [*first, *messages(rest)]] == whole

    def test_the_offset_is_the_brokers(self) -> None:
        assert offset_of(header(0, {"hostname": "h"})) is None
        assert offset_of(header(0, {"x-stream-offset": "12"})) is None
        assert offset_of(header(0, {"x-stream-offset": 2**40})) == 2**40
        # A sender's header that only looks like it.
        forged = "\x0fx-stream-offsetl" + "\x01" * 8
        assert offset_of(header(0, {"hostname": forged, "x-stream-offset": 2**40})) == 2**40


class FakeChannel:
    def __init__(self) -> None:
        self.acknowledged: list[int] = []

    def basic_ack(self, tag: int, multiple: bool) -> None:
        assert multiple
        self.acknowledged.append(tag)


def log_of(offsets: range, start: int = 0, stop: Stop | None = None) -> Log:
    log = Log.__new__(Log)
    log.url, log.stop, log.stream = "amqp://h", stop, "celery.events"
    log._waiting = deque((offset + 1, offset, json.dumps(SENT).encode()) for offset in offsets)
    log._unacknowledged, log._from, log._tag = 0, start, 0
    log._channel = FakeChannel()
    return log


class TestLog:
    def test_messages_before_the_offset_asked_for_are_left_out(self) -> None:
        log = log_of(range(10, 20), start=17)
        assert [entry.offset for entry in iter(lambda: log.next(0), None) if isinstance(entry, Entry)] == [17, 18, 19]

    def test_the_broker_always_has_leave_to_send(self) -> None:
        log = log_of(range(250))
        while log.next(0):
            pass
        assert log._channel.acknowledged == [100, 200]

    def test_a_set_stop_flag_ends_it_at_once(self) -> None:
        stop = Stop()
        log = log_of(range(5), stop=stop)
        assert log.next(0) is not None
        stop.set()
        assert log.next() is None

    def test_it_does_not_connect_after_the_stop(self) -> None:
        stop = Stop()
        stop.set()
        with pytest.raises(Unavailable):
            Log("amqp://nowhere.invalid", stop)

    def test_find_decodes_only_messages_with_the_id(self, monkeypatch: pytest.MonkeyPatch) -> None:
        bodies = [json.dumps({**SENT, "uuid": str(number)}).encode() for number in (1, 2, 3, 2)]
        bodies.append(json.dumps([{**SENT, "uuid": "4", "root_id": "2"}, {**SENT, "uuid": "2"}]).encode())
        bodies.append(b"not an event")
        decoded: list[bytes] = []

        def remember(offset: int, body: bytes) -> list[eventlog.Event]:
            decoded.append(body)
            return decode(body)

        monkeypatch.setattr(eventlog, "replay_raw", lambda *_: enumerate(bodies))
        monkeypatch.setattr(eventlog, "salvage", remember)
        wanted = '2"\n'
        assert eventlog.find("amqp://h", wanted) == []
        assert decoded == []
        monkeypatch.setattr(
            eventlog, "replay_raw", lambda *_: iter([(n, b) for n, b in enumerate(bodies) if b"sent" in b])
        )
        assert [event["uuid"] for event in eventlog.find("amqp://h", "3")] == ["3"]
        assert decoded == [bodies[2]]

    def test_find_tells_a_task_from_its_children(self, monkeypatch: pytest.MonkeyPatch) -> None:
        batch = [{**SENT, "uuid": "b", "root_id": "aaa"}, {**SENT, "uuid": "aaa"}]
        monkeypatch.setattr(eventlog, "replay_raw", lambda *_: [(0, json.dumps(batch).encode())])
        assert eventlog.find("amqp://h", "aaa") == [batch[1]]


class TestReasons:
    @pytest.mark.parametrize(
        ("error", "part", "lasting"),
        [
            (amqp.AccessRefused("ACCESS_REFUSED - Login was refused"), "password of user mon", True),
            (amqp.AccessRefused("access to queue refused"), "may not read", True),
            (amqp.NotFound("no queue"), "definitions", True),
            (amqp.NotFound("home node 'a' of durable queue is down or inaccessible"), "recovering", False),
            (amqp.NotAllowed("vhost"), "vhost warren", True),
            (amqp.ConnectionForced("shutdown"), "ended the connection", False),
            (amqp.ConsumerCancelled("x"), "ended the connection", False),
            (ConnectionRefusedError(111, "Connection refused"), "Connection refused", False),
            (ConnectionResetError(), "is lost", False),
            (TimeoutError("timed out"), "does not answer", False),
            (AttributeError("NoneType"), "broke", False),
        ],
    )
    def test_each_is_one_line_without_the_password(self, error: Exception, part: str, lasting: bool) -> None:
        with pytest.raises(Unavailable) as caught, reasons("amqp://mon:secret@host:1/warren"):
            raise error
        assert part in str(caught.value)
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)
        assert caught.value.lasting is lasting

    @pytest.mark.parametrize(
        ("url", "place"),
        [
            ("amqp://h", "h:5672"),
            ("amqps://h/x", "h:5671"),
            ("amqp://u:p%40@[::1]:99/x", "[::1]:99"),
            ("amqp://", "localhost:5672"),
        ],
    )
    def test_address(self, url: str, place: str) -> None:
        assert address(url) == place


class TestStop:
    def test_every_waiter_sees_it(self) -> None:
        stop = Stop()
        assert not stop.wait(0)
        seen: list[bool] = []
        threads = [threading.Thread(target=lambda: seen.append(stop.wait())) for _ in range(3)]
        for thread in threads:
            thread.start()
        stop.set()
        stop.set()
        for thread in threads:
            thread.join()
        assert seen == [True] * 3
        assert stop.is_set()
