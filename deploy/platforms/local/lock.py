"""One command at a time changes the stack of a checkout."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.paths import private_folder
from deploy.platforms.local.places import LOCK
from deploy.platforms.local.progress import Progress

__all__ = ["locked"]


@contextmanager
def locked(progress: Progress) -> Iterator[None]:
    """Waits until no other command changes the stack. The system drops the lock of a process that dies."""
    private_folder(LOCK.parent)
    with LOCK.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.waits("waiting for another command that changes this stack")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
