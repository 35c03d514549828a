"""The brokers that tests run on, made of the project's own files as its platforms make them."""

from __future__ import annotations

import http.client
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import amqp
import pytest
from msgspec.structs import replace

from deploy.definitions import VHOST, definitions
from deploy.secrets import KEDA, Secrets, generate
from deploy.secrets import load as load_secrets
from deploy.services import broker_url, environments
from deploy.settings import Settings
from deploy.wait import amqp_answers
from tests.support.eventually import eventually
from tests.support.login import basic
from tests.support.ports import free_port

__all__ = ["HOST", "RECOVERED", "Answer", "Broker", "only"]

HOST = "127.0.0.1"

# Seconds. A broker starts within ten; on a machine whose cores are all busy, in minutes. All tests of a broker share its start.
START_PATIENCE = 300

# Seconds until all is as it was before a broker was killed: it recovers queues and streams in the background, and workers look
# for it less and less often. Until it misses a client that vanished with its network, it takes as long.
RECOVERED = 240


def only(broker: Broker, *names: str, because: str) -> None:
    """Skips a test, which takes long, on brokers whose names do not end with one of ``names``."""
    if not broker.name.endswith(names):
        pytest.skip(f"on {' and '.join(names)} only: {because}")


class Answer(NamedTuple):
    """What the management API said."""

    status: int
    body: Any


class Broker(ABC):
    """A broker with the project's definitions and settings, on free ports of this host's loopback."""

    def __init__(self, name: str, folder: Path, settings: Settings) -> None:
        self.name = name
        self.folder = folder
        self.secrets = Secrets({**load_secrets(folder / "secrets"), KEDA: generate()})
        self.amqp = free_port()
        self.management = free_port()
        self.settings = replace(
            settings, amqp_port=self.amqp, management_port=self.management, prometheus_port=free_port()
        )

    @abstractmethod
    def start(self) -> None:
        """Starts it, for the first time or again; returns when it serves."""

    def keeps_its_streams(self) -> bool:
        """Whether it knows on its disk that it has streams.

        RabbitMQ writes that half a second after it made the first. Killed before, it has lost them for good, and 4.0
        does not even start again.
        """
        return b"rabbit_stream_coordinator" in self.stream_register()

    @abstractmethod
    def stream_register(self) -> bytes:
        """The file in which it keeps that."""

    @abstractmethod
    def kill(self) -> None:
        """Ends it as a power cut would."""

    @abstractmethod
    def end(self) -> None:
        """Ends it as an operator would."""

    @abstractmethod
    def stop(self) -> None:
        """Ends it and removes what it left."""

    @abstractmethod
    def log(self) -> str:
        """The last lines of its log."""

    @abstractmethod
    def ctl(self, *arguments: str) -> None:
        """Runs rabbitmqctl.

        Raises:
            AssertionError: it failed, with what it wrote.
        """

    @contextmanager
    def memory_alarm(self) -> Iterator[None]:
        """Meanwhile it takes no messages, as it does when it runs out of memory or disk."""
        self.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
        try:
            yield
        finally:
            self.ctl("set_vm_memory_high_watermark", "0.6")

    def wait(self) -> None:
        eventually(lambda: amqp_answers(HOST, self.amqp), START_PATIENCE, lambda: f"{self.name} serves\n{self.log()}")
        eventually(
            lambda: self.api("GET", "overview").status == 200,
            START_PATIENCE,
            lambda: f"{self.name} answers HTTP\n{self.log()}",
        )
        eventually(self.keeps_its_streams, START_PATIENCE, lambda: f"{self.name} keeps its streams\n{self.log()}")

    @property
    def version(self) -> tuple[int, int]:
        major, minor = self.api("GET", "overview").body["rabbitmq_version"].split(".")[:2]
        return int(major), int(minor)

    @property
    def definitions(self) -> dict[str, Any]:
        return definitions(self.settings, self.secrets)

    def url(self, role: str) -> str:
        return broker_url(role, self.secrets, HOST, self.amqp)

    def environment(self, service: str) -> dict[str, str]:
        return environments(self.settings, self.secrets, HOST, self.amqp, self.management)[service]

    def api(self, method: str, path: str, body: Any = None, role: str = "admin", password: str | None = None) -> Answer:
        """What the management API answers to ``role``."""
        login = basic(role, password or self.secrets.get(role, role))
        connection = http.client.HTTPConnection(HOST, self.management, timeout=30)
        try:
            connection.request(
                method,
                f"/api/{path}",
                body=None if body is None else json.dumps(body),
                headers={"Authorization": login, "Content-Type": "application/json"},
            )
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        return Answer(response.status, json.loads(text) if text.startswith((b"{", b"[")) else text)

    def queues(self) -> set[str]:
        """The names of all queues of Warren's virtual host."""
        return {queue["name"] for queue in self.api("GET", f"queues/{VHOST}?disable_stats=true").body}

    @contextmanager
    def connection(self, role: str = "admin", password: str | None = None) -> Iterator[amqp.Connection]:
        """A plain AMQP connection."""
        made = amqp.Connection(
            f"{HOST}:{self.amqp}",
            userid=role,
            password=password or self.secrets.get(role, role),
            virtual_host=VHOST,
            connect_timeout=30,
        )
        try:
            made.connect()
            yield made
        finally:
            with suppress(OSError, amqp.AMQPError):
                made.close()

    def waiting(self, queue: str) -> int:
        """The number of messages in a queue that no consumer holds, as of now."""
        with self.connection() as connection:
            return int(connection.channel().queue_declare(queue, passive=True).message_count)

    def take(self, queue: str) -> amqp.Message | None:
        """The first message of a queue, taken out of it; None where there is none."""
        with self.connection() as connection:
            message: amqp.Message | None = connection.channel().basic_get(queue, no_ack=True)
            return message

    def change_policy(self, name: str, **changes: Any) -> None:
        """Sets a policy of the definitions, with ``changes`` to what it defines (dashes are underscores)."""
        (policy,) = [one for one in self.definitions["policies"] if one["name"] == name]
        changed = {key.replace("_", "-"): value for key, value in changes.items()}
        answer = self.api(
            "PUT", f"policies/{VHOST}/{name}", {**policy, "definition": {**policy["definition"], **changed}}
        )
        assert answer.status in {201, 204}, answer

    def empty(self) -> None:
        """Empties the queues of tasks and dead letters, also of what a killed worker held. (Nothing empties the log.)"""

        def emptied() -> bool:
            with self.connection() as connection:
                channel = connection.channel()
                for name in (*self.settings.queues, "dead_letters"):
                    if channel.queue_declare(name, passive=True).consumer_count:
                        return False
                    channel.queue_purge(name)
            return True

        eventually(emptied, RECOVERED, "no consumer is left")
