"""The deployment's settings: environment over `.env` over defaults, typed, with one line for each mistake."""

from __future__ import annotations

import io
import ipaddress
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, field
from msgspec.structs import replace

from app import pools
from app.environment import Mistake, Variable, as_text, read, unknown, variables
from app.settings import OF_A_POOL, AppSettings, Workers
from deploy.errors import ExitCode, WarrenError, reason
from deploy.paths import ROOT

__all__ = ["EDGE_PORTS", "PORTS", "Settings", "known", "load", "of_pools"]

Port = Annotated[int, Meta(ge=1, le=65535, title="a port from 1 to 65535")]
Image = Annotated[str, Meta(pattern=r"^[\w][\w./:@-]*$", title="the name of an image")]

# Written by the platform for each service, never by the user: addresses, folders and secrets inside containers.
INTERNAL = {
    "CELERY_BROKER_URL",
    "FLOWER_METRICS_TOKEN",
    "WARREN_HEALTH_DIR",
    "WARREN_HTTPS_ONLY",
    "WARREN_POOL",
    "MONITOR_ADDRESS",
    "MONITOR_BEHIND_PROXY",
    "MONITOR_COOKIE_SECRET",
    "MONITOR_DIR",
    "MONITOR_OPERATOR_PASSWORD",
    "MONITOR_OPS_URL",
    "MONITOR_PRODUCER_URL",
    "MONITOR_TOKEN",
    "MONITOR_VIEWER_PASSWORD",
    "MONITOR_WEBHOOK_KEY",
}

# The ports that the stack listens on, as fields of Settings.
PORTS = ("amqp_port", "management_port", "prometheus_port", "flower_port", "monitor_port")

# Those of the edge, where it is on.
EDGE_PORTS = ("edge_http_port", "edge_https_port")

# What the tests read: which brokers to run on, and from which images.
TESTS = "WARREN_TEST_"


