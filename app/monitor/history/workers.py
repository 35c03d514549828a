"""The workers that were heard of lately."""

from __future__ import annotations

import sqlite3

import msgspec

from app.events.decoder import Event

__all__ = ["Worker", "Workers"]

# Seconds that a worker which fell silent is still listed: a night and a day, so that the morning sees what died.
REMEMBERED = 86_400
# Workers that are remembered at most; names of containers and pods are new at every start.
LIMIT = 5_000

UPSERT = """
    INSERT OR REPLACE INTO worker (name, heartbeat, online, offline, active, processed, pid, software, load)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


class Worker(msgspec.Struct):
    """A row of the table `worker`. Times are by the worker's own clock."""

    name: str
    heartbeat: float
    online: float | None = None
    offline: float | None = None
    active: int | None = None
    processed: int | None = None
    pid: int | None = None
    software: str | None = None
    load: str | None = None

    @property
    def gone(self) -> bool:
        """Whether it said goodbye."""
        return self.offline is not None


class Workers:
    """The table `worker`, from the writer's side; all of it is in memory."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._changed: set[str] = set()
        self.known: dict[str, Worker] = {}
        self.reload()

    def reload(self) -> None:
        """Reads the table again, after a transaction that was rolled back."""
        self._changed.clear()
        self.known = {row[0]: Worker(*row) for row in self._connection.execute("SELECT * FROM worker")}

    def hear(self, event: Event) -> None:
        """Notes one of a worker's own events."""
        name, stamp = event.hostname or "", event.timestamp
        worker = self.known.get(name)
        if worker is None:
            worker = self.known[name] = Worker(name, stamp)
        elif stamp < worker.heartbeat:
            return
        worker.heartbeat = stamp
        self._changed.add(name)
        if event.type == "worker-offline":
            worker.offline, worker.active = stamp, 0
            return
        worker.offline = None
        # "Online" is also said by a process that found its broker again; it knows what it runs. And a process of the same
        # name may have replaced one that could say nothing.
        begun = event.type == "worker-online" and not (event.active and worker.online is not None)
        if begun or (event.pid is not None and worker.pid not in {None, event.pid}):
            worker.online = stamp
        worker.active, worker.processed, worker.pid = event.active, event.processed, event.pid
        if event.sw_ident:
            worker.software = f"{event.sw_ident} {event.sw_ver or ''}".strip()
        if event.loadavg:
            worker.load = " ".join(f"{value:.2f}" for value in event.loadavg[:3])

    def flush(self) -> None:
        """Within the caller's transaction."""
        if self._changed:
            rows = [msgspec.structs.astuple(self.known[name]) for name in self._changed if name in self.known]
            self._connection.executemany(UPSERT, rows)
            self._changed.clear()

    def purge(self, now: float) -> None:
        """Forgets who has been silent for long. Within the caller's transaction."""
        by_age = sorted(self.known.values(), key=lambda worker: worker.heartbeat)
        excess = len(by_age) - LIMIT
        old = [one.name for place, one in enumerate(by_age) if place < excess or one.heartbeat < now - REMEMBERED]
        for name in old:
            del self.known[name]
        self._connection.executemany("DELETE FROM worker WHERE name = ?", [(name,) for name in old])
