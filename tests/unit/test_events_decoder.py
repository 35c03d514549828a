"""What the history makes of messages: good events, malformed ones, and those that are merely odd."""

from __future__ import annotations

import json
import logging
import math
from time import time
from typing import Any

import pytest

from app.events import decoder as decoding
from app.events.decoder import FUTURE_LIMIT, MESSAGE_LIMIT, NAME_LIMIT, TEXT_LIMIT, Decoder
from tests.support.events import BASE, body, event, heartbeat, life

GOOD = event("started", 1, "a")


def with_raw(field: str, raw: str, kind: str = "succeeded") -> bytes:
    """An event with ``raw`` for a field, which Python's json would not write so."""
    return body({**event(kind, 1, "a"), field: "<here>"}).replace(b'"<here>"', raw.encode())


DEEP = "[" * 100_000 + "]" * 100_000

MALFORMED = [
    *(("not JSON", text) for text in (b"", b"hello", b"\xff\xfe", b'{"type": "task-started"', b"[" * 100_000)),
    *(("not an object", text) for text in (b"17", b"null", b'"task-sent"', b"[1]", b"[[]]", b"true")),
    *(("no type", text) for text in (b"{}", b'{"type": 5}', b'{"type": null}')),
    ("unknown type", b'{"type": "task-progress", "uuid": "a", "timestamp": 1}'),
    ("unknown type", b'{"type": "task-progress"}'),
    ("unknown type", b'{"type": "", "timestamp": 1}'),
    ("no uuid", body({"type": "task-started", "timestamp": BASE})),
    ("no uuid", body(event("started", 1, ""))),
    ("no uuid", body({**GOOD, "uuid": None})),
    ("no hostname", body({"type": "worker-heartbeat", "timestamp": BASE})),
    ("wrong types", body({**GOOD, "uuid": 5})),
    ("wrong types", body({**GOOD, "uuid": ["a"]})),
    ("wrong types", body({**GOOD, "hostname": {}})),
    ("wrong types", body({**GOOD, "name": 5})),
    ("wrong types", body({**GOOD, "timestamp": "yesterday"})),
    ("wrong types", body({**GOOD, "timestamp": None})),
    ("wrong types", body({**GOOD, "timestamp": -1})),
    ("wrong types", body({**GOOD, "timestamp": 0})),
    ("wrong types", body({**GOOD, "timestamp": math.nan})),
    ("wrong types", body({**GOOD, "retries": -1})),
    ("wrong types", body({**GOOD, "retries": "many"})),
    ("wrong types", body({**GOOD, "retries": 2**60})),
    ("wrong types", b'{"type": "task-started", "uuid": "a"}'),
    ("clock in the future", body({**GOOD, "timestamp": time() + 10 * FUTURE_LIMIT})),
    ("clock in the future", body({**GOOD, "timestamp": 1e300})),
    ("id or name too long", body(event("started", 1, "x" * (NAME_LIMIT + 1)))),
    ("id or name too long", body({**GOOD, "name": "x" * (NAME_LIMIT + 1)})),
    ("id or name too long", body({**GOOD, "hostname": "x" * (NAME_LIMIT + 1)})),
    ("too large", body(event("succeeded", 1, "a", result="x" * 5_000_000))),
]


@pytest.mark.parametrize(("kind", "text"), MALFORMED, ids=[kind for kind, _ in MALFORMED])
def test_what_is_malformed_is_counted_and_said_once(kind: str, text: bytes, caplog: pytest.LogCaptureFixture) -> None:
    decoder = Decoder()
    with caplog.at_level(logging.WARNING):
        assert [decoder.events(offset, text) for offset in (70, 71, 72)] == [[], [], []]
    assert decoder.malformed == {kind: 3}
    (line,) = caplog.messages
    assert kind in line
    assert "offset 70 " in line
    assert "\n" not in line
    assert len(line) < 1000


@pytest.mark.parametrize(
    "text",
    [
        with_raw("result", DEEP),
        with_raw("result", "9" * 10_000),
        with_raw("timestamp", "1" + "0" * 400),
        with_raw("timestamp", "1e999"),
        with_raw("runtime", "1" + "0" * 400),
        with_raw("unknown field", DEEP),
        with_raw("unknown field", "9" * 10_000),
        with_raw("uuid", '"\\ud800"'),
        with_raw("name", '"\\udfff\\ud800"'),
        with_raw("result", '"\\u0000"'),
        with_raw("uuid", '"a\\u0000b"'),
        *(with_raw("result", "[" * depth + "]" * depth) for depth in range(300, 3000, 50)),
    ],
    ids=lambda text: f"{len(text)} bytes",
)
def test_nothing_makes_it_fail(text: bytes) -> None:
    decoder = Decoder()
    good = body([GOOD])
    found = decoder.events(1, text)
    assert len(found) + sum(decoder.malformed.values()) == 1
    for one in found:
        assert all(isinstance(part, str) and part.encode() is not None for part in (one.uuid, one.type))
    assert [one.uuid for one in decoder.events(2, good)] == ["a"]


