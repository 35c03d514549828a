"""The files that compose.yaml refers to, below `.warren/`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from app.pools import Pool
from deploy import ports
from deploy.definitions import broker_settings, definitions
from deploy.paths import ROOT, STATE, write_private
from deploy.platforms.base import in_url
from deploy.platforms.compose import edge
from deploy.platforms.compose.image import sources
from deploy.secrets import Secrets
from deploy.services import environments, of_its_workers, of_pool
from deploy.settings import Settings

__all__ = ["POOLS", "came_up", "digest", "edged", "lines", "pools", "present", "restore", "texts", "up", "write"]

# The variable of compose.yaml that is the broker's label.
DIGEST = "WARREN_DEFINITIONS_DIGEST"

BROKER_PORTS = ("amqp_port", "management_port", "prometheus_port")

# A second file for Compose, which is there where pools are beside the default one.
POOLS = "pools.yaml"
# The services of pools that an `up` has brought to its end, a line each. The other file names more while one is under way.
UP = "pools.up"


def write(settings: Settings, secrets: Secrets, image: str, pools: Iterable[Pool]) -> None:
    """Writes what compose.yaml refers to, and the file of ``pools``.

    That is the definitions, each service's environment, and the variables.
    """
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
    # All that the broker's container is made from: its label tells whether `up` will replace it.
    broker = {
        "WARREN_RABBITMQ_IMAGE": settings.rabbitmq_image,
        "WARREN_RABBITMQ_MEMORY_MB": str(settings.rabbitmq_memory_mb),
        "WARREN_BIND": in_url(edge.inner_bind(settings)),
        **{f"WARREN_{field.upper()}": str(getattr(settings, field)) for field in BROKER_PORTS},
    }
    made_from = content + conf + broker_files + lines(broker)
    write_private(
        STATE / "compose.env",
        lines(
            {
                "WARREN_APP_IMAGE": image,
                **broker,
                DIGEST: hashlib.sha256(made_from.encode()).hexdigest()[:12],
                **{f"WARREN_{field.upper()}": str(getattr(settings, field)) for field in ports.FIELDS},
                "WARREN_WORKERS": str(settings.workers),
                "WARREN_STOP_GRACE": str(settings.default_pool.stop_grace),
                "WARREN_LOG_LEVEL": settings.log_level,
                **edge.variables(settings),
            }
        ),
    )
    write_pools(tuple(pools))


def write_pools(pools: tuple[Pool, ...]) -> None:
    if pools:
        write_private(
            STATE / POOLS, "".join(["# Made by `invoke up` of WARREN_POOLS.\nservices:\n", *map(service, pools)])
        )
    else:
        (STATE / POOLS).unlink(missing_ok=True)


def service(pool: Pool) -> str:
    """A pool's workers as Compose reads them: as those of the default pool, with a number and limits of their own."""
    return f"""\
  {of_pool(pool)}:
    extends: {{file: compose.yaml, service: worker}}
    environment: {json.dumps(of_its_workers(pool))}
    stop_grace_period: {pool.stop_grace}s
    deploy: {{replicas: {pool.workers}}}
"""


def pools() -> list[str]:
    """The services of pools in the file that was written last."""
    file = STATE / POOLS
    return re.findall(r"^  (worker-\w+):$", file.read_text(), re.MULTILINE) if file.exists() else []


def up() -> list[str]:
    """The services of pools that came up: how many workers they have is what somebody wants."""
    file = STATE / UP
    return file.read_text().split() if file.exists() else []


def came_up(services: Iterable[str]) -> None:
    write_private(STATE / UP, "".join(f"{service}\n" for service in services))


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


def restore(was: dict[Path, str]) -> None:
    """Makes of those files what they were when :func:`texts` told of them."""
    for file in texts():
        if file not in was:
            file.unlink()
    for file, text in was.items():
        write_private(file, text)


def digest() -> str:
    """What the label of a broker that is made now would say."""
    found = re.search(rf"^{DIGEST}='(.*)'$", (STATE / "compose.env").read_text(), re.MULTILINE)
    return found[1] if found else ""


def lines(values: dict[str, str]) -> str:
    """``values`` as an env file that Compose takes literally."""
    return "".join(f"{name}={quoted(value)}\n" for name, value in values.items())


def quoted(value: str) -> str:
    # Within single quotes Compose expands nothing, but can't tell a last backslash from one before the closing quote.
    if "'" not in value and "\\" not in value:
        return f"'{value}'"
    return '"' + re.sub(r'(["$\\])', r"\\\1", value) + '"'
