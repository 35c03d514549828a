"""Handlers: what is to happen when something happens to a task. Functions of the user's, a webhook, a command.

    from app.monitor.handlers import on

    @on("task-failed", "task-orphaned", name="shop.*")
    def tell(event: dict) -> None: ...

in a module that MONITOR_HANDLERS names.

    registry.py   which handler wants which events
    loading.py    from settings to a registry
    outbox.py     what waits for whom, in the history's database
    delivery.py   a thread a handler, which hands over, tries again and notes what is done
    webhook.py    sends events to a URL
    command.py    runs a program for each event
    failure.py    what went wrong, in a line

The monitor writes an event into the outbox in the transaction that also notes its position in the log, and a handler's
row goes when the handler has returned. So every event reaches every handler that wants it, at least once, in order.
"""

from __future__ import annotations

from app.event_types import TYPES
from app.monitor.handlers.delivery import Delivery, HandlerStats
from app.monitor.handlers.loading import load
from app.monitor.handlers.outbox import enroll, positions, retire, trim
from app.monitor.handlers.registry import Handler, Registry, on

__all__ = [
    "TYPES",
    "Delivery",
    "Handler",
    "HandlerStats",
    "Registry",
    "enroll",
    "load",
    "on",
    "positions",
    "retire",
    "trim",
]