def test_good_events_beside_bad_ones_stay() -> None:
    decoder = Decoder()
    parts: list[Any] = [GOOD, 5, {"no": "type"}, {**GOOD, "uuid": "b"}, {**GOOD, "uuid": None}, {**GOOD, "uuid": "c"}]
    assert [one.uuid for one in decoder.events(1, body(parts))] == ["a", "b", "c"]
    assert decoder.malformed == {"not an object": 1, "no type": 1, "no uuid": 1}
    # The same, where all have the right types.
    parts = [GOOD, {**GOOD, "uuid": ""}, {**GOOD, "type": "task-progress"}, {**GOOD, "uuid": "b"}]
    assert [one.uuid for one in decoder.events(1, body(parts))] == ["a", "b"]


def test_a_kind_said_is_not_said_again_after_its_count_was_taken_back(caplog: pytest.LogCaptureFixture) -> None:
    decoder = Decoder()
    decoder.events(1, b"hello")
    decoder.malformed.clear()
    decoder.events(1, b"hello")
    assert decoder.malformed == {"not JSON": 1}
    assert len(caplog.messages) == 1


def test_what_python_writes_but_json_has_not() -> None:
    (one,) = Decoder().events(
        1, b'{"type": "task-succeeded", "uuid": "a", "timestamp": 9, "runtime": NaN, "result": "\\ud800"}'
    )
    assert (one.runtime, one.result) == (None, "\\ud800")


@pytest.mark.parametrize(
    ("value", "shown"), [([1, 2], "[1, 2]"), ({"a": None}, '{"a": null}'), (5, "5"), (True, "true"), ("x", "x")]
)
def test_what_is_text_elsewhere_is_shown_as_its_json(value: Any, shown: str) -> None:
    fields = dict.fromkeys(("args", "kwargs", "result", "exception", "traceback", "eta", "expires"), value)
    (one,) = Decoder().events(1, body(event("succeeded", 1, "a", **fields)))
    assert {field: getattr(one, field) for field in fields} == dict.fromkeys(fields, shown)


@pytest.mark.parametrize("runtime", [-1.0, 1e400, math.nan])
def test_a_runtime_that_cannot_be_is_none(runtime: float) -> None:
    (one,) = Decoder().events(1, body(event("succeeded", 1, "a", runtime=runtime)))
    assert one.runtime is None


@pytest.mark.parametrize("field", ["args", "eta", "queue", "root_id", "parent_id", "signum"])
def test_long_texts_keep_their_beginning_and_end(field: str) -> None:
    (one,) = Decoder().events(1, body({**event("revoked", 1, "a"), field: "first" + "x" * 1_000_000 + "last"}))
    found = getattr(one, field)
    assert (found[:5], found[-4:]) == ("first", "last")
    assert len(found) <= (TEXT_LIMIT if field == "args" else NAME_LIMIT)


def test_a_clock_that_is_ahead_keeps_the_order_of_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "time", lambda: BASE)
    decoder = Decoder()
    ahead = [event("received", 60, "a"), event("retried", 61, "a"), event("received", 62, "a")]
    first = decoder.events(1, body(ahead[:2]))
    second = decoder.events(2, body(ahead[2:]))
    stamps = [one.timestamp for one in (*first, *second)]
    assert stamps == sorted(set(stamps))
    assert BASE <= stamps[0] <= stamps[-1] < BASE + 1
    assert not decoder.malformed


def test_every_kind_of_event_that_celery_sends() -> None:
    all_of = [*life("a"), *life("b", end="failed"), *life("c", end="retried"), *life("d", end="revoked")]
    all_of += [event("rejected", 9, "e", requeue=True), event("cancelled", 9, "f")]
    all_of += [heartbeat(9), heartbeat(9, kind="online"), heartbeat(9, kind="offline")]
    decoder = Decoder()
    for events in (decoder.events(1, body(all_of)), [one for each in all_of for one in decoder.events(1, body(each))]):
        assert [one.type for one in events] == [one["type"] for one in all_of]
        assert [one.timestamp for one in events] == [one["timestamp"] for one in all_of]
    assert not decoder.malformed


def test_the_limits_leave_room_for_a_workers_largest_batch() -> None:
    batch = [event("failed", 1, str(number), traceback="x" * 10_000) for number in range(24)]
    text = body(batch)
    assert len(text) < MESSAGE_LIMIT
    assert len(Decoder().events(1, text)) == 24
    assert json.loads(text) == batch
