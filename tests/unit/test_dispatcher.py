"""app/dispatcher.py: a worker's events where its connection is lost."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from app.dispatcher import Dispatcher, Farewell


def make() -> Dispatcher:
    return Dispatcher(app=Celery(set_as_current=False, broker="memory://"), enabled=False, hostname="here")


def test_what_was_gathered_goes_to_the_next_connection_too() -> None:
    before, after = make(), make()
    before._outbound_buffer.append(("unsent", "task.failed"))
    gathered = {"type": "task-cancelled"}
    before._group_buffer["task"].append(gathered)
    after.extend_buffer(before)
    assert list(after._outbound_buffer) == [("unsent", "task.failed"), ([gathered], "task.multi")]
    assert not before._group_buffer["task"]


@pytest.mark.parametrize(("own", "expected"), [(True, 1), (False, None)])
def test_a_heartbeat_waits_for_no_broker_that_is_away(own: bool, expected: int | None) -> None:
    sent: list[dict[str, Any]] = []
    producer = SimpleNamespace(publish=lambda _, **options: sent.append(options), serializer="json")
    made = make()
    made.producer = producer if own else object()
    made._publish({"type": "worker-heartbeat"}, producer, "worker.heartbeat", retry=True)
    (options,) = sent
    assert options["retry"] is True
    assert (options["retry_policy"] or {}).get("max_retries") == expected


class Connection:
    """As much of one as the step needs."""

    def __init__(self, blocked: bool = False) -> None:
        self._connection = SimpleNamespace(blocked=blocked)
        self.collected = False

    def collect(self) -> None:
        self.collected = True


@pytest.mark.parametrize(("lost", "expected"), [(True, True), (False, False)])
def test_a_lost_connection_takes_that_of_events_with_it(lost: bool, expected: bool) -> None:
    events = Connection()
    consumer: Any = SimpleNamespace(
        connection=None if lost else object(), event_dispatcher=SimpleNamespace(connection=events)
    )
    Farewell(consumer).stop(consumer)
    assert events.collected is expected


@pytest.mark.parametrize("blocked", [True, False])
def test_a_broker_that_takes_no_messages_is_not_waited_for(blocked: bool) -> None:
    events = Connection(blocked)
    consumer: Any = SimpleNamespace(event_dispatcher=SimpleNamespace(connection=events))
    Farewell(consumer).shutdown(consumer)
    assert events.collected is blocked


def test_a_worker_without_events_has_nobody_to_leave() -> None:
    consumer: Any = SimpleNamespace(connection=None, event_dispatcher=None)
    Farewell(consumer).stop(consumer)
    Farewell(consumer).shutdown(consumer)
