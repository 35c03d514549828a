"""What workers tell of themselves: `inspect`, one question to all of them, and `workers`, a line for each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from app.monitor.history.clock import read_time
from deploy import monitor_api
from deploy.commands import control, looks
from deploy.commands.control import by_node, connected, logs_of, nodes, refuse_under_alarm
from deploy.errors import ExitCode, WarrenError
from deploy.output import note, print_json, table
from deploy.session import Session

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["Workers", "inspect", "workers"]

# Seconds. What the monitor adds is worth no more.
MONITOR_PATIENCE = 2.0
# Characters of a setting's value in the table; --json has all of it.
WIDEST = 100


class Workers:
    """The workers that listen to remote control now, and what they answer.

    Args:
        only: one of them, or all where it is empty.

    Raises:
        WarrenError: there is none, or none of that name (exit code 7).
    """

    def __init__(self, s: Session, only: str = "") -> None:
        self.session = s
        known = nodes(s)
        if only and only not in known:
            raise WarrenError(
                f"there is no worker {only!r}; " + (f"there are {', '.join(known)}" if known else "none is up"),
                ExitCode.UNKNOWN,
            )
        if not known:
            refuse_under_alarm(s)
            raise WarrenError(
                "no worker is connected to the broker; `invoke status` shows why, `invoke scale-workers 1` starts one",
                ExitCode.UNKNOWN,
            )
        self.known = [only] if only else known
        self._app: Celery = s.client("ops")
        self._silent: set[str] = set()

    @property
    def silent(self) -> list[str]:
        """Who did not answer the questions so far."""
        return sorted(self._silent)

    def ask(self, method: str, **arguments: Any) -> dict[str, Any]:
        """What each worker answers to a command of remote control. Who was silent before is not waited for again."""
        told = [one for one in self.known if one not in self._silent]
        if not told:
            return {}
        self.session.runner.show(f"celery -A app inspect {method} --destination {','.join(told)}  # as user ops")
        return self._broadcast(method, told, arguments)

    def tell(self, method: str, **arguments: Any) -> dict[str, Any]:
        """As :meth:`ask`, for what changes something; nothing where this is a dry run."""
        words = " ".join(str(value) for value in arguments.values() if value is not None)
        if not self.session.acts(f"celery -A app control {method} {words}  # as user ops"):
            return {}
        return self._broadcast(method, self.known, arguments)

    def _broadcast(self, method: str, told: list[str], arguments: dict[str, Any]) -> dict[str, Any]:
        replies = self._app.control.broadcast(
            method, arguments=arguments, destination=told, reply=True, limit=len(told), timeout=control.REPLY_PATIENCE
        )
        answers = by_node(replies)
        self._silent |= set(told) - set(answers)
        return {node: answers[node] for node in sorted(answers)}

    def require_all(self) -> None:
        """Raises WarrenError (exit code 8) where one did not answer."""
        if self._silent:
            refuse_under_alarm(self.session)
            raise WarrenError(
                f"{len(self._silent)} of {len(self.known)} workers did not answer within {control.REPLY_PATIENCE:g} s: "
                f"{', '.join(self.silent)}; see {logs_of(self.session, self.silent)}",
                ExitCode.TIMEOUT,
            )


# --- inspect

Rows = Iterable[tuple[Any, ...]]

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "active": ("active", {}),
    "reserved": ("reserved", {}),
    "scheduled": ("scheduled", {}),
    "registered": ("registered", {"taskinfoitems": ["rate_limit", "soft_time_limit", "time_limit", "max_retries"]}),
    "stats": ("stats", {}),
    "conf": ("conf", {"with_defaults": False}),
}


def inspect(s: Session, kind: str, worker: str, as_json: bool) -> None:
    if kind not in KINDS:
        raise WarrenError(f"inspect what? One of {', '.join(KINDS)}, not {kind!r}", ExitCode.USAGE)
    method, arguments = KINDS[kind]
    with connected(s, "ops"):
        asked = Workers(s, worker)
        answers = asked.ask(method, **arguments)
    if as_json:
        print_json({"answers": answers, "silent": asked.silent})
    elif answers:
        headings, rows, right = TABLES[kind](answers)
        if rows:
            table(headings, rows, right=right)
        else:
            note(NOTHING[kind])
    asked.require_all()


NOTHING = {
    "active": "no worker runs a task",
    "reserved": "no worker holds a task that it does not run yet",
    "scheduled": "no worker holds a task for later: the broker does, see `invoke schedule`",
    "registered": "no worker knows a task",
    "stats": "no worker tells anything",
    "conf": "no worker has a setting of its own",
}

Table = tuple[tuple[str, ...], list[tuple[Any, ...]], tuple[str, ...]]


def tasks_table(answers: dict[str, Any]) -> Table:
    now = time.time()
    rows = []
    for node, tasks in answers.items():
        for task in tasks:
            begun = task.get("time_start")
            runs = looks.duration(max(0.0, now - begun)) if isinstance(begun, int | float) else ""
            queue = (task.get("delivery_info") or {}).get("routing_key")
            rows.append((node, *described(task), queue, runs, task.get("worker_pid")))
    return ("worker", "name", "id", "args", "kwargs", "queue", "runs for", "pid"), rows, ("runs for", "pid")


def scheduled_table(answers: dict[str, Any]) -> Table:
    rows = [
        (node, *described(entry.get("request") or {}), entry.get("eta"))
        for node, entries in answers.items()
        for entry in entries
    ]
    return ("worker", "name", "id", "args", "kwargs", "eta"), rows, ()


def described(task: dict[str, Any]) -> tuple[str, ...]:
    """What a person looks for in a task: name, id, arguments, nothing of it longer than a line."""
    args, kwargs = task.get("args"), task.get("kwargs")
    texts = (task.get("name"), task.get("id"), args or "", kwargs or "")
    return tuple(looks.one_line(text)[:80] for text in texts)


def registered_table(answers: dict[str, Any]) -> Table:
    found: dict[tuple[str, str], list[str]] = {}
    for node, entries in answers.items():
        for entry in entries:
            name, _, options = entry.partition(" ")
            found.setdefault((name, options.strip("[]")), []).append(node)
    rows = [(name, options, everybody(on, answers)) for (name, options), on in sorted(found.items())]
    return ("task", "options", "workers"), rows, ()


def everybody(on: list[str], answers: dict[str, Any]) -> str:
    return "all" if len(on) == len(answers) else ", ".join(on)


def stats_table(answers: dict[str, Any]) -> Table:
    rows = [
        (
            node,
            *(told[key] for key in ("pool", "kind", "concurrency", "pid", "processed", "uptime", "memory", "prefetch")),
        )
        for node, told in ((node, summary(stats)) for node, stats in answers.items())
    ]
    headings = ("worker", "pool", "kind", "concurrency", "pid", "processed", "uptime", "memory", "prefetch")
    return headings, [in_words(row, headings) for row in rows], NUMBERS


def conf_table(answers: dict[str, Any]) -> Table:
    found: dict[tuple[str, str], list[str]] = {}
    for node, settings in answers.items():
        for name, value in settings.items():
            # Lists of names are sets to Celery, and in another order on each worker.
            names = isinstance(value, list) and all(isinstance(one, str) for one in value)
            found.setdefault((name, looks.one_line(sorted(value) if names else value)), []).append(node)
    rows = [
        (name, value if len(value) <= WIDEST else f"{value[: WIDEST - 1]}…", everybody(on, answers))
        for (name, value), on in sorted(found.items())
    ]
    return ("setting", "value", "workers"), rows, ()


TABLES: dict[str, Callable[[dict[str, Any]], Table]] = {
    "active": tasks_table,
    "reserved": tasks_table,
    "scheduled": scheduled_table,
    "registered": registered_table,
    "stats": stats_table,
    "conf": conf_table,
}

NUMBERS = ("concurrency", "pid", "active", "processed", "uptime", "memory", "prefetch")


def in_words(row: tuple[Any, ...], headings: tuple[str, ...]) -> tuple[Any, ...]:
    """``row`` with its uptime and its memory in the units that a person would choose."""
    shown = dict(zip(headings, row, strict=True))
    if shown.get("uptime") is not None:
        shown["uptime"] = looks.duration(float(shown["uptime"]))
    if shown.get("memory") is not None:
        shown["memory"] = f"{shown['memory'] / 2**20:.0f} MiB"
    return tuple(shown.values())


def summary(stats: dict[str, Any]) -> dict[str, Any]:
    """What of a worker's statistics people ask for; memory in bytes, uptime in seconds, None for what it does not tell."""
    pool = stats.get("pool") or {}
    peak = (stats.get("rusage") or {}).get("maxrss")
    return {
        # What Celery calls its pool.
        "kind": str(pool.get("implementation", "")).partition(":")[0].rpartition(".")[2] or None,
        "pool": stats.get("worker_pool"),
        "concurrency": pool.get("max-concurrency"),
        "pid": stats.get("pid"),
        "processed": sum((stats.get("total") or {}).values()),
        "uptime": stats.get("uptime"),
        # KiB on Linux. Of the worker's main process: each of its pool processes has about as much.
        "memory": peak * 1024 if isinstance(peak, int) else None,
        "prefetch": stats.get("prefetch_count"),
    }


