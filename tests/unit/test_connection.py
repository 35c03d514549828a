"""app/connection.py: how long a worker waits between attempts to reach its broker."""

from __future__ import annotations

from typing import Any

import kombu
import pytest

from app import connection, factory
from app.settings import AppSettings


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(kombu.Connection, "_ensure_connection", lambda _, *args, **kwargs: calls.append((args, kwargs)))
    return calls


def test_celery_gets_our_waits(asked: list[tuple[Any, ...]]) -> None:
    made = factory.make(AppSettings()).connection_for_read()
    made.ensure_connection(print, 3, callback=print)
    waits = {"interval_start": connection.FIRST, "interval_step": connection.STEP, "interval_max": connection.LONGEST}
    assert asked == [((print, 3), {**waits, "callback": print})]


def test_who_names_waits_keeps_them(asked: list[tuple[Any, ...]]) -> None:
    made = connection.Connection("amqp://")
    made.ensure_connection(interval_start=7)
    made.ensure_connection(None, None, 1, 2, 3)
    assert asked[0][1]["interval_start"] == 7
    assert asked[1] == ((None, None, 1, 2, 3), {})
