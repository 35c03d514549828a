"""The programs of the stack: what each runs, with which environment, and when it counts as changed."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.pools import Pool
from deploy.errors import ExitCode, WarrenError
from deploy.paths import ROOT
from deploy.platforms.local import broker
from deploy.platforms.local.addresses import Ports, url_host
from deploy.platforms.local.places import LOCAL, program_file, record_file
from deploy.secrets import Secrets
from deploy.services import environments, kind, of_its_workers, worker_services
from deploy.settings import Settings, dotenv

__all__ = [
    "ORDER",
    "STOP_ORDER",
    "Program",
    "context",
    "folders",
    "node_name",
    "number",
    "programs",
    "service_of",
    "worker_name",
]

# The order in which programs start.
ORDER = ("epmd", "rabbitmq", "worker", "monitor", "flower")
# And stop: while the broker is there, workers acknowledge what they end, and the monitor and Flower still hear of it.
STOP_ORDER = ("worker", "monitor", "flower", "rabbitmq", "epmd")

# Seconds until what does not stop is killed: as compose.yaml has it.
BROKER_STOP = 60
FLOWER_STOP = 30
MONITOR_STOP = 30
EPMD_STOP = 10

# Files that the monitor's page is made of.
PAGE = (".html", ".css", ".js", ".svg")

# What only holds copies of code, or none at all.
SKIPPED = {"__pycache__", "node_modules", "site-packages"}


@dataclass(frozen=True)
class Program:
    """One process that supervisor keeps running."""

    name: str
    service: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    stop_seconds: int
    directory: Path = ROOT
    path: tuple[str, ...] = ()
    node: str = ""
    """The worker's Celery node name."""
    behind: str = field(default="", repr=False)
    """A digest of the files that it reads when it starts."""

    @property
    def priority(self) -> int:
        """Supervisor stops the highest first."""
        return 100 * (len(STOP_ORDER) - STOP_ORDER.index(kind(self.service)))

    def text(self) -> str:
        """What launch.py, and later commands, read of it."""
        return json.dumps(
            {
                "name": self.name,
                "service": self.service,
                "node": self.node,
                "arguments": self.arguments,
                "environment": self.environment,
                "path": self.path,
                "directory": str(self.directory),
                "record": str(record_file(self.name)),
            },
            indent=1,
        )

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.text()}\0{self.behind}".encode()).hexdigest()[:12]

    @property
    def file(self) -> Path:
        return program_file(self.name)


def worker_name(slot: int, service: str = "worker") -> str:
    return f"{service}-{slot}"


def node_name(slot: int, project: str, service: str = "worker") -> str:
    """The Celery node name of the worker in ``slot`` of its service."""
    return f"{worker_name(slot, service)}@{project}"


def number(name: str) -> int:
    """The slot of a worker's ``name``; 0 for other programs."""
    tail = name.rpartition("-")[2]
    return int(tail) if tail.isdigit() else 0


def service_of(name: str) -> str:
    return name.rpartition("-")[0] if number(name) else name


def folders() -> dict[str, Path]:
    """The data folders of the services that have one."""
    return {name: LOCAL / name for name in ("rabbitmq", "monitor", "flower", "health")}


def sources(place: Path, kinds: tuple[str, ...] = (".py",)) -> Iterator[Path]:
    """The Python files below ``place``, in a stable order, without those of virtual environments."""
    for folder, names, files in os.walk(place):
        names[:] = sorted(
            name
            for name in names
            if not name.startswith(".") and name not in SKIPPED and not Path(folder, name, "pyvenv.cfg").exists()
        )
        # Editors keep links that lead nowhere beside the files that are open.
        yield from (
            Path(folder, name) for name in sorted(files) if name.endswith(kinds) and Path(folder, name).is_file()
        )


