"""How commands on this host reach a broker that others run: through a pod of the stack, which knows it and may go there."""

from __future__ import annotations

import atexit
import socket
import subprocess
import threading
from contextlib import suppress
from typing import Any

from deploy.errors import ExitCode, WarrenError
from deploy.paths import ROOT
from deploy.platforms.kubernetes import pods
from deploy.platforms.kubernetes.kubectl import Kubectl
from deploy.services import kind

__all__ = ["ADDRESS", "WHERE", "Relay", "relay"]

# The ConfigMap of the component external-broker, without its hash.
ADDRESS = "warren-broker-address"

# Where it is said what it needs.
WHERE = "docs/kubernetes-options.md, external-broker"

PROGRAM = ROOT / "deploy" / "inside" / "relay.py"

# Seconds that kubectl, the pod and the broker get together.
PATIENCE = 30

# The services whose pods know the broker, in the order in which they are asked: of the monitor there is one.
PODS = ("monitor", "flower", "worker")


class Relay:
    """Free ports of this host, each connection to which a process in ``pod``, or the one after it, carries on to the broker."""

    def __init__(self, kubectl: Kubectl, pod: dict[str, Any]) -> None:
        self.kubectl = kubectl
        self.go_through(pod)
        self.listening: dict[str, socket.socket] = {}
        self.addresses: dict[str, str] = {}
        self.carriers: list[subprocess.Popen[bytes]] = []
        atexit.register(self.close)

    def go_through(self, pod: dict[str, Any]) -> None:
        self.pod = str(pod["metadata"]["name"])
        self.container = kind(pods.service(pod))

    def port(self, what: str) -> int:
        """The port that leads to the broker's ``amqp`` or ``api`` (its management API).

        Raises:
            WarrenError: the pod does not reach it.
        """
        if what not in self.listening:
            self.address(what)
            listening = socket.create_server(("127.0.0.1", 0))
            self.listening[what] = listening
            threading.Thread(target=self.serve, args=(what, listening), daemon=True).start()
        return int(self.listening[what].getsockname()[1])

    def address(self, what: str) -> str:
        """Where the broker is, as the pod has it: HOST:PORT.

        Raises:
            WarrenError: the pod does not reach it.
        """
        if what not in self.addresses:
            done = self.probe(what)
            address, *said = [line for line in done.stderr.decode(errors="replace").splitlines() if line] or [""]
            if done.returncode:
                why = next((line.removeprefix("error: ") for line in said if line.startswith("error: ")), "")
                raise WarrenError(
                    f"{self.kubectl.place}: the broker at {address} can't be reached from the pod {self.pod} ({why}); "
                    f"whoever runs it knows more ({WHERE})"
                    if why
                    else f"{self.kubectl.place}: no command runs in the pod {self.pod}: {' '.join([address, *said])}",
                    ExitCode.BROKER,
                )
            self.addresses[what] = address
        return self.addresses[what]

    def probe(self, what: str) -> subprocess.CompletedProcess[bytes]:
        command = self.command(what, "probe")
        try:
            return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False)
        except subprocess.TimeoutExpired as error:
            raise WarrenError(
                f"{self.kubectl.place}: the pod {self.pod} does not answer; `invoke status` shows what runs",
                ExitCode.BROKER,
            ) from error

    def serve(self, what: str, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                self.look_again()
                # The socket is what kubectl reads and writes itself.
                self.carriers.append(
                    subprocess.Popen(
                        self.command(what),
                        stdin=connection.fileno(),
                        stdout=connection.fileno(),
                        stderr=subprocess.DEVNULL,
                        # Ctrl-C is for the command, which may still have a word for the broker.
                        start_new_session=True,
                    )
                )

    def look_again(self) -> None:
        """Forgets the carriers that have ended. Where one failed, its pod may be no more: the next goes through one that is."""
        ended = [one for one in self.carriers if one.poll() is not None]
        self.carriers = [one for one in self.carriers if one not in ended]
        if any(one.returncode for one in ended):
            # A cluster that does not answer now is asked again after the next failure.
            with suppress(WarrenError):
                if found := through(self.kubectl):
                    self.go_through(found)

    def command(self, what: str, *how: str) -> list[str]:
        given = self.kubectl.command(
            "exec", self.pod, "--stdin", "--container", self.container, "--", "python3", "-I", "-c"
        )
        self.kubectl.runner.show(f"{' '.join(given)} deploy/inside/relay.py {' '.join((what, *how))}")
        return [*given, PROGRAM.read_text(), what, *how]

    def close(self) -> None:
        for listening in self.listening.values():
            listening.close()
        for carrier in self.carriers:
            carrier.kill()


def relay(kubectl: Kubectl) -> Relay | None:
    """The way to a broker that others run; None where no pod that runs was told of one."""
    found = through(kubectl)
    return Relay(kubectl, found) if found else None


def through(kubectl: Kubectl) -> dict[str, Any] | None:
    """The pod that is likeliest to reach it."""
    found = [pod for pod in kubectl.list("pods") if knows(pod) and runs(pod)]
    order = {service: place for place, service in enumerate(PODS)}
    # One that is ready may still reach what the others don't.
    found.sort(key=lambda pod: (not pods.ready(pod), order[kind(pods.service(pod))]))
    return found[0] if found else None


def knows(pod: dict[str, Any]) -> bool:
    sources = [source for one in pod["spec"]["containers"] for source in one.get("envFrom", [])]
    return kind(pods.service(pod)) in PODS and any(
        source.get("configMapRef", {}).get("name", "").startswith(ADDRESS) for source in sources
    )


def runs(pod: dict[str, Any]) -> bool:
    states = [one.get("state", {}) for one in pod["status"].get("containerStatuses", [])]
    return not pod["metadata"].get("deletionTimestamp") and any("running" in state for state in states)
