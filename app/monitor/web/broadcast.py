"""Changes as they happen, for all readers of /events: encoded once, kept for each no longer than it may lag."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import Callable
from fnmatch import fnmatchcase
from threading import Lock
from typing import NamedTuple

import msgspec

from app.monitor.hub import Change, Hub

__all__ = ["Broadcast", "Full", "Listener", "Wanted"]

# Changes that a reader may lag behind; with more it is cut off, and finds in the history what it missed.
MOST_UNSENT = 1000
# Bytes of the same: 200 readers who never read must not fill the memory with long arguments either.
MOST_UNSENT_BYTES = 1_000_000
# Bytes that are handed to a socket at once, and so what a stalled reader holds beyond its queue.
PORTION = 16_384
# Changes on their way from the thread that follows the log to the loop. More means that the loop stands still.
MOST_PENDING = 20_000
# Changes that are given out at once: less than a reader may lag, or a burst would cut all.
TURN = 250
# Seconds that all wait for a reader that would be cut off otherwise. Within four turns it has caught up, or is cut off.
PATIENCE = 0.05
# Open connections to /events: each takes a file descriptor, of which a process often has 1,024.
MOST_READERS = 500

TYPE = re.compile(r"[a-z][a-z-]{0,40}")

logger = logging.getLogger("warren.monitor")


class Full(Exception):
    """There are as many readers as there may be."""


class Wanted(NamedTuple):
    """What a reader wants to hear of; empty means all."""

    types: frozenset[str] = frozenset()
    name: str | None = None
    id: str | None = None

    def has(self, change: Change) -> bool:
        if change.get("type") == "skipped":
            # What was left out for all may have been wanted.
            return True
        return (
            (not self.types or change.get("type") in self.types)
            and (self.id is None or change.get("id") == self.id)
            and (self.name is None or fnmatchcase(str(change.get("name") or ""), self.name))
        )


class Listener:
    """What one reader has not been sent yet."""

    def __init__(self, cut: Callable[[], None]) -> None:
        self._unsent: deque[bytes] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
        self._cut = cut
        self.behind = False
        """Whether it lagged too far and was cut off."""

    def __len__(self) -> int:
        return len(self._unsent)

    def tell(self, messages: list[bytes]) -> None:
        if self.behind:
            return
        self._unsent.extend(messages)
        self._bytes += sum(map(len, messages))
        if len(self._unsent) > MOST_UNSENT or self._bytes > MOST_UNSENT_BYTES:
            self.drop()
        else:
            self._news.set()

    def drop(self) -> None:
        """Cuts the reader off."""
        self.behind = True
        self._unsent.clear()
        self._bytes = 0
        self._news.set()
        self._cut()

    def portion(self) -> bytes:
        """The next bytes to be sent; empty if there is nothing new."""
        parts, size = [], 0
        while self._unsent and size < PORTION:
            parts.append(self._unsent.popleft())
            size += len(parts[-1])
        self._bytes -= size
        if not self._unsent:
            self._news.clear()
        return b"".join(parts)

    async def news(self, timeout: float) -> bool:
        """Waits until there is something to send; False if there was nothing for ``timeout`` seconds."""
        try:
            await asyncio.wait_for(self._news.wait(), timeout)
        except TimeoutError:
            return False
        return True


class Broadcast:
    """One subscription to the hub for all readers, and none while nobody reads."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        # By what they want: what a change is for is found out once, not once a reader.
        self._listeners: dict[Wanted, set[Listener]] = {}
        self._leave: Callable[[], None] | None = None
        self._lock = Lock()
        self._pending: list[Change] = []
        self._lost = False
        self._pump: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._encode = msgspec.json.Encoder(enc_hook=str).encode

    def __len__(self) -> int:
        return sum(map(len, self._listeners.values()))

    def join(self, wanted: Wanted, listener: Listener) -> None:
        """From now on ``listener`` is told what it wants.

        Raises:
            Full: there are too many already.
        """
        if len(self) >= MOST_READERS:
            raise Full
        self._listeners.setdefault(wanted, set()).add(listener)
        if self._leave is None:
            loop = asyncio.get_running_loop()
            self._pump = loop.create_task(self._give_out())
            self._leave = self._hub.subscribe(lambda changes: self._take(changes, loop))

    def quit(self, wanted: Wanted, listener: Listener) -> None:
        group = self._listeners.get(wanted)
        if group is not None:
            group.discard(listener)
            if not group:
                del self._listeners[wanted]
        if not self._listeners:
            self._unsubscribe()

    def close(self) -> None:
        """Cuts all readers off."""
        for group in list(self._listeners.values()):
            for listener in list(group):
                listener.drop()
        self._unsubscribe()

    def _unsubscribe(self) -> None:
        if self._leave is not None:
            self._leave()
            self._leave = None
        if self._pump is not None:
            self._pump.cancel()
            self._pump = None
        with self._lock:
            self._pending = []
            self._lost = False

    def _take(self, changes: list[Change], loop: asyncio.AbstractEventLoop) -> None:
        """Runs in the thread that follows the log, and so does little."""
        with self._lock:
            idle = not self._pending and not self._lost
            if len(self._pending) + len(changes) > MOST_PENDING:
                self._pending = []
                self._lost = True
            elif not self._lost:
                self._pending.extend(changes)
        if idle:
            try:
                loop.call_soon_threadsafe(self._ready.set)
            except RuntimeError:
                # The loop is closed: the server has stopped a moment ago.
                return

    async def _give_out(self) -> None:
        while True:
            await self._ready.wait()
            self._ready.clear()
            with self._lock:
                changes, self._pending = self._pending, []
                lost, self._lost = self._lost, False
            if lost:
                # What is missing is missing for all.
                for group in list(self._listeners.values()):
                    for listener in list(group):
                        listener.drop()
            for start in range(0, len(changes), TURN):
                turn = changes[start : start + TURN]
                await self._room(len(turn))
                self._tell(turn)

    async def _room(self, count: int) -> None:
        """Gives readers a moment to take what they have where ``count`` more would cut one off."""
        loop = asyncio.get_running_loop()
        limit = loop.time() + PATIENCE
        while loop.time() < limit and any(
            len(listener) + count > MOST_UNSENT for group in self._listeners.values() for listener in group
        ):
            await asyncio.sleep(0.001)

    def _tell(self, changes: list[Change]) -> None:
        messages = [(change, message) for change in changes if (message := self._message(change))]
        for wanted, group in list(self._listeners.items()):
            theirs = [message for change, message in messages if wanted.has(change)]
            if theirs:
                for listener in list(group):
                    listener.tell(theirs)

    def _message(self, change: Change) -> bytes:
        kind = str(change.get("type"))
        try:
            data = self._encode(change)
        except (TypeError, ValueError):
            logger.warning("a change that is no JSON was not sent to readers of /events: %.80s", kind)
            return b""
        # A line break in it would begin a field of its own.
        name = kind.encode() if TYPE.fullmatch(kind) else b"change"
        return b"event: " + name + b"\ndata: " + data + b"\n\n"
