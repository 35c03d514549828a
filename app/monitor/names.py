"""The names of tasks by their ids: only the events "sent" and "received" carry them."""

from __future__ import annotations

from collections import OrderedDict
from sys import intern

from app.eventlog import Event

__all__ = ["UNKNOWN", "Names"]

UNKNOWN = "unknown"

# Tasks that may be between "sent" and their end at once and still keep their name. 100,000 names take 25 MB, which a
# monitor of fewer tasks never uses.
LIMIT = 100_000


class Names:
    """The names of the tasks heard of last."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._names: OrderedDict[str, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._names)

    def learn(self, event: Event) -> None:
        """Remembers the name, where the event has one."""
        uuid, name = event.get("uuid"), event.get("name")
        if not isinstance(uuid, str) or not isinstance(name, str) or not name:
            return
        # There are far fewer names than tasks.
        self._names[uuid] = intern(name)
        self._names.move_to_end(uuid)
        if len(self._names) > self._limit:
            self._names.popitem(last=False)

    def of(self, event: Event) -> str:
        """The name of the event's task."""
        uuid = event.get("uuid")
        if not isinstance(uuid, str) or (name := self._names.get(uuid)) is None:
            return UNKNOWN
        self._names.move_to_end(uuid)
        return name
