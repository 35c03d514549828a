"""How commands on this host reach the stack inside the cluster: `kubectl port-forward`, for as long as the command runs."""

from __future__ import annotations

import atexit
import ctypes
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import cached_property

from deploy.errors import ExitCode, WarrenError
from deploy.platforms.base import WHAT, Endpoints
from deploy.platforms.kubernetes.kubectl import Kubectl
from deploy.platforms.kubernetes.passwords import NAME as SECRET

__all__ = ["Forwarded"]

# Seconds that kubectl gets to open its ports. It takes a tenth of one, but a node may be busy.
PATIENCE = 30

# Linux's number for "tell me when my parent dies" (prctl).
PR_SET_PDEATHSIG = 1


class Forwarded(Endpoints):
    """The stack's ports, each opened when it is first asked for, and closed when this process ends."""

    def __init__(self, kubectl: Kubectl, flower_prefix: str = "") -> None:
        # Not those of a dataclass: here they are found out.
        object.__setattr__(self, "kubectl", kubectl)
        object.__setattr__(self, "flower_prefix", flower_prefix)

    kubectl: Kubectl
    host = "127.0.0.1"
    lasting = False

    def password(self, name: str) -> str:
        template = f'go-template={{{{index .data "{name}" | base64decode}}}}'
        return f"by {shlex.join(self.kubectl.command('get', 'secret', SECRET, '-o', template))}"

    def refused(self, name: str, service: str) -> str:
        return (
            f"in the Secret {SECRET} of {self.kubectl.place} (key {name}); was it changed? "
            f"`invoke restart {service}` gives the {WHAT.get(service, service)} what is there now"
        )

    @cached_property
    def broker(self) -> dict[int, int]:
        return opened(self.kubectl, "rabbitmq", (5672, 15672, 15692), ExitCode.BROKER)

    @cached_property
    def pages(self) -> dict[str, int]:
        return {}

    def page(self, service: str, port: int, code: ExitCode) -> int:
        if service not in self.pages:
            self.pages[service] = opened(self.kubectl, service, (port,), code)[port]
        return self.pages[service]

    @property
    def amqp(self) -> int:
        return self.broker[5672]

    @property
    def management(self) -> int:
        return self.broker[15672]

    @property
    def prometheus(self) -> int:
        return self.broker[15692]

    @property
    def monitor(self) -> int:
        return self.page("monitor", 5556, ExitCode.MONITOR)

    @property
    def flower(self) -> int:
        return self.page("flower", 5555, ExitCode.FAILED)


def opened(kubectl: Kubectl, service: str, ports: tuple[int, ...], code: ExitCode) -> dict[int, int]:
    """Free ports of this host that lead to ``ports`` of ``service``, by those.

    Raises:
        WarrenError: no pod of it can be reached (``code``).
    """
    command = kubectl.command(
        "port-forward", "--address", "127.0.0.1", f"service/{service}", *(f":{port}" for port in ports)
    )
    kubectl.runner.show(" ".join(command))
    # A file, not a pipe: kubectl writes a line for each connection, and would stop where nobody reads them.
    said = tempfile.TemporaryFile()  # noqa: SIM115 - open for as long as kubectl runs
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=said,
        # Ctrl-C is for the command, which may still have a word for the broker.
        start_new_session=True,
        preexec_fn=end_with_parent(),  # noqa: PLW1509 - it calls the kernel, and nothing of Python's
    )
    atexit.register(process.kill)
    until = time.monotonic() + PATIENCE
    while True:
        text = os.pread(said.fileno(), 65536, 0).decode(errors="replace")
        found = {int(to): int(here) for here, to in re.findall(r"127\.0\.0\.1:(\d+) -> (\d+)", text)}
        if len(found) == len(ports):
            return found
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            last = [line for line in text.splitlines() if line.strip()][-1:] or ["it does not answer"]
            why = re.sub(r"^error: ", "", last[0])
            raise WarrenError(
                f"{kubectl.place}: {service} can't be reached ({why}); `invoke status` shows what runs, `invoke up` starts it",
                code,
            )
        time.sleep(0.02)


def end_with_parent() -> Callable[[], None] | None:
    """Also where this process is killed, its forwards are not to stay (Linux, where a thread's end counts as its parent's)."""
    if not sys.platform.startswith("linux") or threading.current_thread() is not threading.main_thread():
        return None
    library = ctypes.CDLL(None)
    return lambda: library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
