"""One command at a time changes the stack of a checkout."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deploy.paths import STATE, private_folder

__all__ = ["locked"]

LOCK = STATE / "lock"


@contextmanager
def locked(waits: Callable[[str], None], *, dry: bool = False) -> Iterator[None]:
    """Waits until no other command changes the stack, which ``waits`` is told. The lock of a process that dies is dropped."""
    if dry:
        yield
        return
    private_folder(LOCK.parent)
    with LOCK.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waits("waiting for another command that changes this stack")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
