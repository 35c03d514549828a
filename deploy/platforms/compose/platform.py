"""The stack as containers, under Docker Compose."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from app.pools import DEFAULT, Pool
from deploy import ports
from deploy.errors import ExitCode, WarrenError
from deploy.output import note
from deploy.platforms.base import Autoscaler, Endpoints, Instance
from deploy.platforms.compose import containers, edge, engine, files
from deploy.platforms.compose.image import Image
from deploy.platforms.lock import locked
from deploy.run import Runner
from deploy.secrets import Secrets
from deploy.services import EDGE, is_worker, not_up_yet, nothing_runs, of_pool, worker_services
from deploy.services import services as all_services
from deploy.settings import EDGE_PORTS, Settings
from deploy.upgrade import require
from deploy.wait import until

__all__ = ["Compose"]


# What a worker does first.
LOAD = "from app import celery; celery.loader.import_default_modules()"


class Compose:
    """Drives `docker compose`; every command that it runs can be typed by hand, from the project's folder."""

    name = "compose"
    keeps = "in .warren/secrets"

    def __init__(self, settings: Settings, secrets: Secrets, runner: Runner) -> None:
        self.settings = settings
        self.secrets = secrets
        self.runner = runner
        self.image = Image(settings, runner)

    def compose(self, *arguments: str) -> list[str]:
        return [*self.base(), *(["--file", edge.FILE] if self.has_edge() else []), *arguments]

    def base(self) -> list[str]:
        """A command about the stack without the edge."""
        return [
            *("docker", "compose", "--project-name", self.settings.project),
            *("--env-file", ".warren/compose.env", "--file", "deploy/compose.yaml"),
            *(("--file", f".warren/{files.POOLS}") if self.has_pools() else ()),
        ]

    def has_pools(self) -> bool:
        """Whether there are pools beside the default one; a dry run takes the file for written that would be."""
        return bool(self.settings.pools) if self.runner.dry else bool(files.pools())

    def has_edge(self) -> bool:
        """Whether there is an edge: what WARREN_EDGE says holds from the next `up` on."""
        return self.settings.edge == "on" if self.runner.dry else files.edged()

    def check(self) -> None:
        engine.check(self.runner)

    def write(self, pools: Iterable[Pool] | None = None) -> None:
        if not self.runner.dry:
            chosen = self.settings.pools if pools is None else pools
            files.write(self.settings, self.secrets, self.image.name(), chosen)

    def build(self) -> None:
        self.image.build()

    def up(self, workers: int | None) -> None:
        self.check()
        with locked(note, dry=self.runner.dry):
            self.bring_up(workers)

    def bring_up(self, workers: int | None) -> None:
        listed = containers.listed(self.settings, self.runner)
        before = [containers.instance(one) for one in listed]
        held = containers.published(listed)
        self.require_ports(held)
        edge.advise(self.settings)
        if not before:
            # Of an earlier stack.
            self.came_up(())
        counts = self.counts(before)
        if workers is not None:
            counts["worker"] = workers
        self.change(listed)
        try:
            self.runner.run(
                [
                    *self.compose("up", "--detach", "--remove-orphans", "--quiet-pull"),
                    *scales(counts),
                    *("--wait", "--wait-timeout", str(self.settings.up_timeout)),
                ]
            )
        except WarrenError as error:
            self.await_recovery(error)
        except KeyboardInterrupt:
            if not before:
                self.stop(volumes=False)
            raise
        self.came_up(pool_services(self.settings))
        self.fetch_ca()

    def came_up(self, pools: Iterable[str]) -> None:
        if not self.runner.dry:
            files.came_up(pools)

    def require_ports(self, held: set[int]) -> None:
        """Raises WarrenError where a port is taken, by others than the stack, which holds those of ``held``."""

        def needed(*fields: str) -> list[str]:
            return [field for field in fields if getattr(self.settings, field) not in held]

        if self.settings.edge == "off":
            ports.require_free(self.settings, needed(*ports.FIELDS))
            return
        inner = replace(self.settings, bind=edge.inner_bind(self.settings))
        ports.require_free(inner, needed(*(field for field in ports.FIELDS if field not in edge.CLOSED)))
        ports.require_free(self.settings, needed(*EDGE_PORTS), "edge_bind")

    def fetch_ca(self) -> None:
        """Puts the certificate of the edge's own CA, if there is one, where the user finds it."""
        if self.settings.edge == "on" and edge.own_ca(self.settings):
            self.runner.run(self.compose("cp", f"edge:{edge.CA_INSIDE}", edge.CA), quiet=True)

    def counts(self, before: Sequence[Instance]) -> dict[str, int]:
        """How many workers each pool is to have, for a stack of which ``before`` is there."""
        # None of a stack that is there is what somebody scaled it to, but not of a pool that is new in it.
        known = ("worker", *files.up()) if before else ()
        return {
            service: sum(one.service == service for one in before) if service in known else pool.workers
            for service, pool in worker_services(self.settings).items()
        }

    def change(self, listed: list[dict[str, Any]], services: Collection[str] | None = None) -> None:
        """Brings image and files up to date, without harm to workers among ``listed`` or to their tasks.

        Args:
            services: those that are made anew, where it is not all of them.
        """
        require(containers.broker_image(listed), self.settings.rabbitmq_image)
        before = [containers.instance(one) for one in listed]
        running = any(
            is_worker(one.service) and one.state in {"running", "starting"}
            for one in before
            if services is None or one.service in services
        )
        built = self.image.build()
        was = files.texts()
        # Compose starts what its files name: a pool that is new comes with its queues, or not at all.
        there = files.pools()
        self.write(
            pool
            for pool in self.settings.pools
            if services is None or of_pool(pool) in there or of_pool(pool) in services
        )
        if not running or self.runner.dry:
            return
        if built:
            try:
                self.try_tasks()
            except BaseException:
                # Workers that are added later must be like those that run.
                files.restore(was)
                raise
        renewed = services is None or "rabbitmq" in services
        if renewed and containers.broker_label(listed) not in {"", files.digest()}:
            # Compose will replace the broker first; who still runs a task then would lose it, and it would run again.
            note("the broker changes: workers end their tasks first")
            self.stop_workers(before, services)

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

        def recovered() -> bool:
            found = self.status()
            if any(one.state == "failed" or "Restarting" in one.since for one in found):
                raise self.not_up(error) from error
            return bool(found) and all(one.ready for one in found)

        if all(one.state != "running" or one.ready for one in self.status()):
            raise self.not_up(error) from error
        until(recovered, self.settings.up_timeout, lambda: str(self.not_up(error)))

    def not_up(self, error: WarrenError) -> WarrenError:
        """Why `up` failed: the services that are not ready, with the last line that each wrote."""
        said = []
        for instance in self.status():
            if not instance.ready:
                last = containers.last_line(instance.name)
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

    def down(self, volumes: bool) -> None:
        with locked(note, dry=self.runner.dry):
            # Refuses where they are another checkout's.
            self.stop(volumes, self.status())

    def stop(self, volumes: bool, found: Sequence[Instance] = ()) -> None:
        if not files.present():
            self.write()
        # Workers first: while the broker is there they end their tasks, acknowledge them and give back the others.
        self.stop_workers(found)
        # To this command the edge is an orphan: it goes too, but its volume stays. That holds the key of a CA that people
        # trust, or certificates that a public CA gives only so often: secrets, not data.
        self.runner.run([*self.base(), "down", "--remove-orphans", *(["--volumes"] if volumes else [])])

    def stop_workers(self, found: Sequence[Instance], services: Collection[str] | None = None) -> None:
        """Stops the workers of ``services``; without, those of all pools, also of ``found`` whose pool is none any more."""
        known = ["worker", *files.pools()]
        if services is not None:
            # Who is not named would not be started again.
            self.runner.run([*self.base(), "stop", *(one for one in known if one in services)])
            return
        self.runner.run([*self.base(), "stop", *known])
        if others := [one.name for one in found if is_worker(one.service) and one.service not in known]:
            self.runner.run(["docker", "stop", *others], quiet=True)

    def restart(self, services: Sequence[str]) -> None:
        with locked(note, dry=self.runner.dry):
            self.renew(services)

    def renew(self, services: Sequence[str]) -> None:
        listed = containers.listed(self.settings, self.runner)
        if not listed:
            raise nothing_runs()
        up = files.up()
        new = [one for one in services if is_worker(one) and one not in ("worker", *up)]
        if new and "rabbitmq" not in services:
            raise not_up_yet(new[0])
        if (self.settings.edge == "on") is not self.has_edge():
            # Flower alone would be restarted for an edge that is not there, or is no more.
            raise WarrenError(f"the edge is to be {self.settings.edge} by now; `invoke up` first", ExitCode.FAILED)
        counts = self.counts([containers.instance(one) for one in listed])
        self.change(listed, services)
        wanted = [service for service in all_services(self.settings) if service in services]
        try:
            self.runner.run(
                [
                    *self.compose("up", "--detach", "--no-deps", "--force-recreate"),
                    # Compose knows the services that are named, and no others.
                    *scales({service: counts[service] for service in wanted if service in counts}),
                    *("--wait", "--wait-timeout", str(self.settings.up_timeout), *wanted),
                ]
            )
        except WarrenError as error:
            self.await_recovery(error)
        self.came_up(one for one in pool_services(self.settings) if one in up or one in new)

    def status(self) -> list[Instance]:
        found = [containers.instance(one) for one in containers.listed(self.settings, self.runner)]
        # Compose takes what is no service any more for an orphan, which the next `up` removes.
        order = {service: place for place, service in enumerate(all_services(self.settings))}
        return sorted(found, key=lambda one: (order.get(one.service, len(order)), containers.number(one.name)))

    def logs(self, services: Sequence[str], follow: bool, tail: int) -> int:
        # Of a pool or an edge that is not up yet Compose knows nothing.
        known = ("worker", *files.pools())
        known += (EDGE,) if self.has_edge() else ()
        chosen = [one for one in services if not (is_worker(one) or one == EDGE) or one in known]
        if services and not chosen:
            raise WarrenError(f"{', '.join(services)}: not up yet; `invoke up` starts it", ExitCode.FAILED)
        return self.runner.attach(self.compose("logs", "--tail", str(tail), *(["--follow"] if follow else []), *chosen))

    def scale(self, workers: int, busy: set[str], pool: str = DEFAULT) -> None:
        service = of_pool(pool)
        found = self.status()
        if not any(one.service == "rabbitmq" for one in found):
            raise nothing_runs()
        if service not in {"worker", *files.up()}:
            raise not_up_yet(service)
        running = [one for one in found if one.service == service and one.state == "running"]
        spare = len(running) - workers
        if spare > 0:
            # Compose would stop the youngest; a busy one would hold this command up for as long as its task takes.
            chosen = sorted(running, key=lambda one: (one.node in busy, -containers.number(one.name)))[:spare]
            names = [one.name for one in chosen]
            waited_for = [one.name for one in chosen if one.node in busy]
            if waited_for:
                grace = worker_services(self.settings)[service].stop_grace
                note(f"{', '.join(waited_for)}: ends its task first, for {grace} s at most")
            self.runner.run(["docker", "stop", *names], quiet=True)
            self.runner.run(["docker", "rm", *names], quiet=True)
        self.runner.run(
            [
                *self.compose("up", "--detach", "--no-deps", "--no-recreate", *scales({service: workers})),
                *("--wait", "--wait-timeout", str(self.settings.up_timeout), service),
            ]
        )

    def autoscalers(self) -> dict[str, Autoscaler]:
        return {}

    def exec(self, service: str, command: Sequence[str]) -> int:
        if is_worker(service) and service not in ("worker", *files.pools()):
            raise not_up_yet(service)
        return self.runner.attach(self.compose("exec", service, *command))

    def endpoints(self) -> Endpoints:
        bind = edge.inner_bind(self.settings)
        host = "127.0.0.1" if bind in {"0.0.0.0", "::"} else bind  # noqa: S104
        return Endpoints(
            host=host,
            amqp=self.settings.amqp_port,
            management=self.settings.management_port,
            prometheus=self.settings.prometheus_port,
            flower=self.settings.flower_port,
            monitor=self.settings.monitor_port,
            flower_prefix=self.settings.flower_url_prefix,
            **edge.endpoints(self.settings),
        )


def pool_services(settings: Settings) -> list[str]:
    """The services of the pools beside the default one."""
    return [of_pool(pool) for pool in settings.pools]


def scales(counts: Mapping[str, int]) -> list[str]:
    """The options that say how many containers services have."""
    return [word for service, count in counts.items() for word in ("--scale", f"{service}={count}")]
