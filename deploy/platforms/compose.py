"""Docker Compose: the stack of `deploy/compose.yaml`."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from deploy import ports
from deploy.definitions import broker_settings, definitions
from deploy.errors import ExitCode, WarrenError
from deploy.output import note
from deploy.paths import ROOT, STATE, write_private
from deploy.platforms.base import Endpoints, Instance
from deploy.platforms.lock import locked
from deploy.run import Runner
from deploy.secrets import Secrets
from deploy.services import SERVICES, environments
from deploy.settings import Settings
from deploy.wait import until

__all__ = ["Compose"]

# Of all files, those that go into the image.
IMAGE_SOURCES = ("app", "requirements/app.txt", "deploy/image")

# Seconds. An engine that answers takes a tenth of one; a wedged one never answers.
ENGINE_PATIENCE = 10

# What Compose takes for the project's folder: that of the file.
HOME = ROOT / "deploy"

# The variables of compose.yaml that the broker's container is made from.
BROKER = (
    "WARREN_RABBITMQ_.*",
    "WARREN_DEFINITIONS_DIGEST",
    "WARREN_BIND",
    "WARREN_(?:AMQP|MANAGEMENT|PROMETHEUS)_PORT",
)

# What a worker does first.
LOAD = "from app import celery; celery.loader.import_default_modules()"


class Compose:
    """Drives `docker compose`; every command that it runs can be typed by hand, from the project's folder."""

    name = "compose"

    def __init__(self, settings: Settings, secrets: Secrets, runner: Runner) -> None:
        self.settings = settings
        self.secrets = secrets
        self.runner = runner

    # --- commands

    def compose(self, *arguments: str) -> list[str]:
        return [
            *("docker", "compose", "--project-name", self.settings.project),
            *("--env-file", ".warren/compose.env", "--file", "deploy/compose.yaml", *arguments),
        ]

    def check(self) -> None:
        try:
            version = self.runner.read(
                ["docker", "version", "--format", "{{.Server.Version}}"], timeout=ENGINE_PATIENCE
            )
            self.runner.read(["docker", "compose", "version", "--short"], timeout=ENGINE_PATIENCE)
        except WarrenError as error:
            raise self.explained(error) from error
        if not version.strip():
            raise unusable("the Docker engine does not answer")

    @staticmethod
    def explained(error: WarrenError) -> WarrenError:
        """``error`` of a docker command as the line that says what to do about the engine, where it is the engine."""
        text = str(error)
        if error.code is ExitCode.PLATFORM:
            return unusable("docker is not installed")
        if "permission denied" in text:
            return WarrenError(
                "this user may not use the Docker engine; join the group docker (sudo usermod -aG docker $USER, then log in "
                "again), or choose --platform local",
                ExitCode.PLATFORM,
            )
        if error.code is ExitCode.TIMEOUT or re.search(
            r"(?i)cannot connect|is the docker daemon running|failed to connect", text
        ):
            return unusable("the Docker engine does not answer")
        if "compose" in text and re.search(r"is not a docker command|unknown command", text):
            return unusable("docker has no Compose plugin")
        return error

    # --- files that compose.yaml refers to

    def image(self) -> str:
        """The app image's name, with a tag that changes with its contents: what is built already is not built again."""
        return f"{self.settings.app_image}:{self.image_digest()}" if not self.named_image() else self.settings.app_image

    def named_image(self) -> bool:
        """Whether the user names a whole image (with a tag or digest), which is then used as it is, not built."""
        return ":" in self.settings.app_image.rpartition("/")[2]

    def project_context(self) -> Path:
        if not self.settings.foreign_app:
            return ROOT / "deploy" / "image" / "no-project"
        return (ROOT / self.settings.app_context).resolve()

    def image_digest(self) -> str:
        digest = hashlib.sha256(self.settings.python_image.encode())
        places = [ROOT / place for place in IMAGE_SOURCES]
        if self.settings.foreign_app:
            places.append(self.project_context())
        for place in places:
            for file in sources(place):
                digest.update(f"{file.relative_to(place.parent)}\0".encode())
                digest.update(file.read_bytes())
        return digest.hexdigest()[:12]

    def write(self) -> None:
        """Writes what compose.yaml refers to: the definitions, each service's environment, the variables."""
        if self.runner.dry:
            return
        content = json.dumps(definitions(self.settings, self.secrets), indent=1)
        conf = broker_settings(self.settings)
        write_private(STATE / "rabbitmq" / "definitions.json", content)
        write_private(STATE / "rabbitmq" / "30-settings.conf", conf)
        # Not secret, and read by the broker's user inside its container.
        (STATE / "rabbitmq" / "30-settings.conf").chmod(0o644)
        for service, values in environments(self.settings, self.secrets, "rabbitmq", 5672, 15672).items():
            write_private(STATE / "env" / f"{service}.env", lines(values))
        broker_files = "".join(file.read_text() for file in sources(ROOT / "deploy" / "rabbitmq"))
        write_private(
            STATE / "compose.env",
            lines(
                {
                    "WARREN_APP_IMAGE": self.image(),
                    "WARREN_RABBITMQ_IMAGE": self.settings.rabbitmq_image,
                    "WARREN_RABBITMQ_MEMORY_MB": str(self.settings.rabbitmq_memory_mb),
                    "WARREN_DEFINITIONS_DIGEST": hashlib.sha256((content + conf + broker_files).encode()).hexdigest()[
                        :12
                    ],
                    "WARREN_BIND": f"[{self.settings.bind}]" if ":" in self.settings.bind else self.settings.bind,
                    **{f"WARREN_{field.upper()}": str(getattr(self.settings, field)) for field in ports.FIELDS},
                    "WARREN_WORKERS": str(self.settings.workers),
                    "WARREN_STOP_GRACE": str(self.settings.stop_grace),
                    "WARREN_LOG_LEVEL": self.settings.log_level,
                }
            ),
        )

    # --- the platform's interface

    def build(self) -> None:
        self.build_image()

    def build_image(self) -> bool:
        """Builds the image if it has to be; says whether it had."""
        image = self.image()
        if self.named_image() or self.built(image):
            return False
        self.runner.run(
            [
                *("docker", "build", "--file", "deploy/image/Dockerfile", "--tag", image),
                *("--build-arg", f"PYTHON_IMAGE={self.settings.python_image}"),
                *("--build-context", f"project={self.project_context()}", "."),
            ]
        )
        return True

    def built(self, image: str) -> bool:
        return bool(self.runner.read(["docker", "images", "--quiet", image]).strip())

    def up(self, workers: int | None) -> None:
        self.check()
        with locked(note):
            self.bring_up(workers)

    def bring_up(self, workers: int | None) -> None:
        containers = self.containers()
        before = [instance(container) for container in containers]
        held = {int(port) for container in containers for port in re.findall(r":(\d+)->", container.get("Ports", ""))}
        ports.require_free(
            self.settings, [field for field in ports.FIELDS if getattr(self.settings, field) not in held]
        )
        there = [one for one in before if one.service == "worker"]
        self.change(any(one.state in {"running", "starting"} for one in there))
        # None of a stack that is there is what somebody scaled it to.
        count = workers if workers is not None else len(there) if before else self.settings.workers
        try:
            self.runner.run(
                [
                    *self.compose("up", "--detach", "--remove-orphans", "--quiet-pull"),
                    *("--scale", f"worker={count}", "--wait", "--wait-timeout", str(self.settings.up_timeout)),
                ]
            )
        except WarrenError as error:
            self.await_recovery(error)
        except KeyboardInterrupt:
            if not before:
                self.stop(volumes=False)
            raise

    def change(self, running: bool) -> None:
        """Brings image and files up to date, where workers are ``running`` without harm to them or to their tasks."""
        broker = self.deployed()
        built = self.build_image()
        was = {
            file: file.read_text() for file in (STATE / "compose.env", *(STATE / "env").glob("*.env")) if file.exists()
        }
        self.write()
        if not running or self.runner.dry:
            return
        if built:
            try:
                self.try_tasks()
            except BaseException:
                # Workers that are added later must be like those that run.
                for file, text in was.items():
                    write_private(file, text)
                raise
        if broker and broker != self.deployed():
            # Compose will replace the broker first; who still runs a task then would lose it, and it would run again.
            note("the broker changes: workers end their tasks first")
            self.runner.run(self.compose("stop", "worker"))

    @staticmethod
    def deployed() -> list[str]:
        """What compose.env says of the broker now; another answer after `write` makes another container of it."""
        file = STATE / "compose.env"
        return re.findall(rf"^(?:{'|'.join(BROKER)})=.*$", file.read_text(), re.MULTILINE) if file.exists() else []

    def try_tasks(self) -> None:
        """Loads the tasks once in the new image, before it takes the place of workers that work.

        Raises:
            WarrenError: they can't be loaded; what runs is left as it is.
        """
        try:
            self.runner.run([*self.compose("run", "--rm", "--no-deps", "--no-TTY", "worker"), "python3", "-c", LOAD])
        except WarrenError as error:
            raise WarrenError(
                "the tasks can't be loaded (see above); correct them, and `invoke up` again. What runs is left as it is",
                ExitCode.SETTINGS,
            ) from error

    def await_recovery(self, error: WarrenError) -> None:
        """Waits for services that are running but not ready, for which `compose up --wait` would not wait.

        So are workers for half a minute after the broker was away.

        Raises:
            WarrenError: not all get ready in time, or one has ended.
        """

        def state() -> str:
            found = self.status()
            if any(one.state == "failed" or "Restarting" in one.since for one in found):
                raise self.not_up(error) from error
            return "ready" if found and all(one.ready for one in found) else "waiting"

        if all(one.state != "running" or one.ready for one in self.status()):
            raise self.not_up(error) from error
        until(lambda: state() == "ready", self.settings.up_timeout, lambda: str(self.not_up(error)))

    def not_up(self, error: WarrenError) -> WarrenError:
        """Why `up` failed: the services that are not ready, with the last line that each wrote."""
        said = []
        for instance in self.status():
            if not instance.ready:
                last = self.last_line(instance.name)
                if last.startswith("error: "):
                    # Ours, of a setting or of tasks that can't be imported: it says all.
                    return WarrenError(f"{instance.name}: {last.removeprefix('error: ')}", ExitCode.SETTINGS)
                said.append(f"{instance.name} is {instance.state}{': ' + last if last else ''}")
        if not said:
            return error
        return WarrenError(
            "\n".join(said) + "\nwhat came up is left as it is; see `invoke logs`, and `invoke up` to go on",
            ExitCode.TIMEOUT,
        )

    def last_line(self, container: str) -> str:
        done = subprocess.run(
            ["docker", "logs", "--tail", "5", container],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        written = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        return written[-1] if written else ""

    def down(self, volumes: bool) -> None:
        with locked(note):
            self.containers()  # refuses where they are another checkout's
            self.stop(volumes)

    def stop(self, volumes: bool) -> None:
        if not (STATE / "compose.env").exists():
            self.write()
        # Workers first: while the broker is there they end their tasks, acknowledge them and give back the others.
        self.runner.run(self.compose("stop", "worker"))
        self.runner.run(self.compose("down", "--remove-orphans", *(["--volumes"] if volumes else [])))

    def restart(self, services: Sequence[str]) -> None:
        with locked(note):
            self.renew(services)

    def renew(self, services: Sequence[str]) -> None:
        if not self.status():
            raise WarrenError("nothing runs; `invoke up` starts the stack", ExitCode.FAILED)
        self.change("worker" in services)
        wanted = [service for service in SERVICES if service in services]
        workers = sum(instance.service == "worker" for instance in self.status())
        try:
            self.runner.run(
                [
                    *self.compose("up", "--detach", "--no-deps", "--force-recreate"),
                    # Compose knows the services that are named, and no others.
                    *(["--scale", f"worker={workers}"] if "worker" in wanted else []),
                    *("--wait", "--wait-timeout", str(self.settings.up_timeout), *wanted),
                ]
            )
        except WarrenError as error:
            self.await_recovery(error)

    def containers(self, service: str | None = None) -> list[dict[str, Any]]:
        label = "com.docker.compose"
        filters = [f"label={label}.project={self.settings.project}", f"label={label}.oneoff=False"]
        if service:
            filters.append(f"label={label}.service={service}")
        command = ["docker", "ps", "--all", "--no-trunc", "--format", "json"]
        for one in filters:
            command += ["--filter", one]
        try:
            printed = self.runner.read(command, timeout=ENGINE_PATIENCE)
        except WarrenError as error:
            raise self.explained(error) from error
        found = [json.loads(line) for line in printed.splitlines()]
        for one in found:
            home = labels(one).get(f"{label}.project.working_dir", str(HOME))
            if Path(home) != HOME:
                raise WarrenError(
                    f"the containers of WARREN_PROJECT={self.settings.project} belong to the checkout {Path(home).parent}; "
                    "choose another name (and other ports) in .env, or go there",
                    ExitCode.REFUSED,
                )
        return found

    def status(self) -> list[Instance]:
        found = [instance(container) for container in self.containers()]
        # Compose takes what is no service any more for an orphan, which the next `up` removes.
        order = {service: place for place, service in enumerate(SERVICES)}
        return sorted(found, key=lambda one: (order.get(one.service, len(order)), number(one.name)))

    def logs(self, services: Sequence[str], follow: bool, tail: int) -> int:
        return self.runner.attach(
            self.compose("logs", "--tail", str(tail), *(["--follow"] if follow else []), *services)
        )

    def scale(self, workers: int, busy: set[str]) -> None:
        running = [one for one in self.status() if one.service == "worker" and one.state == "running"]
        if not any(one.service == "rabbitmq" for one in self.status()):
            raise WarrenError("nothing runs; `invoke up` starts the stack", ExitCode.FAILED)
        spare = len(running) - workers
        if spare > 0:
            # Compose would stop the youngest; a busy one would hold this command up for as long as its task takes.
            chosen = sorted(running, key=lambda one: (one.node in busy, -number(one.name)))[:spare]
            names = [one.name for one in chosen]
            waited_for = [one.name for one in chosen if one.node in busy]
            if waited_for:
                note(f"{', '.join(waited_for)}: ends its task first, for {self.settings.stop_grace} s at most")
            self.runner.run(["docker", "stop", *names], quiet=True)
            self.runner.run(["docker", "rm", *names], quiet=True)
        self.runner.run(
            [
                *self.compose("up", "--detach", "--no-deps", "--no-recreate", "--scale", f"worker={workers}"),
                *("--wait", "--wait-timeout", str(self.settings.up_timeout), "worker"),
            ]
        )

    def exec(self, service: str, command: Sequence[str]) -> int:
        return self.runner.attach(self.compose("exec", service, *command))

    def endpoints(self) -> Endpoints:
        host = "127.0.0.1" if self.settings.bind in {"0.0.0.0", "::"} else self.settings.bind  # noqa: S104
        return Endpoints(
            host=host,
            amqp=self.settings.amqp_port,
            management=self.settings.management_port,
            prometheus=self.settings.prometheus_port,
            flower=self.settings.flower_port,
        )


def unusable(why: str) -> WarrenError:
    return WarrenError(
        f"{why}; start the engine (sudo systemctl start docker) or install it (docs.docker.com/engine/install), "
        "or choose --platform local",
        ExitCode.PLATFORM,
    )


def sources(place: Path) -> Iterator[Path]:
    """The files at ``place`` in a stable order, without what tools and version control leave there."""
    if place.is_file():
        yield place
        return
    for file in sorted(place.rglob("*")):
        hidden = any(
            part.startswith(".") or part in {"__pycache__", "node_modules"} for part in file.relative_to(place).parts
        )
        if file.is_file() and not hidden:
            yield file


def lines(values: dict[str, str]) -> str:
    """``values`` as an env file. Single quotes keep Compose from expanding what looks like a variable."""
    return "".join(
        f"{name}='{value}'\n" if "'" not in value else f'{name}="{value}"\n' for name, value in values.items()
    )


def number(name: str) -> int:
    found = re.search(r"(\d+)$", name)
    return int(found.group(1)) if found else 0


def labels(container: dict[str, Any]) -> dict[str, str]:
    return dict(label.partition("=")[::2] for label in container["Labels"].split(","))


def instance(container: dict[str, Any]) -> Instance:
    service = labels(container)["com.docker.compose.service"]
    status = container["Status"]
    checked = re.search(r"\((healthy|unhealthy|health: starting)\)", status)
    running = container["State"] == "running"
    ready = running and (checked is None or checked.group(1) == "healthy")
    if running:
        state = "running" if ready else ("starting" if checked and "starting" in checked.group(1) else "running")
    elif container["State"] in {"created", "restarting"}:
        state = "starting"
    else:
        state = "stopped" if re.match(r"Exited \((0|143)\)", status) else "failed"
    return Instance(
        service=service,
        name=container["Names"],
        state=state,
        ready=ready,
        since=re.sub(r" \((healthy|unhealthy|health: starting)\)", "", status),
        # A worker's node is named after its host name, which is the first 12 digits of its container's id.
        node=f"celery@{container['ID'][:12]}" if service == "worker" else "",
    )
