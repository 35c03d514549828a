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
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property

from deploy.ending import leave
from deploy.errors import ExitCode, WarrenError
from deploy.platforms.base import WHAT, Endpoints
from deploy.platforms.kubernetes import passwords
from deploy.platforms.kubernetes.kubectl import Kubectl, explained, not_installed
from deploy.platforms.kubernetes.relay import WHERE, Relay, relay
from deploy.run import QUICK
from deploy.secrets import Secrets

__all__ = ["Forwarded"]

# Seconds that kubectl gets to open its ports. It takes a tenth of one, but a node may be busy.
PATIENCE = 30

# Seconds that kubectl waits for a pod where there is none. One that is there and does not run yet is an error at once.
POD_PATIENCE = 1

# Seconds for which a service that could not be reached is not tried again. A command may ask several times, and is told the
# same; one that goes on looking hears of a pod that has come.
AGAIN = 2

# What commands reach, by service.
PORTS = {"rabbitmq": (5672, 15672, 15692), "monitor": (5556,), "flower": (5555,)}

# Linux's number for "tell me when my parent dies" (prctl).
PR_SET_PDEATHSIG = 1


class Forwarded(Endpoints):
    """The stack's ports, each opened when it is first asked for or said to be, and closed when this process ends."""

    def __init__(self, kubectl: Kubectl, flower_prefix: str = "") -> None:
        # Not those of a dataclass: here they are found out.
        object.__setattr__(self, "kubectl", kubectl)
        object.__setattr__(self, "flower_prefix", flower_prefix)

    kubectl: Kubectl
    host = "127.0.0.1"
    lasting = False

    @property
    def place(self) -> str:
        return self.kubectl.place

    def soon(self, *services: str) -> None:
        """Each kubectl takes a tenth of a second: together they take little longer than one."""
        for service in services:
            if service not in self.begun:
                self.begun[service] = Forward(self.kubectl, service, PORTS[service])
        # After those: they start from a process that has no other thread.
        if "reading" not in self.__dict__:
            object.__setattr__(self, "reading", ThreadPoolExecutor(1).submit(passwords.load, self.kubectl))

    @cached_property
    def begun(self) -> dict[str, Forward]:
        """The forwards, by service."""
        return {}

    @cached_property
    def secrets(self) -> Secrets:
        reading: Future[Secrets] | None = self.__dict__.get("reading")
        return reading.result() if reading else passwords.load(self.kubectl)

    def opened(self, service: str, code: ExitCode) -> dict[int, int]:
        """Free ports of this host that lead to those of ``service``, by these.

        Raises:
            WarrenError: no pod of it can be reached (``code``).
        """
        if service not in self.begun:
            self.begun[service] = Forward(self.kubectl, service, PORTS[service])
        return self.begun[service].ports(code)

    @property
    def relay(self) -> Relay | None:
        """The way to a broker that others run; None where it is ours, or nothing runs that knows it.

        A command that goes on looking finds one later, when pods that know it are there.
        """
        now = time.monotonic()
        if self.known is None and now >= self.__dict__.get("looked", -AGAIN) + AGAIN:
            self.__dict__["looked"] = now
            self.__dict__["way"] = relay(self.kubectl)
        return self.known

    @property
    def known(self) -> Relay | None:
        """That way, where it has been found."""
        way: Relay | None = self.__dict__.get("way")
        return way

    def of_broker(self, number: int, what: str = "") -> int:
        """A port of this host that leads to the broker's port ``number``; of one that others run, to what it is for.

        Raises:
            WarrenError: it can't be reached.
        """
        found = self.known
        if found is None:
            try:
                return self.opened("rabbitmq", ExitCode.BROKER)[number]
            except WarrenError:
                found = self.relay
                if found is None:
                    raise
        if not what:
            raise WarrenError(
                f"{self.place}: others run the broker, and its port {number} is not known here", ExitCode.BROKER
            )
        return found.port(what)

    @property
    def broker(self) -> str:
        _ = self.amqp  # finds out whose it is
        return self.known.address("amqp") if self.known else self.place

    @property
    def broker_api(self) -> str:
        _ = self.management
        return self.known.address("api") if self.known else self.place

    @property
    def broker_is_others(self) -> bool:
        return self.relay is not None

    @property
    def no_answer(self) -> str:
        if self.broker_is_others:
            return f"whoever runs it knows more ({WHERE})"
        return "`invoke logs rabbitmq` shows what it does, `invoke restart rabbitmq` starts it anew"

    @property
    def definitions_again(self) -> str:
        return (
            f"import there what `invoke definitions` prints ({WHERE})"
            if self.broker_is_others
            else super().definitions_again
        )

    def password(self, name: str) -> str:
        template = f'go-template={{{{index .data "{name}" | base64decode}}}}'
        return f"by {shlex.join(self.kubectl.command('get', 'secret', passwords.NAME, '-o', template))}"

    def refused(self, name: str, service: str) -> str:
        if service == "rabbitmq" and self.broker_is_others:
            return f"in the Secret {passwords.NAME} of {self.kubectl.place} (key {name}); {self.definitions_again}"
        return (
            f"in the Secret {passwords.NAME} of {self.kubectl.place} (key {name}); was it changed? "
            f"`invoke restart {service}` gives the {WHAT.get(service, service)} what is there now"
        )

    @property
    def amqp(self) -> int:
        return self.of_broker(5672, "amqp")

    @property
    def management(self) -> int:
        return self.of_broker(15672, "api")

    @property
    def prometheus(self) -> int:
        return self.of_broker(15692)

    @property
    def monitor(self) -> int:
        return self.opened("monitor", ExitCode.MONITOR)[5556]

    @property
    def flower(self) -> int:
        return self.opened("flower", ExitCode.FAILED)[5555]


