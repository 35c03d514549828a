"""The files that compose.yaml refers to, below `.warren/`."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from app.pools import Pool
from deploy import ports
from deploy.definitions import broker_settings, definitions
from deploy.paths import ROOT, STATE, write_private
from deploy.platforms.base import in_url
from deploy.platforms.compose import edge
from deploy.platforms.compose.image import sources
from deploy.secrets import Secrets
from deploy.services import environments, of_pool
from deploy.settings import Settings

__all__ = ["POOLS", "deployed", "edged", "lines", "pools", "present", "texts", "write"]

# The variables of compose.yaml that the broker's container is made from.
BROKER = (
    "WARREN_RABBITMQ_.*",
    "WARREN_DEFINITIONS_DIGEST",
    "WARREN_BIND",
    "WARREN_(?:AMQP|MANAGEMENT|PROMETHEUS)_PORT",
)


# A second file for Compose, which is there where pools are beside the default one.
POOLS = "pools.yaml"


def write(settings: Settings, secrets: Secrets, image: str) -> None:
    """Writes what compose.yaml refers to: the definitions, each service's environment, the variables."""
    content = json.dumps(definitions(settings, secrets), indent=1)
    conf = broker_settings(settings)
    write_private(STATE / "rabbitmq" / "definitions.json", content)
    write_private(STATE / "rabbitmq" / "30-settings.conf", conf)
    # Not secret, and read by the broker's user inside its container.
    (STATE / "rabbitmq" / "30-settings.conf").chmod(0o644)
    for service, values in environments(settings, secrets, "rabbitmq", 5672, 15672).items():
        behind = edge.BEHIND.get(service, {}) if settings.edge == "on" else {}
        write_private(STATE / "env" / f"{service}.env", lines({**values, **behind}))
    broker_files = "".join(file.read_text() for file in sources(ROOT / "deploy" / "rabbitmq"))
    write_private(
        STATE / "compose.env",
        lines(
            {
                "WARREN_APP_IMAGE": image,
                "WARREN_RABBITMQ_IMAGE": settings.rabbitmq_image,
                "WARREN_RABBITMQ_MEMORY_MB": str(settings.rabbitmq_memory_mb),
                "WARREN_DEFINITIONS_DIGEST": hashlib.sha256((content + conf + broker_files).encode()).hexdigest()[:12],
                "WARREN_BIND": in_url(edge.inner_bind(settings)),
                **{f"WARREN_{field.upper()}": str(getattr(settings, field)) for field in ports.FIELDS},
                "WARREN_WORKERS": str(settings.workers),
                "WARREN_STOP_GRACE": str(settings.default_pool.stop_grace),
                "WARREN_LOG_LEVEL": settings.log_level,
                **edge.variables(settings),
            }
        ),
    )
    write_pools(settings)


def write_pools(settings: Settings) -> None:
    if settings.pools:
        write_private(
            STATE / POOLS,
            "".join(["# Made by `invoke up` of WARREN_POOLS.\nservices:\n", *map(service, settings.pools)]),
        )
    else:
        (STATE / POOLS).unlink(missing_ok=True)


def service(pool: Pool) -> str:
    """A pool's workers as Compose reads them: as those of the default pool, with a number and limits of their own."""
    return f"""\
  {of_pool(pool)}:
    extends: {{file: compose.yaml, service: worker}}
    environment: {{WARREN_POOL: {pool.name}}}
    stop_grace_period: {pool.stop_grace}s
    deploy: {{replicas: {pool.workers}}}
"""


def pools() -> list[str]:
    """The services of pools in the file that was written last."""
    file = STATE / POOLS
    return re.findall(r"^  (worker-\w+):$", file.read_text(), re.MULTILINE) if file.exists() else []


def edged() -> bool:
    """Whether the files that were written last are those of a stack with an edge."""
    file = STATE / "compose.env"
    return file.exists() and "\nWARREN_EDGE_ADDRESS=" in file.read_text()


def present() -> bool:
    """Whether they have been written, by this or an earlier command."""
    return (STATE / "compose.env").exists()


def texts() -> dict[Path, str]:
    """What stands in those that say what runs: variables and environments."""
    files = (STATE / "compose.env", STATE / POOLS, *(STATE / "env").glob("*.env"))
    return {file: file.read_text() for file in files if file.exists()}


def deployed() -> list[str]:
    """What compose.env says of the broker now; another answer after `write` makes another container of it."""
    file = STATE / "compose.env"
    return re.findall(rf"^(?:{'|'.join(BROKER)})=.*$", file.read_text(), re.MULTILINE) if file.exists() else []


def lines(values: dict[str, str]) -> str:
    """``values`` as an env file that Compose takes literally."""
    return "".join(f"{name}={quoted(value)}\n" for name, value in values.items())


def quoted(value: str) -> str:
    # Within single quotes Compose expands nothing, but can't tell a last backslash from one before the closing quote.
    if "'" not in value and "\\" not in value:
        return f"'{value}'"
    return '"' + re.sub(r'(["$\\])', r"\\\1", value) + '"'
