"""A flag that ends whatever waits."""

from __future__ import annotations

import select
import socket

__all__ = ["Stop"]


class Stop:
    """A flag that ends a wait for the socket too, and that a signal handler may set.

    threading.Event can do neither: it has no file descriptor, and its lock may be held by the code that the signal
    interrupted.
    """

    def __init__(self) -> None:
        self._flag = False
        self._here, self._there = socket.socketpair()

    def fileno(self) -> int:
        return self._here.fileno()

    def set(self) -> None:
        if not self._flag:
            self._flag = True
            self._there.send(b"\0")

    def is_set(self) -> bool:
        return self._flag

    def wait(self, timeout: float | None = None) -> bool:
        """Whether the flag is set, at the latest after ``timeout`` seconds."""
        # The byte is never taken out, so that every waiter sees it.
        waiter = select.poll()
        waiter.register(self, select.POLLIN)
        waiter.poll(None if timeout is None else timeout * 1000)
        return self._flag
