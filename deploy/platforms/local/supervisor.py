"""The process manager: supervisor, with a configuration of ours, spoken to over its socket."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import xmlrpc.client
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.errors import ExitCode, WarrenError
from deploy.paths import ROOT, private_folder, write_private
from deploy.platforms.local import launch
from deploy.platforms.local.places import CONF, LOCAL, LOGS, log_file, record_file, relative
from deploy.platforms.local.programs import Program, number, service_of

__all__ = ["NAME", "Process", "Supervisor", "configuration", "digests", "worker_slots"]

NAME = "supervisord"

# Bytes. A unix socket's path has room for 107 on Linux and 103 on macOS, and supervisor first makes it with a dot and
# its process id appended.
SOCKET_PATH_LIMIT = 103 - len(".4194304")

# Seconds. It answers in a few milliseconds unless the host hardly runs.
PATIENCE = 10

# Seconds that a program must run to count as started; one that ends sooner is tried again after a growing delay.
START_SECONDS = 2

# Starts in a row that may fail. What fails for good (a broken task module) is for the operator to see, but what waits
# for something that is away for a night must come back by itself: the delays add up to more than a day.
START_RETRIES = 500

LAUNCH = Path(launch.__file__)

SUPERVISORD = """\
[supervisord]
logfile={log}
logfile_maxbytes=1MB
logfile_backups=1
pidfile={pid}
childlogdir={logs}
umask=077

[unix_http_server]
file={socket}
chmod=0700

[supervisorctl]
serverurl=unix://{socket}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""

# A comment to supervisor.
WORKERS = "; workers: "

PROGRAM = """
[program:{name}]
command={command}
priority={priority}
autostart=false
autorestart=true
startsecs={start_seconds}
startretries={start_retries}
stopsignal=TERM
stopwaitsecs={stop_seconds}
stopasgroup=false
killasgroup=true
redirect_stderr=true
stdout_logfile={log}
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=2
"""


@dataclass(frozen=True)
class Process:
    """What supervisor knows of a program."""

    name: str
    state: str
    """One of STOPPED STARTING RUNNING BACKOFF STOPPING EXITED FATAL UNKNOWN."""
    pid: int
    seconds: int
    """Since it is in this state."""

    @property
    def up(self) -> bool:
        return self.state in {"STARTING", "RUNNING"}

    @property
    def down(self) -> bool:
        return self.state in {"STOPPED", "EXITED", "FATAL", "BACKOFF", "UNKNOWN"}


class SocketConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        link = LOCAL / "socket"
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str((link.resolve() if link.is_symlink() else LOCAL) / "supervisor.sock"))


class SocketTransport(xmlrpc.client.Transport):
    """XML-RPC over supervisor's socket; one connection for all calls of a command."""

    _connection: tuple[str, http.client.HTTPConnection] | tuple[None, None]

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        if self._connection[1] is None:
            self._connection = ("localhost", SocketConnection("localhost", timeout=PATIENCE))
        return self._connection[1]


def socket_folder() -> Path:
    """The folder of the socket: ours where the path is short enough, else a private one that a link in ours leads to."""
    if len(os.fsencode(LOCAL / "supervisor.sock")) <= SOCKET_PATH_LIMIT:
        return LOCAL
    link = LOCAL / "socket"
    if link.is_dir() and link.stat().st_uid == os.getuid():
        return link.resolve()
    link.unlink(missing_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="warren-"))
    link.symlink_to(folder)
    return folder


def drop_socket_folder() -> None:
    link = LOCAL / "socket"
    if link.is_symlink():
        if link.is_dir() and link.stat().st_uid == os.getuid():
            shutil.rmtree(link.resolve(), ignore_errors=True)
        link.unlink()


def escaped(text: str) -> str:
    """``text`` for a value of supervisor's configuration, where a percent sign begins a variable."""
    return text.replace("%", "%%")


def command(program: Program) -> str:
    """How supervisor starts ``program``."""
    python = Path(sys.executable)
    parts = [relative(python), "-I", "-S", relative(LAUNCH), "run", relative(program.file), program.digest]
    return escaped(shlex.join(parts))


def configuration(programs: Sequence[Program], folder: Path, workers: Sequence[str] = ("worker",)) -> str:
    """`supervisord.conf`. Its file names are relative to the project's folder, in which supervisor runs.

    ``workers`` are the services of pools, of which some may have no worker now.
    """
    base = SUPERVISORD.format(
        log=relative(log_file(NAME)),
        logs=relative(LOGS),
        pid=relative(LOCAL / "supervisord.pid"),
        socket=escaped(relative(folder / "supervisor.sock")),
    )
    return (
        base
        + f"\n{WORKERS}{' '.join(workers)}\n"
        + "".join(
            PROGRAM.format(
                name=program.name,
                command=command(program),
                priority=program.priority,
                start_seconds=START_SECONDS,
                start_retries=START_RETRIES,
                stop_seconds=program.stop_seconds,
                log=relative(log_file(program.name)),
            )
            for program in programs
        )
    )


