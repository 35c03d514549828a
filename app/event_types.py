"""The types of events. Imports nothing: whatever reads, writes, offers or checks them takes them from here."""

from __future__ import annotations

__all__ = ["CONCLUDED", "HEARTBEAT", "LOGGED", "TASK_TYPES", "TYPES", "WORKER_TYPES"]

# What the event log has of tasks, as Celery writes it.
LOGGED = tuple(
    f"task-{what}"
    for what in (
        *("sent", "received", "started", "succeeded", "failed"),
        *("retried", "revoked", "rejected", "cancelled"),
    )
)
# What the monitor concludes by itself: nobody tells of a task that nobody takes, or whose worker died.
CONCLUDED = ("task-unclaimed", "task-stalled", "task-orphaned")
# Only in the log: nobody wants to be told of one every two seconds.
HEARTBEAT = "worker-heartbeat"

TASK_TYPES = (*LOGGED, *CONCLUDED)
WORKER_TYPES = ("worker-online", "worker-offline")
# What the monitor tells: its handlers, and readers of its live tail.
TYPES = (*TASK_TYPES, *WORKER_TYPES)
