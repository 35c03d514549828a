"""A history as the monitor makes it, of events as workers send them; some of them mean harm."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

from app.monitor.history.attention import Attention, Limits
from app.monitor.history.reader import Reader
from app.monitor.history.schema import FILE
from app.monitor.history.store import History

__all__ = ["HOSTILE", "HOSTILE_ID", "Book"]

# What would run if it were not escaped somewhere: as an element, out of an attribute, in a script, in a template.
HOSTILE = (
    "</title></textarea></pre></script>\"'`><script>window.harmed=1</script>"
    "<img src=x onerror=window.harmed=1><svg onload=window.harmed=1><a href=javascript:window.harmed=1>{{harmed}}${harmed}"
)
HOSTILE_ID = f"id/{HOSTILE[:200]}?#%2F"

TRACEBACK = (
    "Traceback (most recent call last):\n"
    '  File "/srv/shop/orders.py", line 88, in charge_card\n'
    "    response = gateway.charge(order.total, card=card)\n"
    "CardDeclined: card ending 4242 was declined\n"
)


class Book:
    """Writes a history, event by event."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._history = History(folder)
        self._offset = 0

    def open(self) -> Reader:
        return Reader(self._folder / FILE)

    def close(self) -> None:
        self._history.close()

    def event(self, type: str, id: str, ago: float, **fields: Any) -> None:
        """One event that happened some seconds ago."""
        event = {"type": type, "timestamp": time.time() - ago, "hostname": "worker-1@warren", **fields}
        self._history.write([(self._offset, json.dumps({**event, "uuid": id} if id else event).encode())])
        self._offset += 1

    def task(
        self,
        name: str = "shop.orders.charge_card",
        *,
        id: str | None = None,
        ago: float = 60,
        worker: str = "worker-1@warren",
        sent: dict[str, Any] | None = None,
        ended: str | None = "task-succeeded",
        **fields: Any,
    ) -> str:
        """A task that was sent, ran for two seconds and ended so many seconds ago; its id."""
        id = id or str(uuid.uuid4())
        told = {"name": name, "args": "(1, 2)", "kwargs": "{}", "root_id": id, **(sent or {})}
        self.event("task-sent", id, ago + 3, **{"queue": "default", **told, "hostname": "gen1@shop"})
        self.event("task-received", id, ago + 2.5, **{**told, "hostname": worker})
        self.event("task-started", id, ago + 2, hostname=worker)
        if ended:
            result = {"result": "3", "runtime": 2.0} if ended == "task-succeeded" else {}
            if ended in {"task-failed", "task-retried"}:
                result = {"exception": "CardDeclined('card ending 4242 was declined')", "traceback": TRACEBACK}
            self.event(ended, id, ago, **{"hostname": worker, **result, **fields})
        return id

    def hostile(self) -> None:
        """A task and a worker that try to run a script in the reader's browser, in every field that they have."""
        self.task(
            f"x.{HOSTILE[:400]}",
            id=HOSTILE_ID,
            ago=10,
            worker=HOSTILE[:400],
            sent={"args": f"('{HOSTILE}',)", "kwargs": f"{{'{HOSTILE}': 1}}", "queue": HOSTILE[:200], "eta": HOSTILE},
            ended="task-failed",
            exception=HOSTILE,
            traceback=f"Traceback {HOSTILE}\n  {HOSTILE}",
        )
        self.event("worker-heartbeat", "", 0, hostname=HOSTILE[:400], sw_ident=HOSTILE, sw_ver=HOSTILE, active=1)

    def unclaimed(self) -> str:
        """A task that nobody received for an hour, and that was found to need attention."""
        id = str(uuid.uuid4())
        self.event("task-sent", id, 3600, name="shop.mail.send_receipt", args="(7,)", kwargs="{}", queue="mail")
        attention = Attention(self._history, Limits(300, 300, 10), lambda worker: True)
        self._history.transaction(lambda: attention.look(time.time()))
        return id