class Forward:
    """A kubectl that leads free ports of this host to ``ports`` of ``service``, from now until this process ends.

    It ends with the pod that it leads to. Whoever asks for the ports then is led to the one that came in its place.
    """

    def __init__(self, kubectl: Kubectl, service: str, ports: tuple[int, ...]) -> None:
        self.kubectl = kubectl
        self.service = service
        self.number = len(ports)
        self.command = kubectl.command(
            *("port-forward", "--address", "127.0.0.1", f"--pod-running-timeout={POD_PATIENCE}s"),
            *(f"service/{service}", *(f":{port}" for port in ports)),
        )
        self.begin()

    def begin(self) -> None:
        self.kubectl.runner.show(" ".join(self.command))
        end_in_order()
        # A file, not a pipe: kubectl writes a line for each connection, and would stop where nobody reads them.
        self.said = tempfile.TemporaryFile()  # noqa: SIM115 - open for as long as kubectl runs
        try:
            self.process = subprocess.Popen(
                self.command,
                env={**QUICK, **os.environ},
                stdin=subprocess.DEVNULL,
                stdout=self.said,
                stderr=self.said,
                # Ctrl-C is for the command, which may still have a word for the broker.
                start_new_session=True,
                preexec_fn=end_with_parent(),  # noqa: PLW1509 - it calls the kernel, and nothing of Python's
            )
        except FileNotFoundError as error:
            raise not_installed() from error
        atexit.register(self.process.kill)
        self.until = time.monotonic() + PATIENCE
        self.opened = False
        self.failed: float | None = None

    @property
    def over(self) -> bool:
        """Whether it has ended, and it is time for another one."""
        if self.process.poll() is None:
            return False
        return self.opened or (self.failed is not None and time.monotonic() >= self.failed + AGAIN)

    def ports(self, code: ExitCode) -> dict[int, int]:
        """The ports of this host, by those that they lead to; waits until they are open.

        Raises:
            WarrenError: no pod of the service can be reached (``code``).
        """
        if self.over:
            atexit.unregister(self.process.kill)
            self.said.close()
            self.begin()
        while True:
            ended = self.process.poll() is not None or time.monotonic() > self.until
            text = os.pread(self.said.fileno(), 65536, 0).decode(errors="replace")
            found = {int(to): int(here) for here, to in re.findall(r"127\.0\.0\.1:(\d+) -> (\d+)", text)}
            if len(found) == self.number:
                self.opened = True
                return found
            if ended:
                self.process.kill()
                self.failed = self.failed or time.monotonic()
                last = [line for line in text.splitlines() if line.strip()][-1:] or ["it does not answer"]
                why = re.sub(r"^error: ", "", last[0])
                why = "no pod of it is there" if "timed out waiting for the condition" in why else why
                known = explained(WarrenError(why, code), self.kubectl.place)
                if known.code is ExitCode.PLATFORM:
                    raise known
                raise WarrenError(
                    f"{self.kubectl.place}: {self.service} can't be reached ({why}); "
                    "`invoke status` shows what runs, `invoke up` starts it",
                    code,
                )
            time.sleep(0.01)


def end_in_order() -> None:
    """Python's own end closes the forwards; a signal that ends it otherwise, as of a terminal that is closed, becomes one.

    Where it is ignored (nohup), or somebody handles it, that is as it was. Only a main thread may say so: it opens the first.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGHUP, signal.SIGTERM):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, leave)


def end_with_parent() -> Callable[[], None] | None:
    """Also where this process is killed, its forwards are not to stay (Linux, where a thread's end counts as its parent's)."""
    if not sys.platform.startswith("linux") or threading.current_thread() is not threading.main_thread():
        return None
    library = ctypes.CDLL(None)
    return lambda: library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
