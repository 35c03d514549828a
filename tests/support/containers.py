"""RabbitMQ in a container, with the files and mounts of `deploy/compose.yaml`."""

from __future__ import annotations

import functools
import json
import os
import uuid
from pathlib import Path

import docker
import docker.errors
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import ExecWaitStrategy

from deploy.definitions import broker_settings
from deploy.paths import ROOT, write_private
from deploy.settings import Settings
from tests.support.brokers import START_PATIENCE, Broker

__all__ = ["ContainerBroker", "image", "lacking", "missing"]

FILES = ROOT / "deploy" / "rabbitmq"

IMAGES = {
    "4.3": ("WARREN_RABBITMQ_IMAGE", "rabbitmq:4.3-management"),
    "4.0": ("WARREN_TEST_RABBITMQ_40_IMAGE", "rabbitmq:4.0-management"),
}


def image(version: str) -> str:
    variable, default = IMAGES[version]
    return os.environ.get(variable) or default


def missing(version: str) -> str | None:
    """Why the container can't be run here, and what would make it run; None if it can."""
    return lacking(image(version), IMAGES[version][0])


@functools.cache
def lacking(name: str, variable: str) -> str | None:
    """Why containers of the image ``name``, which ``variable`` names, can't be run here; None if they can."""
    try:
        client = docker.from_env(timeout=60)
        client.ping()
    except docker.errors.DockerException as error:
        return f"no Docker engine answers ({str(error)[:80]}); start one (sudo systemctl start docker)"
    try:
        return None if has(client, name) else pulled(client, name, variable)
    finally:
        client.close()


def has(client: docker.DockerClient, name: str) -> bool:
    try:
        client.images.get(name)
    except docker.errors.ImageNotFound:
        return False
    return True


def pulled(client: docker.DockerClient, name: str, variable: str) -> str | None:
    try:
        client.images.pull(name)
    except docker.errors.APIError as error:
        return f"the image {name} can't be pulled ({str(error)[:80]}); name another registry's copy in {variable}"
    return None


def clean_up_with_ryuk_or_without() -> None:
    """Ryuk removes containers of a killed test run. Where its image is not, our fixtures alone do."""
    client = docker.from_env()
    try:
        if not has(client, testcontainers_config.ryuk_image):
            testcontainers_config.ryuk_disabled = True
    finally:
        client.close()


class ContainerBroker(Broker):
    """One of the images that Compose and Kubernetes run."""

    def __init__(self, version: str, folder: Path, settings: Settings) -> None:
        super().__init__(f"rabbitmq {version}", folder, settings)
        clean_up_with_ryuk_or_without()
        write_private(folder / "definitions.json", json.dumps(self.definitions))
        (folder / "30-settings.conf").write_text(broker_settings(self.settings))
        self.container = (
            DockerContainer(image(version))
            .with_name(f"warren-test-{uuid.uuid4().hex[:12]}")
            .with_kwargs(
                hostname="rabbitmq",
                entrypoint=["bash", "/opt/warren/start-rabbitmq"],
                mem_limit=f"{settings.rabbitmq_memory_mb}m",
                # RabbitMQ 4.0 may need a second try after a kill: it loads the definitions, which bind the event log,
                # before that is recovered.
                restart_policy={"Name": "unless-stopped"},
            )
            .with_command(["rabbitmq-server"])
            .with_env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+sbwt none +sbwtdcpu none +sbwtdio none")
            .with_volume_mapping(folder / "definitions.json", "/opt/warren/definitions.json")
            .with_volume_mapping(folder / "30-settings.conf", "/etc/rabbitmq/conf.d/30-settings.conf")
            .with_volume_mapping(FILES / "conf.d" / "20-warren.conf", "/etc/rabbitmq/conf.d/20-warren.conf")
            .with_volume_mapping(FILES / "enabled_plugins", "/etc/rabbitmq/enabled_plugins")
            .with_volume_mapping(FILES / "start", "/opt/warren/start-rabbitmq")
        )
        # with_bind_ports knows no address, and brokers of tests are nobody else's business. Not the engine's random
        # ports: those change when a container starts again.
        self.container.ports = {
            "5672/tcp": ("127.0.0.1", self.amqp),  # type: ignore[dict-item]
            "15672/tcp": ("127.0.0.1", self.management),  # type: ignore[dict-item]
        }
        self.healthy = (
            ExecWaitStrategy(["bash", "/opt/warren/start-rabbitmq", "healthy"])
            .with_startup_timeout(START_PATIENCE)
            .with_poll_interval(0.3)
        )
        self.made = False

    def start(self) -> None:
        if self.made:
            self.container.get_wrapped_container().start()
        else:
            self.made = True
            self.container.start()
        self.wait()

    def wait(self) -> None:
        try:
            self.healthy.wait_until_ready(self.container)
        except TimeoutError as error:
            raise AssertionError(f"{self.name} is not healthy: {error}\n{self.log()}") from None
        super().wait()

    def stream_register(self) -> bytes:
        code, output = self.container.exec(["sh", "-c", "cat /var/lib/rabbitmq/mnesia/*/coordination/*/names.dets"])
        assert code == 0, output
        return bytes(output)

    def kill(self) -> None:
        self.container.get_wrapped_container().kill()

    def end(self) -> None:
        self.container.get_wrapped_container().stop(timeout=30)

    def stop(self) -> None:
        self.container.stop(force=True, delete_volume=True)

    def log(self) -> str:
        return str(self.container.get_wrapped_container().logs(tail=60).decode(errors="replace"))

    def ctl(self, *arguments: str) -> None:
        code, output = self.container.exec(["rabbitmqctl", *arguments])
        assert code == 0, output
