"""The loop of the view: a thread gathers, this one draws and listens to the keyboard."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from time import monotonic
from typing import Any

from deploy.commands import looks
from deploy.commands.watch.frame import frame
from deploy.commands.watch.snapshot import Gatherer, Snapshot
from deploy.ending import leave
from deploy.errors import ExitCode, WarrenError
from deploy.output import print_json
from deploy.session import Session

__all__ = ["interval_of", "watch"]

# Seconds between two looks at the keyboard and at the size of the window.
TICK = 0.1
# Columns where there is no terminal.
PIPE_WIDTH = 120


def interval_of(text: str) -> float:
    """Seconds from 0.2 to an hour.

    Raises:
        WarrenError: it is none (exit code 2).
    """
    with suppress(ValueError):
        if 0.2 <= (seconds := float(text)) <= 3600:
            return seconds
    raise WarrenError(f"--interval is a number of seconds from 0.2 to 3600, not {text!r}", ExitCode.USAGE)


def watch(s: Session, interval: float, once: bool, as_json: bool) -> None:
    gatherer = Gatherer(s)
    if as_json or once or not sys.stdout.isatty() or not sys.stdin.isatty():
        one(gatherer.snapshot(), as_json)
        return
    # Before the screen changes: what is wrong with the settings is told where it stays. And before the thread begins: with
    # another thread than this one as its parent, what leads into a cluster might outlive the command.
    s.endpoints.soon("rabbitmq", "monitor")
    _ = s.secrets
    live(Pictures(gatherer, interval))


def one(snapshot: Snapshot, as_json: bool) -> None:
    if as_json:
        print_json(snapshot)
    else:
        console = looks.console()
        for line in frame(snapshot, looks.terminal_width() or PIPE_WIDTH, None, keys=False):
            console.print(line)
    if snapshot["monitor"]["error"]:
        raise SystemExit(ExitCode.MONITOR)


class Pictures:
    """Gathers in a thread of its own, so that a source that does not answer holds up no key."""

    def __init__(self, gatherer: Gatherer, interval: float) -> None:
        self.latest: Snapshot | None = None
        self.taken = monotonic()
        self.failure: BaseException | None = None
        self._gatherer = gatherer
        self.interval = interval
        self._stop = Event()

    def start(self) -> None:
        Thread(target=self._run, name="gather", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                began = monotonic()
                self.latest, self.taken = self._gatherer.snapshot(), began
                self._stop.wait(self.interval)
        except BaseException as error:
            self.failure = error


def live(pictures: Pictures) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    console = looks.console()
    pictures.start()
    try:
        with keyboard(), Live(console=console, screen=True, auto_refresh=False) as view, suppress(KeyboardInterrupt):
            drawn: Any = None
            while pictures.failure is None:
                age = int(monotonic() - pictures.taken)
                shown = (pictures.latest, console.size, age if age > pictures.interval else 0)
                if shown != drawn:
                    drawn = shown
                    lines = (
                        frame(pictures.latest, console.width, console.height, age=shown[2])
                        if pictures.latest is not None
                        else [Text("asking the monitor and the broker ...", "dim")]
                    )
                    view.update(Group(*lines), refresh=True)
                if pressed(b"qQ"):
                    return
    finally:
        pictures.stop()
    if pictures.failure is not None:
        raise pictures.failure


@contextmanager
def keyboard() -> Iterator[None]:
    """Keys arrive one by one and are not shown; afterwards the terminal is as it was, whatever ends this."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    # Without a handler the signal would end the process at once and leave the terminal as it is.
    ending = signal.signal(signal.SIGTERM, leave)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        # One that is gone needs nothing.
        with suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        signal.signal(signal.SIGTERM, ending)


def pressed(keys: bytes) -> bool:
    """Whether one of ``keys`` was pressed, at the latest after a tick."""
    ready, _, _ = select.select([sys.stdin], [], [], TICK)
    if not ready:
        return False
    # Past Python's buffer, from which no wait would hear.
    typed = os.read(sys.stdin.fileno(), 1024)
    # Nothing at all: the terminal is gone.
    return not typed or any(key in keys for key in typed)
