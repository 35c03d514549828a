"""The command: a program that is run for each event."""

from __future__ import annotations

import os
import select
import shlex
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from threading import Lock
from time import monotonic

from app.environment import Mistake
from app.monitor.handlers.failure import Failure, tidy
from app.monitor.handlers.payload import encode
from app.monitor.handlers.registry import Event

__all__ = ["Command"]

# Seconds that a run may take: a handler that hangs would hold up all later events.
TIMEOUT = 60.0
# Seconds between two looks at a program that has closed its standard error, or left it to one that runs on.
LOOK_EVERY = 0.1
# Bytes kept of standard error: its last line is shown.
TAIL = 4096
# Bytes of an environment variable; the kernel takes 128 KiB.
VALUE_LIMIT = 1000
# The program has no business with the broker, nor with the monitor's passwords.
SECRET = ("MONITOR_", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND")


def environment(event: Event) -> dict[bytes, bytes]:
    """The monitor's own without its secrets, and what the event is about: scripts need no JSON to tell that."""
    kept = {os.fsencode(name): os.fsencode(value) for name, value in os.environ.items() if not name.startswith(SECRET)}
    about = {b"WARREN_EVENT_TYPE": event.get("type"), b"WARREN_TASK_ID": event.get("id")}
    return kept | {name: as_value(value) for name, value in about.items()}


def as_value(value: object) -> bytes:
    """``value`` as an environment can hold it: ids are whatever a sender makes of them."""
    text = "" if value is None else str(value)
    return text.encode("utf-8", "backslashreplace").replace(b"\0", b"")[:VALUE_LIMIT]


class Command:
    """Runs a program with the event as JSON on its standard input. Exit code 0 is a delivery.

    Args:
        arguments: the program and what follows it; no shell takes part.
        timeout: seconds after which it is killed, with what it started.
    """

    def __init__(self, arguments: Sequence[str], timeout: float = TIMEOUT) -> None:
        self._arguments = tuple(arguments)
        self._timeout = timeout
        self._lock = Lock()
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def parse(cls, line: str) -> Command:
        """A command as it is typed, with a shell's quotes.

        Raises:
            Mistake: quotes are missing, or there is no such program.
        """
        # Arguments may hold passwords: only the program is ever shown.
        try:
            arguments = shlex.split(line)
        except ValueError as error:
            raise Mistake([f"MONITOR_COMMAND can't be read ({error}); quote it as for a shell"]) from None
        if not arguments:
            raise Mistake(["MONITOR_COMMAND names no program; write for example MONITOR_COMMAND=/opt/tell --by mail"])
        if shutil.which(arguments[0]) is None:
            raise Mistake(
                [f"MONITOR_COMMAND: there is no program {tidy(arguments[0])} that can be run; write its path"]
            )
        return cls(arguments)

    def __call__(self, event: Event) -> None:
        process = self._start(event)
        try:
            tail = self._feed(process, encode(event))
        finally:
            self._end(process)
        if tail is None:
            raise Failure(f"the command did not end within {self._timeout:g} s and was killed")
        if process.returncode:
            how = f"exit code {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
            said = tail.decode("utf-8", "backslashreplace").strip().splitlines()
            raise Failure(f"the command ended with {how}" + (f": {said[-1]}" if said else ""))

    def close(self) -> None:
        """Kills what runs, and lets nothing more start. From any thread."""
        with self._lock:
            self._closed = True
            self._kill()

    def _start(self, event: Event) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise Failure("the monitor stops")
            try:
                self._process = subprocess.Popen(
                    self._arguments,
                    env=environment(event),
                    stdin=subprocess.PIPE,
                    # The monitor's own are for its lines.
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    # A group of its own, to be killed with all that it started.
                    start_new_session=True,
                )
            except OSError as error:
                raise Failure(f"the command can't be run ({error.strerror})") from error
            return self._process

    def _feed(self, process: subprocess.Popen[bytes], body: bytes) -> bytes | None:
        """Writes ``body``, reads errors, waits for the end; the last of the errors, or None if it takes too long.

        All in one, since a program may write before it reads, not read at all, or leave its standard error to another one
        that runs on.
        """
        source, sink = (stream.fileno() for stream in (process.stderr, process.stdin) if stream)
        os.set_blocking(sink, False)
        poll = select.poll()
        poll.register(source, select.POLLIN)
        poll.register(sink, select.POLLOUT)
        rest, tail, open_ends = memoryview(body), b"", 2
        until = monotonic() + self._timeout
        # Looks at what an ended program left, with others still writing: the pipe holds no more than 64 KiB.
        left = 65_536 // TAIL
        while left and (open_ends or process.poll() is None):
            if monotonic() >= until:
                return None
            ended = process.poll() is not None
            if not open_ends:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(LOOK_EVERY)
                continue
            ready = poll.poll(0 if ended else LOOK_EVERY * 1000)
            if ended:
                left = left - 1 if ready else 0
            for descriptor, _ in ready:
                if descriptor == source:
                    piece = os.read(source, TAIL)
                    tail = (tail + piece)[-TAIL:]
                    over = not piece
                else:
                    rest = written(sink, rest)
                    over = not rest
                if over:
                    poll.unregister(descriptor)
                    open_ends -= 1
                    if descriptor == sink and process.stdin:
                        process.stdin.close()
        return tail

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            if process.poll() is None:
                self._kill()
            self._process = None
        process.wait()
        for stream in (process.stdin, process.stderr):
            if stream:
                with suppress(OSError):
                    stream.close()

    def _kill(self) -> None:
        # Only while it has not been waited for: its number may be another's afterwards.
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)


def written(sink: int, rest: memoryview) -> memoryview:
    """What is left after as much as the pipe takes; nothing if nobody reads it."""
    try:
        return rest[os.write(sink, rest) :]
    except BlockingIOError:
        return rest
    except OSError:
        return rest[:0]
