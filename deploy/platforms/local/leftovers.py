"""Processes of the stack that run without their process manager, which was killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterable

from deploy.platforms.local import launch
from deploy.platforms.local.places import RECORDS, record_file
from deploy.platforms.local.programs import STOP_ORDER, service_of
from deploy.platforms.local.progress import Progress
from deploy.platforms.local.supervisor import NAME
from deploy.services import kind
from deploy.wait import INTERVAL

__all__ = ["end", "forget", "running"]


def running() -> dict[str, list[int]]:
    """The processes of each recorded program that still runs; only processes that the records prove to be ours."""
    found = {file.stem: launch.leftovers(str(file)) for file in sorted(RECORDS.glob("*.json"))}
    return {name: pids for name, pids in found.items() if pids}


def send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def end(patience: int, progress: Progress) -> None:
    """Ends all that `running` finds: in the order of a stop, warm, and what takes longer than ``patience`` seconds hard."""
    # First, since it would start again what ends.
    send(running().get(NAME, []), signal.SIGKILL)
    for service in STOP_ORDER:
        names = [name for name in running() if name != NAME and kind(service_of(name)) == service]
        for name in names:
            # The leader only: a worker ends its pool itself, when the tasks there have ended.
            leader = json.loads(record_file(name).read_text())["pid"]
            members = launch.leftovers(str(record_file(name)))
            send([leader] if leader in members else members, signal.SIGTERM)
        limit = time.monotonic() + patience
        while left := {name: pids for name, pids in running().items() if name in names}:
            progress.waits(
                f"waiting for {', '.join(left)}, found without a process manager, to stop (at most {patience} s)"
            )
            if time.monotonic() > limit:
                for pids in left.values():
                    send(pids, signal.SIGKILL)
            time.sleep(INTERVAL)
    forget()


def forget() -> None:
    """Drops the records of processes that have ended."""
    for file in RECORDS.glob("*.json"):
        if not launch.leftovers(str(file)):
            file.unlink(missing_ok=True)
