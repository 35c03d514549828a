"""Which queues are paused, from the stream of revokes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.eventlog import Unavailable
from app.revokes import log


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> list[log.Record]:
    records: list[log.Record] = []

    def replay(url: str, start: str, stream: str) -> Iterator[tuple[int, bytes]]:
        assert (url, start, stream) == ("amqp://x", "first", "celery.revoked")
        yield from enumerate(log.encoder.encode(record) for record in records)

    monkeypatch.setattr(log, "replay_raw", replay)
    return records


def test_the_last_word_on_a_queue_counts(stream: list[log.Record]) -> None:
    assert log.paused("amqp://x") == {}
    stream += [
        log.make(queue="a", paused=True, by="me"),
        log.make(["00000000-8f2d-4a51-9c0e-3d1f7a2b4c6d"]),
        log.make(queue="b", paused=True),
        log.make(mark="m"),
        log.make(queue="b"),
    ]
    assert log.paused("amqp://x") == {"a": stream[0]}
    stream.append(log.make(queue="a"))
    assert log.paused("amqp://x") == {}


def test_pauses_are_no_revokes(stream: list[log.Record]) -> None:
    stream += [log.make(queue="a", paused=True), log.make(["x"]), log.make(queue="a"), log.make(mark="m")]
    assert list(log.read("amqp://x")) == [stream[1]]


def test_a_stream_that_takes_too_long(stream: list[log.Record]) -> None:
    stream.append(log.make(queue="a", paused=True))
    with pytest.raises(Unavailable, match="too long to be read"):
        log.paused("amqp://x", -1)
