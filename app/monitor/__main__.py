"""``python -m app.monitor``: follows the event log into the history, prints it, feeds handlers, and serves the page.

Lines go to standard output, the monitor's own messages to standard error. Ends with 0 when it is stopped (SIGTERM,
SIGINT), with 3 when a setting is wrong, and with 1 when it can't go on. It needs no broker to start.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sqlite3
import sys
from pathlib import Path
from threading import Thread

from app.environment import Mistake
from app.eventlog import Stop
from app.events.follow import Follower
from app.events.status import Status
from app.monitor.handlers.delivery import Delivery
from app.monitor.handlers.loading import load
from app.monitor.handlers.registry import Registry
from app.monitor.history.reader import Reader
from app.monitor.history.schema import FILE, NewerSchema
from app.monitor.hub import Hub
from app.monitor.printer import Printer
from app.monitor.recorder import Recorder
from app.monitor.web.server import Server
from app.settings import AppSettings, from_environment

# Seconds that handlers, and after them the log, get to end. With the server's half a second, a stopping monitor leaves
# within some two, even if its connection or whoever reads its lines hangs.
STOP_LIMIT = 0.8
# Objects that are made between two looks for garbage: as many as a transaction makes.
GARBAGE = 50_000
# Seconds until a history that can't be opened is tried again: its volume may be full for a while.
OPEN_AGAIN = 2.0

logger = logging.getLogger("warren.monitor")


def folder(settings: AppSettings) -> Path:
    """The folder of the history.

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


class Monitor:
    """All parts of the monitor, and how they end.

    Raises:
        Mistake: on construction, for settings that can't be used.
    """

    def __init__(self, settings: AppSettings, stop: Stop) -> None:
        self.settings = settings
        self.stop = stop
        self.failures: list[Exception] = []
        self.path = folder(settings) / FILE
        registry = load(settings)
        # A thread, because looking up an address can't be interrupted by a signal.
        self.thread = Thread(target=self._follow, name="follow", daemon=True)
        self.delivery = Delivery(self.path, registry, stop)
        self.hub = Hub()
        self.status = Status()
        self.recorder = self._recorder(registry)
        self.server = Server(
            settings,
            lambda: Reader(self.path),
            self.hub,
            self.status,
            self.recorder.metrics.text,
            self.thread.is_alive,
        )

    def _recorder(self, registry: Registry) -> Recorder:
        said = False
        while True:
            try:
                return Recorder(
                    self.settings,
                    registry,
                    self.delivery,
                    Printer(self.settings.monitor_format),
                    self.hub,
                    self.status,
                    self._replaced,
                )
            except NewerSchema as error:
                raise Mistake([str(error)]) from error
            except sqlite3.OperationalError as error:
                if not said:
                    logger.error(
                        "the history in %s can't be opened (%s): free space there, or look at its disk; "
                        "trying again until it works",
                        *(self.path.parent, error),
                    )
                said = True
                if self.stop.wait(OPEN_AGAIN):
                    raise Mistake([]) from error

    def _replaced(self) -> None:
        self.server.reopen()

    def _follow(self) -> None:
        try:
            Follower(self.settings.broker_url, self.recorder, self.stop, self.status).run()
        except Exception as error:
            self.failures.append(error)
        finally:
            self.stop.set()

    async def run(self) -> None:
        """Runs until the stop flag is set, or following the log fails.

        Raises:
            Mistake: the port can't be listened on.
        """
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self.stop.fileno(), stopped.set)
        self.server.start()
        self.delivery.start()
        self.thread.start()
        await stopped.wait()
        loop.remove_reader(self.stop.fileno())
        await self.server.stop()


def main() -> int:
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        # Events come and go by the thousand and none refers to itself: looking for garbage that often took a tenth of the time.
        gc.set_threshold(GARBAGE)
        settings = from_environment()
        start_logging(settings.log_level)
        monitor = Monitor(settings, stop)
        asyncio.run(monitor.run())
    except Mistake as mistake:
        sys.stderr.writelines(f"error: {line}\n" for line in mistake.lines)
        return 3 if mistake.lines else 0
    monitor.delivery.stop(STOP_LIMIT)
    monitor.thread.join(STOP_LIMIT)
    return code(monitor.failures)


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
