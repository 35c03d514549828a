"""What happened to tasks, from the monitor: lists of them, and all there is to know of one."""

from __future__ import annotations

import time
from typing import Any

from deploy import monitor_api
from deploy.commands import looks
from deploy.errors import ExitCode, WarrenError
from deploy.output import note, print_json
from deploy.session import Session

__all__ = ["history"]

SORTS = ("time", "runtime", "wait")

# What a person calls failed: a rejected task has not ended well either, it went to the queue dead_letters.
FAILED = ("FAILURE", "REJECTED")

# Tasks that the API gives at once.
PAGE = 1000
# Seconds after which a search that finds little is told as it is. Each request is cut short by the monitor itself.
SEARCH_LIMIT = 5.0


def history(s: Session, limit: int, as_json: bool, **filters: Any) -> None:
    asked = query(**filters)
    tasks, more = search(s, asked, limit)
    if as_json:
        print_json({"tasks": tasks, "more": more})
        return
    if not tasks:
        cut = " so far: the search was cut off; narrow it with --since, --name or --worker"
        note("no task matches" + (cut if more else ""))
        return
    console = looks.console()
    for one in looks.listing(tasks, looks.terminal_width()):
        console.print(one)
    if more:
        note(hint(tasks, limit, str(asked["sort"])))


def query(
    *,
    failed: bool = False,
    state: str = "",
    attention: bool = False,
    sort: str = "time",
    reverse: bool = False,
    **words: str,
) -> dict[str, str]:
    """What to ask the monitor for.

    Raises:
        WarrenError: there is no such order (exit code 2). What else may be wrong, the monitor says.
    """
    states = [one.strip().upper() for one in state.split(",") if one.strip()]
    if failed:
        states += [one for one in FAILED if one not in states]
    if sort not in SORTS:
        raise WarrenError(f"--sort is one of {', '.join(SORTS)}, not {sort!r}", ExitCode.USAGE)
    return {
        "state": ",".join(states),
        "attention": "any" if attention else "",
        "sort": sort if reverse else f"-{sort}",
        **words,
    }


def search(s: Session, asked: dict[str, str], limit: int) -> tuple[list[dict[str, Any]], bool]:
    """The first ``limit`` tasks that match, and whether there are, or may be, more."""
    s.endpoints.soon("monitor")
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    end = time.monotonic() + SEARCH_LIMIT
    while True:
        values = {**asked, "limit": min(PAGE, limit - len(found)), "cursor": cursor}
        page = monitor_api.get(s.endpoints, s.secrets, "/tasks", values)
        found += page["tasks"]
        cursor = page["next"]
        if not cursor or len(found) >= limit or time.monotonic() > end:
            return found, bool(cursor)


def hint(tasks: list[dict[str, Any]], limit: int, sort: str) -> str:
    """How to see the tasks that are not shown."""
    if len(tasks) < limit:
        return "the search was cut short; narrow it with --since, --name or --state"
    if sort == "-time" and tasks[-1].get("time"):
        return f"there are more: --limit {limit * 5}, or --until {tasks[-1]['time']} for those before"
    return f"there are more: --limit {limit * 5}"
