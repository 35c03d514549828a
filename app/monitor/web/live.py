"""``/events``: changes as server-sent events."""

from __future__ import annotations

import asyncio
from typing import ClassVar, cast

from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError

from app.event_types import TYPES
from app.monitor.web.base import Base
from app.monitor.web.broadcast import Full, Listener, Wanted
from app.monitor.web.errors import Refused

__all__ = ["Events"]

# Seconds. Proxies close what has been silent for a minute.
HEARTBEAT = 15
# Seconds in which a reader must take something while there is something to take.
STALL_LIMIT = 60
# Milliseconds that browsers wait before they connect again.
RETRY = b"retry: 2000\n\n"


class Events(Base):
    parameters: ClassVar = ("type", "name", "id")

    async def get(self) -> None:
        of = self.read_parameters()
        wanted = Wanted(frozenset(of.choices("type", TYPES)), of.text("name"), of.text("id"))
        self.start()
        if self.request.method == "HEAD":
            return
        self._listener = Listener(self._cut)
        try:
            self.shared.broadcast.join(wanted, self._listener)
        except Full:
            raise Refused(503, "too many readers of /events at once; try again later", {"Retry-After": "30"}) from None
        try:
            await self._send(self._listener)
        except (StreamClosedError, TimeoutError):
            self._cut()
        finally:
            self.shared.broadcast.quit(wanted, self._listener)

    def start(self) -> None:
        self.set_header("Content-Type", "text/event-stream; charset=utf-8")
        # nginx would collect the events into blocks.
        self.set_header("X-Accel-Buffering", "no")

    async def _send(self, listener: Listener) -> None:
        self.write(RETRY)
        await self.flush()
        while not listener.behind:
            if portion := listener.portion():
                self.write(portion)
            elif await listener.news(HEARTBEAT):
                continue
            else:
                self.write(b":\n\n")
            await asyncio.wait_for(self.flush(), STALL_LIMIT)

    def _cut(self) -> None:
        cast(HTTP1Connection, self.request.connection).stream.close()

    def on_connection_close(self) -> None:
        listener = getattr(self, "_listener", None)
        if listener is not None and not listener.behind:
            listener.drop()