def code_digest(settings: Settings) -> str:
    """A digest of all code that Celery's processes may import from this checkout and the user's project."""
    digest = hashlib.sha256()
    places = {ROOT / "app": (".py", *PAGE), **({context(settings): (".py",)} if settings.foreign_app else {})}
    for place, kinds in places.items():
        for file in sources(place, kinds):
            # A name is bytes, which may be no text.
            digest.update(os.fsencode(file.relative_to(place)) + b"\0")
            digest.update(file.read_bytes())
    return digest.hexdigest()


def context(settings: Settings) -> Path:
    """The folder of the user's own Celery project."""
    return (ROOT / settings.app_context).resolve()


def python_path(settings: Settings) -> str:
    """What Celery's processes find modules in, besides the installed ones.

    A project of the user's own sees of this checkout only the package `app`, as in the containers: with all of it,
    its `tasks` or `tests` would be ours.
    """
    if not settings.foreign_app:
        return str(ROOT)
    return os.pathsep.join([str(LOCAL / "path"), str(context(settings))])


def own_variables() -> dict[str, str]:
    """The user's variables for tasks.

    Raises:
        WarrenError: a line of app.env can't be read.
    """
    values, wrong = dotenv(ROOT / "app.env")
    if wrong:
        raise WarrenError("\n".join(wrong), ExitCode.SETTINGS)
    return values


def programs(
    settings: Settings, secrets: Secrets, ports: Ports, slots: Mapping[str, Sequence[int]], scripts: Path
) -> list[Program]:
    """All programs of the stack with workers in the ``slots`` of their services, in the order of their start."""
    data = folders()
    of = environments(settings, secrets, url_host(settings.bind), ports.amqp_port, ports.management_port)
    common = {"PYTHONPATH": python_path(settings), "PYTHONUNBUFFERED": "1"}
    # -P: nothing is imported from the folder that they run in, but by PYTHONPATH.
    python = (sys.executable, "-P", "-m")
    code = code_digest(settings)
    bin_folder = (str(Path(sys.executable).parent),)
    directory = context(settings) if settings.foreign_app else ROOT
    variables = own_variables()

    def celery(
        name: str, service: str, arguments: tuple[str, ...], environment: dict[str, str], stop: int, node: str = ""
    ) -> Program:
        return Program(
            name=name,
            service=service,
            arguments=(*python, *arguments),
            environment={**common, **environment},
            stop_seconds=stop,
            directory=directory,
            path=bin_folder,
            node=node,
            behind=code,
        )

    def worker(slot: int, service: str, pool: Pool) -> Program:
        name = worker_name(slot, service)
        node = node_name(slot, settings.project, service)
        own = {"WARREN_HEALTH_DIR": str(data["health"] / name), **of_its_workers(pool)}
        return celery(
            name,
            service,
            # As in compose.yaml: what was revoked the broker tells, at once.
            ("celery", "-A", "app", "worker", "--without-mingle", "--hostname", node, "--loglevel", settings.log_level),
            {**of["worker"], **variables, **own},
            pool.stop_grace,
            node,
        )

    flower = {
        **of["flower"],
        "FLOWER_DB": str(data["flower"] / "flower"),
        "FLOWER_ADDRESS": settings.bind,
        "FLOWER_PORT": str(ports.flower_port),
    }
    monitor = {
        **of["monitor"],
        # Its handlers may need them, as tasks do.
        **variables,
        "MONITOR_DIR": str(data["monitor"]),
        "MONITOR_ADDRESS": settings.bind,
        "MONITOR_PORT": str(ports.monitor_port),
    }
    return [
        Program("epmd", "epmd", *broker.epmd(ports), EPMD_STOP),
        Program(
            "rabbitmq",
            "rabbitmq",
            (str(scripts / "rabbitmq-server"),),
            broker.environment(ports),
            BROKER_STOP,
            path=(str(scripts),),
            behind=broker.digest(settings, secrets, ports),
        ),
        *(
            worker(slot, service, pool)
            for service, pool in worker_services(settings).items()
            for slot in slots.get(service, ())
        ),
        celery("monitor", "monitor", ("app.monitor",), monitor, MONITOR_STOP),
        celery("flower", "flower", ("app.flower",), flower, FLOWER_STOP),
    ]
