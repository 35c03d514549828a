"""When Flower is ready, and when it is deaf."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from app.flower.health import Health


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(30, 300, clock)


def test_not_ready_until_the_end_of_the_log_was_seen(health: Health, clock: Clock) -> None:
    health.status.lag_events = 200_000
    assert health.not_ready() == "the event log is being read, some 200,000 events are left"
    assert not health.caught_up
    health.end_seen(clock.now)
    assert health.not_ready() is None
    assert health.caught_up


def test_ready_for_as_long_as_the_end_was_seen_lately(health: Health, clock: Clock) -> None:
    health.end_seen(clock.now)
    clock.now += 30
    assert health.not_ready() is None
    clock.now += 1
    assert health.not_ready() == "the end of the event log was last seen 31 s ago"
    health.status.lag_events = 5
    assert "some 5 events are left" in str(health.not_ready())
    # Of what was heard before, not of now.
    health.end_seen(clock.now - 40)
    assert health.not_ready() is not None
    health.status.lag_events = 0
    health.end_seen(clock.now - 4)
    assert health.not_ready() is None
    assert health.caught_up


def test_the_reason_is_that_of_the_broker(health: Health, clock: Clock) -> None:
    health.trouble = "no broker at rabbitmq:5672 (Connection refused)"
    assert health.not_ready() == "no broker at rabbitmq:5672 (Connection refused)"
    health.end_seen(clock.now)
    assert health.not_ready() is None
    health.trouble = "no broker at rabbitmq:5672 (Connection refused)"
    # A broker that restarts takes nobody off the line.
    assert health.not_ready() is None
    clock.now += 31
    assert health.not_ready() == "no broker at rabbitmq:5672 (Connection refused)"


def test_deaf_is_who_does_nothing_at_all(health: Health, clock: Clock) -> None:
    clock.now += 300
    assert health.deaf() is None
    clock.now += 1
    assert health.deaf() == 301
    health.beat()
    assert health.deaf() is None
    clock.now += 200
    health.end_seen(clock.now - 150)
    clock.now += 299
    assert health.deaf() is None
