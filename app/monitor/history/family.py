"""Tasks that came of the same first one, as a tree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["walk"]


def walk(family: Iterable[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each task once, below the one that sent it, with its depth; of tasks with the same parent, in their order.

    A task whose parent is not there begins a tree of its own.
    """
    tasks = {task["id"]: task for task in family}
    below: dict[str | None, list[dict[str, Any]]] = {}
    for task in tasks.values():
        parent = task.get("parent") if task.get("parent") in tasks and task["parent"] != task["id"] else None
        below.setdefault(parent, []).append(task)
    seen: set[str] = set()
    # What events claim need not be a tree: whoever is its own ancestor comes last.
    for first in [*below.get(None, []), *tasks.values()]:
        # A stack instead of recursion: chains of tasks may be longer than Python goes deep.
        waiting = [(0, first)]
        while waiting:
            depth, task = waiting.pop()
            if task["id"] in seen:
                continue
            seen.add(task["id"])
            yield depth, task
            waiting += [(depth + 1, child) for child in reversed(below.get(task["id"], []))]
