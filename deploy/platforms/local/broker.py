"""RabbitMQ as a private node of this checkout: never the system's instance, and nothing of it stays behind."""

from __future__ import annotations

import hashlib
import json
import secrets as random
from pathlib import Path

from deploy.definitions import broker_settings, definitions
from deploy.paths import ROOT, STATE, private_folder, write_private
from deploy.platforms.local.addresses import LOOPBACK, Ports
from deploy.platforms.local.places import LOCAL, LOGS, relative
from deploy.secrets import Secrets
from deploy.settings import Settings

__all__ = ["configuration", "digest", "environment", "epmd", "node", "write"]

SHARED = ROOT / "deploy" / "rabbitmq"
DEFINITIONS = STATE / "rabbitmq" / "definitions.json"
FOLDER = LOCAL / "broker"

# Idle schedulers sleep instead of spinning, as in compose.yaml; and Erlang's own traffic stays on this host.
ERLANG = "+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"


def node() -> str:
    """The node's name, made once: its data folder is named after it, so it must survive a move of the checkout."""
    file = FOLDER / "node"
    if not file.exists():
        write_private(file, f"warren-{random.token_hex(4)}@localhost\n")
    return file.read_text().strip()


def epmd(ports: Ports) -> tuple[tuple[str, ...], dict[str, str]]:
    """Erlang's port mapper, our own: the one that RabbitMQ starts where there is none would outlive the stack."""
    return ("epmd", "-port", str(ports.epmd_port), "-address", LOOPBACK), {}


def configuration(settings: Settings, ports: Ports) -> str:
    """`rabbitmq.conf`."""
    return "\n".join(
        [
            *((file.read_text()) for file in sorted((SHARED / "conf.d").glob("*.conf"))),
            broker_settings(settings),
            f"listeners.tcp.1 = {settings.bind}:{ports.amqp_port}",
            f"management.tcp.ip = {settings.bind}",
            f"management.tcp.port = {ports.management_port}",
            f"prometheus.tcp.ip = {settings.bind}",
            f"prometheus.tcp.port = {ports.prometheus_port}",
            # The log is a file.
            "log.console.use_colors = off",
            # Relative to the project's folder, where it runs: in this file a # begins a comment anywhere.
            f"load_definitions = {relative(DEFINITIONS)}",
            "",
        ]
    )


def write(settings: Settings, secrets: Secrets, ports: Ports) -> None:
    """Writes what the broker reads."""
    write_private(DEFINITIONS, json.dumps(definitions(settings, secrets), indent=1))
    write_private(FOLDER / "rabbitmq.conf", configuration(settings, ports))
    # Named in the environment, so that /etc/rabbitmq/advanced.config of the system's instance is not read.
    write_private(FOLDER / "advanced.config", "[].\n")
    private_folder(FOLDER / "home")


def digest(settings: Settings, secrets: Secrets, ports: Ports) -> str:
    """A digest of what the broker reads at its start only."""
    plugins = (SHARED / "enabled_plugins").read_text()
    parts = [json.dumps(definitions(settings, secrets)), configuration(settings, ports), plugins]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def environment(ports: Ports) -> dict[str, str]:
    """Of the broker and its command-line tools. Each path is named, since each has a default below /etc or /var."""
    data: Path = LOCAL / "rabbitmq"
    return {
        # Of Erlang's cookie.
        "HOME": str(FOLDER / "home"),
        "ERL_EPMD_PORT": str(ports.epmd_port),
        "ERL_EPMD_ADDRESS": LOOPBACK,
        "ERL_CRASH_DUMP": str(LOGS / "erl_crash.dump"),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_NODENAME": node(),
        "RABBITMQ_DIST_PORT": str(ports.distribution_port),
        "RABBITMQ_CONFIG_FILE": str(FOLDER / "rabbitmq.conf"),
        "RABBITMQ_CONFIG_FILES": str(FOLDER / "conf.d" / "*.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(FOLDER / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(SHARED / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(data),
        "RABBITMQ_LOG_BASE": str(LOGS),
        "RABBITMQ_LOG": "-color",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ERLANG,
        # The script then becomes the broker. Otherwise it stays as a parent, and a kill of it leaves the broker alone.
        "RUNNING_UNDER_SYSTEMD": "true",
    }
