"""What the view shows of one moment, gathered from the monitor and the broker, each of which may be away."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any, TypeAlias

from deploy import management, monitor_api
from deploy.commands.history import FAILED
from deploy.commands.stack import queue_row, shown
from deploy.errors import WarrenError
from deploy.session import Session

__all__ = ["Gatherer", "Snapshot"]

Snapshot: TypeAlias = dict[str, Any]

# Minutes that the small chart shows.
MINUTES = 30
# Seconds that rates are taken over: long enough to be readable, short enough to be of now.
WINDOW = 10.0
# Seconds. Answers take hundredths; a frame should not wait long for one that does not come.
PATIENCE = 3.0
# Tasks of each list. No terminal shows more.
TASKS = 50

ENDS = ("succeeded", "failed", "retried", "revoked")
RATES = ("started", *ENDS)


class Gatherer:
    """Gathers one snapshot after the other. What can't be had now is as it was, and its source says why."""

    def __init__(self, session: Session, clock: Callable[[], float] = monotonic) -> None:
        self._session = session
        self._clock = clock
        self._monitor: dict[str, Any] = {
            **{"workers": [], "counts": {}, "minutes": [], "attention": [], "failures": []},
            "rates": dict.fromkeys(RATES),
        }
        self._queues: list[dict[str, Any]] = []
        self._totals = Totals()
        self._sums: deque[tuple[float, dict[str, int]]] = deque()

    def snapshot(self) -> Snapshot:
        now = datetime.now(UTC)
        monitor_error = broker_error = behind = None
        try:
            behind = monitor_api.behind(self._session.endpoints)
            self._monitor = self._ask_monitor(now)
        except WarrenError as error:
            monitor_error = str(error)
        try:
            found = management.queues(self._session.endpoints, self._session.secrets)
            self._queues = [queue_row(queue) for queue in found if shown(queue)]
            broker_error = "; ".join(
                f"the {what} alarm is on: it takes no messages"
                for what in management.alarms(self._session.endpoints, self._session.secrets)
            )
        except WarrenError as error:
            broker_error = str(error)
        return {
            "time": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "project": self._session.settings.project,
            "monitor": {"behind": behind, "error": monitor_error},
            "broker": {"error": broker_error or None},
            "queues": self._queues,
            **self._monitor,
        }

    def _ask_monitor(self, now: datetime) -> dict[str, Any]:
        since = now.replace(second=0, microsecond=0) - timedelta(minutes=MINUTES - 1)
        until = since + timedelta(minutes=MINUTES)
        minutes = self._get(
            "/chart", {"since": since.isoformat(), "until": until.isoformat(), "points": MINUTES}, "points"
        )
        workers = self._get("/workers", None, "workers")
        return {
            "workers": workers,
            "counts": self._get("/counts", None),
            "minutes": minutes,
            "rates": self._rates(minutes, workers),
            "attention": self._get("/tasks", {"attention": "any", "limit": TASKS}, "tasks"),
            "failures": self._get("/tasks", {"state": ",".join(FAILED), "limit": TASKS}, "tasks"),
        }

    def _get(self, path: str, values: dict[str, str | int | None] | None, key: str | None = None) -> Any:
        found = monitor_api.get(self._session.endpoints, self._session.secrets, path, values, patience=PATIENCE)
        return found[key] if key else found

    def _rates(self, minutes: list[dict[str, Any]], workers: list[dict[str, Any]]) -> dict[str, float | None]:
        """Starts and ends a second: of the last seconds, or for want of an earlier look, ends of the last whole minute."""
        now = self._clock()
        self._sums.append((now, self._totals.after(minutes, workers)))
        while len(self._sums) > 2 and now - self._sums[1][0] >= WINDOW:
            self._sums.popleft()
        then, before = self._sums[0]
        if now > then:
            latest = self._sums[-1][1]
            return {what: (latest[what] - before[what]) / (now - then) for what in RATES}
        if len(minutes) < 2:
            return dict.fromkeys(RATES)
        return {"started": None, **{end: (minutes[-2].get(end) or 0) / 60 for end in ENDS}}


class Totals:
    """Adds up a chart whose minutes move on, of which each look tells some that the look before told too; and what
    workers say that they have started since they began."""

    def __init__(self) -> None:
        self._last: dict[str, dict[str, int]] = {}
        self._started: dict[str, int] = {}
        self._sums = dict.fromkeys(RATES, 0)

    def after(self, minutes: list[dict[str, Any]], workers: list[dict[str, Any]]) -> dict[str, int]:
        for worker in workers:
            name, started = str(worker["name"]), worker.get("processed")
            if isinstance(started, int):
                self._sums["started"] += max(0, started - self._started.get(name, started))
                self._started[name] = started
        now = {str(minute["time"]): {end: int(minute.get(end) or 0) for end in ENDS} for minute in minutes}
        for time, ends in now.items():
            before = self._last.get(time, {})
            for end in ENDS:
                self._sums[end] += max(0, ends[end] - before.get(end, 0))
        self._last = now
        return dict(self._sums)
