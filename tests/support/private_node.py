"""RabbitMQ of the system's package as a private node, as the local platform runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from deploy.errors import WarrenError
from deploy.platforms.local import broker, package
from deploy.platforms.local.addresses import Ports
from deploy.settings import Settings
from tests.support.brokers import Broker
from tests.support.ports import free_port
from tests.support.processes import Process, environment

__all__ = ["PrivateNode", "missing"]


def missing() -> str | None:
    """Why the node can't be run here, and what would make it run; None if it can."""
    scripts = package.find()
    if scripts is None:
        return str(package.missing())
    try:
        package.require_supported(scripts)
    except WarrenError as error:
        return str(error)
    return None if shutil.which("epmd") else "Erlang's epmd is not on the PATH"


class PrivateNode(Broker):
    """A node with a name, ports and a data folder of its own."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        super().__init__("rabbitmq of this system", folder, settings)
        scripts = package.find()
        assert scripts is not None
        self.ports = Ports(
            amqp_port=self.amqp,
            management_port=self.management,
            prometheus_port=self.settings.prometheus_port,
            flower_port=self.settings.flower_port,
            monitor_port=self.settings.monitor_port,
            epmd_port=free_port(),
            distribution_port=free_port(),
        )
        (folder / "logs").mkdir()
        with self.here():
            broker.write(self.settings, self.secrets, self.ports)
            values = broker.environment(self.ports)
            command, values_of_epmd = broker.epmd(self.ports)
        values["PATH"] = os.pathsep.join([str(scripts), os.environ.get("PATH", os.defpath)])
        self.epmd = Process(command, values_of_epmd, folder / "logs" / "epmd.log")
        self.command = [str(scripts / "rabbitmq-server")]
        self.values = values
        self.server: Process | None = None

    @contextmanager
    def here(self) -> Iterator[None]:
        """The platform's own folders are the checkout's; ours are elsewhere."""
        with mock.patch.multiple(
            broker,
            FOLDER=self.folder / "broker",
            LOCAL=self.folder / "local",
            LOGS=self.folder / "logs",
            DEFINITIONS=self.folder / "definitions.json",
        ):
            yield

    def start(self) -> None:
        if self.server:
            self.server.start()
        else:
            self.server = Process(self.command, self.values, self.folder / "logs" / "server.log")
        self.wait()

    def stream_register(self) -> bytes:
        (register,) = (self.folder / "local").glob("rabbitmq/*/coordination/*/names.dets")
        return register.read_bytes()

    def kill(self) -> None:
        if self.server:
            self.server.kill()

    def end(self) -> None:
        if self.server:
            self.server.end()

    def stop(self) -> None:
        self.kill()
        self.epmd.kill()

    def log(self) -> str:
        return "\n".join(self.server.lines[-60:]) if self.server else ""

    def ctl(self, *arguments: str) -> None:
        command = [str(Path(self.command[0]).parent / "rabbitmqctl"), *arguments]
        done = subprocess.run(command, env=environment(self.values), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