class Settings(AppSettings, frozen=True, kw_only=True):
    """One field an environment variable; see ``.env.example`` for the same in words."""

    platform: Annotated[
        Literal["auto", "compose", "local", "kubernetes"], Meta(title="one of auto, compose, local, kubernetes")
    ] = "auto"
    project: Annotated[
        str, Meta(pattern=r"^[a-z][a-z0-9-]{0,30}$", title="a name of a-z, 0-9 and -, at most 31 characters")
    ] = "warren"
    workers: Workers = 1
    bind: Annotated[str, Meta(pattern=r"^[0-9a-fA-F.:]+$", title="an IP address")] = "127.0.0.1"
    amqp_port: Port = 5672
    management_port: Port = 15672
    prometheus_port: Port = 15692
    flower_port: Port = 5555
    # Here the port of this host; in the monitor's own environment, MONITOR_PORT, that inside its container.
    monitor_port: Port = field(default=5556, name="WARREN_MONITOR_PORT")
    edge: Annotated[Literal["on", "off"], Meta(title="on or off")] = "off"
    edge_host: Annotated[
        str,
        Meta(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$", title="the name of a host, or its IP address"),
    ] = "localhost"
    edge_bind: Annotated[str, Meta(pattern=r"^[0-9a-fA-F.:]+$", title="an IP address")] = "127.0.0.1"
    edge_http_port: Port = 8080
    edge_https_port: Port = 8443
    edge_tls: Annotated[Literal["auto", "internal", "acme"], Meta(title="one of auto, internal, acme")] = "auto"
    edge_email: Annotated[
        str, Meta(pattern=r"^([^\s@{}\"]+@[^\s@{}\"]+)?$", title="an e-mail address", examples=["ops@example.org"])
    ] = ""
    rabbitmq_image: Image = "rabbitmq:4.3-management"
    python_image: Image = "python:3.13-slim"
    caddy_image: Image = "caddy:2"
    app_image: Image = "warren-app"
    app_context: Annotated[str, Meta(min_length=1, title="the folder of your Celery project")] = "."
    delivery_limit: Annotated[int, Meta(ge=1, le=1_000_000, title="a number of deliveries from 1 to 1000000")] = 20
    events_max_age: Annotated[str, Meta(pattern=r"^[1-9][0-9]*[YMDhms]$", title="an age such as 7D, 12h or 30m")] = "7D"
    events_max_bytes: Annotated[
        int, Meta(ge=100_000_000, title="a number of bytes, at least 100000000 (two segments of the log)")
    ] = 2_000_000_000
    rabbitmq_memory_mb: Annotated[int, Meta(ge=256, title="a number of MiB, at least 256")] = 1024
    disk_free_limit_mb: Annotated[int, Meta(ge=1, title="a number of MB, at least 1")] = 1000
    kube_context: Annotated[str, Meta(title="a context of kubectl", examples=["kind-warren"])] = ""
    kube_overlay: Annotated[str, Meta(min_length=1, title="dev, production or the folder of an overlay")] = "dev"
    kube_load: Annotated[str, Meta(title="a command", examples=["kind load docker-image"])] = ""
    up_timeout: Annotated[int, Meta(ge=1, le=3600, title="a number of seconds from 1 to 3600")] = 180

    @property
    def default_pool(self) -> pools.Pool:
        return replace(super().default_pool, workers=self.workers)

    @property
    def queue_variables(self) -> list[str]:
        """The variables that name queues."""
        return ["WARREN_QUEUES", *(pools.variable(pool.name, "queues") for pool in self.pools)]

    @property
    def foreign_app(self) -> bool:
        """Whether the tasks come from a Celery project of the user's own."""
        return self.celery_app != "app"


def known() -> dict[str, Variable]:
    """The variables that a user may set, by name."""
    return {name: variable for name, variable in variables(Settings).items() if name not in INTERNAL}


def of_pools(settings: Settings) -> dict[str, str]:
    """The variables of all pools but the default one, with their values."""
    return {
        pools.variable(pool.name, name): as_text(getattr(pool, name)) for pool in settings.pools for name in OF_A_POOL
    }


def dotenv(file: Path) -> tuple[dict[str, str], list[str]]:
    """The variables in ``file``, and a line for each that can't be read."""
    if not file.exists():
        return {}, []
    from dotenv.main import resolve_variables  # only where there is a file to read
    from dotenv.parser import parse_stream

    values: list[tuple[str, str | None]] = []
    lines = []
    try:
        written = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return {}, [f"{file.name} can't be read: {reason(error)}"]
    for binding in parse_stream(io.StringIO(written)):
        number = binding.original.line + binding.original.string[: -len(binding.original.string.lstrip())].count("\n")
        text = binding.original.string.strip()
        if binding.error or (binding.key is not None and binding.value is None):
            lines.append(f"line {number} of {file.name} is not NAME=value: {text!r}; correct it or put a # before it")
        elif binding.key is not None:
            values.append((binding.key, binding.value))
    return {key: value or "" for key, value in resolve_variables(values, override=False).items()}, lines


def load(file: Path = ROOT / ".env", environment: Mapping[str, str] | None = None) -> Settings:
    """The settings in force.

    Raises:
        WarrenError: with a line for every mistake, and exit code 3.
    """
    environment = os.environ if environment is None else environment
    written, lines = dotenv(file)
    declared = pools.named({**written, **environment}.get(pools.POOLS, ""))
    names = known() | pools.variables_of(declared, OF_A_POOL)
    ours = {name for name in environment if name.startswith("WARREN_") and not name.startswith(TESTS)} - INTERNAL
    origins = {**dict.fromkeys(written, file.name), **dict.fromkeys(ours, "the environment")}
    strangers = pools.strangers(origins, declared)
    lines += strangers.values()
    for given, where in ((set(written), file.name), (ours, "the environment")):
        lines += unknown(given - set(strangers), names, where)
    values = {name: value for name, value in {**written, **environment}.items() if name in names}
    origin = {name: file.name for name in written if name not in environment}
    try:
        settings = read(Settings, values, origin)
    except Mistake as mistake:
        lines += mistake.lines
    else:
        lines += combinations(settings)
    if lines:
        raise WarrenError("\n".join(lines), ExitCode.SETTINGS)
    return settings


def combinations(settings: Settings) -> list[str]:
    """Mistakes that no single setting shows."""
    lines = addresses(settings)
    if settings.foreign_app and settings.app_context == ".":
        lines.append(
            f"CELERY_APP={settings.celery_app} needs WARREN_APP_CONTEXT, the folder of that project; "
            "write for example WARREN_APP_CONTEXT=../shop"
        )
    context = ROOT / settings.app_context
    if not context.is_dir():
        lines.append(f"WARREN_APP_CONTEXT={settings.app_context} is no folder; name the folder of your Celery project")
    for pool in settings.every_pool:
        variable = "WARREN_QUEUES" if pool.name == pools.DEFAULT else pools.variable(pool.name, "queues")
        for queue in dict.fromkeys(pool.queues):
            if queue == "dead_letters":
                lines.append(f"{variable}: dead_letters is the queue of undeliverable tasks; choose another name")
            if queue.startswith("celery_delayed_"):
                lines.append(f"{variable}: {queue} is a name of Celery's delayed delivery; choose another one")
            if pool.queues.count(queue) > 1:
                lines.append(f"{variable}: {queue} is there twice; name each queue once")
    lines += settings.half_a_login
    for name, command in (("MONITOR_COMMAND", settings.monitor_command), ("WARREN_KUBE_LOAD", settings.kube_load)):
        try:
            shlex.split(command)
        except ValueError as error:
            lines.append(f"{name}={command} can't be read as a command ({error}); quote it as in a shell")
    return lines


def addresses(settings: Settings) -> list[str]:
    """Mistakes in ports, addresses and the paths behind them."""
    lines = []
    ports: dict[int, str] = {}
    for name in (*PORTS, *EDGE_PORTS) if settings.edge == "on" else PORTS:
        port = getattr(settings, name)
        if port in ports:
            lines.append(
                f"WARREN_{ports[port].upper()} and WARREN_{name.upper()} are both {port}; give each a port of its own"
            )
        ports[port] = name
    for name, bind in (("WARREN_BIND", settings.bind), ("WARREN_EDGE_BIND", settings.edge_bind)):
        try:
            ipaddress.ip_address(bind)
        except ValueError:
            lines.append(f"{name}={bind} is not an IP address; write for example {name}=127.0.0.1, or 0.0.0.0")
    if settings.edge == "on" and settings.flower_url_prefix.strip("/") not in {"", "flower"}:
        lines.append(
            f"FLOWER_URL_PREFIX={settings.flower_url_prefix} does not go with the edge, which has Flower at /flower"
        )
    return lines