def digests(text: str) -> dict[str, str]:
    """The programs in the configuration ``text``, each with its digest."""
    return dict(re.findall(r"^\[program:(.+)\]\ncommand=.* ([0-9a-f]{12})$", text, re.MULTILINE))


def worker_slots(text: str) -> dict[str, list[int]]:
    """The services of pools that were there when the configuration ``text`` was written, with their workers."""
    found = re.search(rf"^{WORKERS}(.*)$", text, re.MULTILINE)
    slots: dict[str, list[int]] = {service: [] for service in (found[1].split() if found else ["worker"])}
    for name in digests(text):
        if number(name):
            slots.setdefault(service_of(name), []).append(number(name))
    return {service: sorted(numbers) for service, numbers in slots.items()}


def seconds(info: dict[str, Any]) -> int:
    """For how long a program is in its state; 0 where it never ran."""
    since = info["start"] if info["statename"] in {"STARTING", "RUNNING"} else info["stop"]
    return max(0, int(info["now"] - since)) if since else 0


# What supervisord answers to everything from the moment that it is told to end (xmlrpc.Faults.SHUTDOWN_STATE).
SHUTTING_DOWN = 6


class Supervisor:
    """Speaks with supervisord; starts it where it does not run."""

    def __init__(self) -> None:
        self.server = xmlrpc.client.ServerProxy("http://localhost", transport=SocketTransport())

    def call(self, method: str, *arguments: Any) -> Any:
        """The answer of one of supervisor's methods (supervisord.org/api.html).

        Raises:
            OSError: it does not run.
            xmlrpc.client.Fault: it refuses.
        """
        try:
            return getattr(self.server.supervisor, method)(*arguments)
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == SHUTTING_DOWN:
                raise WarrenError(
                    "the stack is shutting down, running tasks first; wait until `ps` shows no supervisord of it any more, "
                    "then try again",
                    ExitCode.FAILED,
                ) from fault
            raise
        except KeyboardInterrupt:
            # The answer is still to come on this connection, and would be taken for that of the next call.
            self.server("close")()
            raise

    def runs(self) -> bool:
        try:
            self.call("getState")
        except OSError:
            return False
        return True

    def start(self) -> None:
        """Starts supervisord, which then serves its socket.

        Raises:
            WarrenError: it does not start, with what it says.
        """
        private_folder(LOGS)
        (socket_folder() / "supervisor.sock").unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "--configuration", relative(CONF)],
            cwd=ROOT,
            env=launch.cleaned(dict(os.environ)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            said = [line for line in done.stdout.splitlines() if line.strip()][-1:]
            raise WarrenError(
                f"the process manager does not start: {''.join(said)}; see {relative(log_file(NAME))}", ExitCode.FAILED
            )
        pid = int(self.call("getPID"))
        write_private(
            record_file(NAME), json.dumps({"pid": pid, "started": launch.started(pid), "boot": launch.boot()})
        )

    def write(self, programs: Sequence[Program], changing: Sequence[Program], workers: Sequence[str]) -> None:
        """Writes the configuration for ``programs``, and for each of ``changing`` what launch.py reads."""
        for program in changing:
            write_private(program.file, program.text())
        private_folder(LOCAL / "run")
        write_private(CONF, configuration(programs, socket_folder(), workers))

    def differences(self) -> tuple[list[str], list[str], list[str]]:
        """Programs of the configuration that are new, changed, or no more in it, compared with what supervisor runs."""
        added, changed, removed = self.call("reloadConfig")[0]
        return added, changed, removed

    def add(self, name: str) -> None:
        self.call("addProcessGroup", name)

    def remove(self, name: str) -> None:
        self.call("removeProcessGroup", name)

    def processes(self) -> dict[str, Process]:
        """All programs that supervisor knows, by name; empty where it does not run."""
        try:
            known = self.call("getAllProcessInfo")
        except OSError:
            return {}
        found = [Process(info["name"], info["statename"], info["pid"], seconds(info)) for info in known]
        return {process.name: process for process in sorted(found, key=lambda one: number(one.name))}

    def start_program(self, name: str) -> None:
        with contextlib.suppress(xmlrpc.client.Fault):
            # A fault is that it runs already, or that it ended at once, which its state tells better.
            self.call("startProcess", name, False)

    def stop_program(self, name: str) -> None:
        with contextlib.suppress(xmlrpc.client.Fault):
            # A fault is that it does not run, which was to be reached.
            self.call("stopProcess", name, False)

    def kill_program(self, name: str) -> None:
        """Ends it at once, and for good."""
        self.stop_program(name)
        with contextlib.suppress(xmlrpc.client.Fault):
            # A fault is that it has ended already.
            self.call("signalProcess", name, "KILL")

    def shut_down(self) -> int:
        """Asks supervisord to stop all that runs and to leave; its process id."""
        pid = int(self.call("getPID"))
        self.call("shutdown")
        return pid
