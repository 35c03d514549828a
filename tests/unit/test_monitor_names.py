"""The names that the monitor remembers."""

from __future__ import annotations

from typing import Any

import pytest

from app.monitor.names import UNKNOWN, Names


def test_a_name_is_known_until_others_take_its_place() -> None:
    names = Names(limit=2)
    for uuid in "abc":
        names.learn({"uuid": uuid, "name": f"task-{uuid}"})
    assert [names.of({"uuid": uuid}) for uuid in "abc"] == [UNKNOWN, "task-b", "task-c"]
    assert len(names) == 2


def test_a_task_that_is_heard_of_stays() -> None:
    names = Names(limit=2)
    names.learn({"uuid": "a", "name": "one"})
    names.learn({"uuid": "b", "name": "two"})
    names.of({"uuid": "a"})
    names.learn({"uuid": "c", "name": "three"})
    assert names.of({"uuid": "a"}) == "one"
    assert names.of({"uuid": "b"}) == UNKNOWN


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"uuid": "a"},
        {"name": "x"},
        {"uuid": 1, "name": "x"},
        {"uuid": "a", "name": ["x"]},
        {"uuid": "a", "name": ""},
    ],
)
def test_events_without_a_usable_name_teach_nothing(event: dict[str, Any]) -> None:
    names = Names()
    names.learn(event)
    assert len(names) == 0
    assert names.of(event) == UNKNOWN
