"""A worker that stops takes back what its processes do with the tasks that it gave them last.

Between the moment a task is written to a process and the moment the process says that it began, Celery 5.7 counts it as
not begun. A worker told to stop just then forgets the task (`AsynPool.flush`), which the process runs all the same: its
events are lost, it is never acknowledged and runs a second time elsewhere, and the process waits half a minute for
somebody to read its result (billiard's `_ensure_messages_consumed`) before it leaves.
"""

from __future__ import annotations

import logging
import select
from collections.abc import Iterable
from contextlib import suppress
from inspect import isgenerator
from time import monotonic
from typing import Any

from celery import bootsteps
from celery.worker import state

__all__ = ["Handover"]

# Seconds. A process that has nothing else to do begins at once; one that was stopped or hangs never may.
PATIENCE = 10.0
# Seconds between two looks at processes, which may have died.
LOOK = 0.1

logger = logging.getLogger("warren.handover")


class Handover(bootsteps.StartStopStep):
    """Before a worker closes, waits until each task that was given to a process has begun. For the prefork pool only.

    Nothing new is given meanwhile, since the event loop has ended.
    """

    requires = ("celery.worker.components:Pool",)

    def start(self, worker: Any) -> None:
        """Nothing to start: a step without this is not told of the end."""

    def stop(self, worker: Any) -> None:
        """Nothing to stop."""

    def close(self, worker: Any) -> None:
        pool = getattr(worker.pool, "_pool", None)
        # Another Celery, of an app of the user's own, may have no such parts; it stops as it always did.
        parts = all(hasattr(pool, name) for name in ("_cache", "_fileno_to_outq"))
        # Celery's own words for it: 0 is an exit code.
        cold = state.should_terminate is not None and state.should_terminate is not False
        if parts and worker.hub is not None and not cold:
            hand_over(pool, worker.hub)


def hand_over(pool: Any, hub: Any, patience: float = PATIENCE) -> None:
    """Returns when every task that was written to a process of ``pool`` has begun, after ``patience`` seconds at most."""
    limit = monotonic() + patience
    told = False
    while jobs := given_and_not_begun(pool):
        moved = advance(jobs, hub, LOOK if told else 0)
        if not moved and not told:
            told = True
            logger.info("waiting until %d tasks begin that processes were given", len(jobs))
        # Also where there always is something to read: a process may have much to say and never come to its task.
        if monotonic() > limit and (left := given_and_not_begun(pool)):
            logger.warning("%d tasks that did not begin within %g s may run twice", len(left), patience)
            return


def given_and_not_begun(pool: Any) -> list[Any]:
    """The jobs that a living process was given, wholly or in part, and has not said to have begun."""
    jobs = (job for job in tuple(pool._cache.values()) if not job._accepted)
    return [job for job in jobs if (process := getattr(job, "_write_to", None)) is not None and process._is_alive()]


def advance(jobs: Iterable[Any], hub: Any, timeout: float) -> bool:
    """Reads and writes a message, or a part of one, for each process that is ready for it; whether one was."""
    poll = select.poll()
    for job in jobs:
        process = job._write_to
        if process.outqR_fd in hub.readers:
            poll.register(process.outqR_fd, select.POLLIN)
        # Of a task larger than a pipe holds, the process has only a part so far.
        if writer(job) is not None:
            poll.register(process.inqW_fd, select.POLLOUT)
    ready = dict(poll.poll(timeout * 1000))
    for job in jobs:
        if job._write_to.outqR_fd in ready:
            read(job._write_to.outqR_fd, hub)
        if job._write_to.inqW_fd in ready and (unfinished := writer(job)) is not None:
            with suppress(StopIteration, OSError):
                next(unfinished)
    return bool(ready)


def writer(job: Any) -> Any:
    """What writes the job to its process, where that is not done yet."""
    reference = getattr(job, "_writer", None)
    return None if reference is None else reference()


def read(file: int, hub: Any) -> None:
    """Does what the event loop does when there is something to read."""
    callback, arguments = hub.readers[file]
    try:
        # The loop leaves a generator where it has read a part of a message.
        if isgenerator(callback):
            next(callback)
        else:
            callback(*arguments)
    except StopIteration:
        pass
    # As Celery's own reader: a process that died leaves an end, or half a message.
    except (OSError, EOFError):
        hub.remove_reader(file)
