"""``python -m app.monitor``: the event log on standard output, its own messages on standard error.

Ends with 0 when it is stopped (SIGTERM, SIGINT) and with 3 when a setting is wrong. It needs no broker to start.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from threading import Thread

from app.environment import Mistake
from app.eventlog import Stop
from app.monitor.follow import Follower
from app.monitor.lines import Printer
from app.monitor.position import PositionFile
from app.settings import AppSettings, from_environment

# Seconds. A stopping monitor leaves within a second, even if its connection or whoever reads its lines hangs.
STOP_LIMIT = 0.8
# Seconds on top of the longest task: a task is received a little before it starts, and clocks differ.
MEMORY_MARGIN = 300

logger = logging.getLogger("warren.monitor")


def folder(settings: AppSettings) -> Path:
    """The folder of the position.

    Raises:
        Mistake: it can't be made or written.
    """
    path = Path(settings.monitor_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(path, os.W_OK | os.X_OK) else "Permission denied"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise Mistake([f"MONITOR_DIR={path} can't be written ({reason}); name a folder that this user may write"])
    return path


def start_logging(level: str) -> None:
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("warren").setLevel(level.upper())


def main() -> int:
    try:
        settings = from_environment()
        path = folder(settings)
    except Mistake as mistake:
        sys.stderr.writelines(f"error: {line}\n" for line in mistake.lines)
        return 3
    start_logging(settings.log_level)
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    failures: list[Exception] = []
    follower = Follower(
        settings.broker_url,
        [Printer(settings.monitor_format)],
        PositionFile(path),
        stop,
        memory=settings.task_time_limit + MEMORY_MARGIN,
    )

    def follow() -> None:
        try:
            follower.run()
        except Exception as error:
            failures.append(error)
        finally:
            stop.set()

    # A thread, because looking up an address can't be interrupted by a signal.
    thread = Thread(target=follow, name="follow", daemon=True)
    thread.start()
    stop.wait()
    thread.join(STOP_LIMIT)
    return code(failures)


def code(failures: list[Exception]) -> int:
    """The exit code, after a line for what ended the monitor if no signal did."""
    for failure in failures:
        if isinstance(failure, BrokenPipeError):
            # Whoever read the lines has had enough, as in `... | head`.
            continue
        if isinstance(failure, OSError):
            logger.error(
                "lines can't be written (%s): free space; a restart goes on with the first unwritten one", failure
            )
        else:
            logger.error("the monitor ended by a mistake of its own, please report it", exc_info=failure)
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    # Past the interpreter's own end, which would wait for a thread that hangs in a system call with a lock.
    os._exit(status)