# --- workers


def workers(s: Session, every: bool, as_json: bool) -> None:
    heard = {one["name"]: one for one in from_monitor(s)} if every else {}
    with connected(s, "ops"):
        try:
            asked = Workers(s)
        except WarrenError as error:
            if error.code is not ExitCode.UNKNOWN or not heard:
                raise
            asked = None
        stats = asked.ask("stats") if asked else {}
        queues = asked.ask("active_queues") if asked else {}
        active = asked.ask("active") if asked else {}
    rows = []
    known = asked.known if asked else []
    for name in (*known, *(name for name in heard if name not in known)):
        told = summary(stats[name]) if name in stats else {}
        rows.append(
            {
                "name": name,
                "alive": name in stats,
                "pool": told.get("pool"),
                "concurrency": told.get("concurrency"),
                "active": len(active[name]) if name in active else None,
                "processed": told.get("processed", heard.get(name, {}).get("processed")),
                "uptime": told.get("uptime"),
                "memory": told.get("memory"),
                "queues": sorted(queue["name"] for queue in queues[name]) if name in queues else None,
                "heartbeat": heard.get(name, {}).get("heartbeat"),
                "kind": told.get("kind"),
            }
        )
    if as_json:
        print_json(rows)
    else:
        headings = ("worker", "alive", "pool", "concurrency", "active", "processed", "uptime", "memory", "queues")
        table(headings, [in_words(cells(row), headings) for row in rows], right=NUMBERS)
    if asked:
        asked.require_all()


def cells(row: dict[str, Any]) -> tuple[Any, ...]:
    """A worker's line, with its last heartbeat where it is gone."""
    last = read_time(row["heartbeat"])
    alive = "yes" if row["alive"] else f"no, heard {last:%m-%d %H:%M:%S}" if last else "silent"
    queues = "" if row["queues"] is None else ", ".join(row["queues"]) or "none"
    return (row["name"], alive, *list(row.values())[2:8], queues)


def from_monitor(s: Session) -> list[dict[str, Any]]:
    """The workers that the monitor has heard of in the last day; none, and a note, where it does not answer."""
    try:
        answer = monitor_api.get(s.endpoints, s.secrets, "/workers", patience=MONITOR_PATIENCE)
    except WarrenError as error:
        if error.code is not ExitCode.MONITOR:
            raise
        note(f"{str(error).partition(';')[0]}; workers that are gone are not known")
        return []
    found: list[dict[str, Any]] = answer["workers"]
    return found
