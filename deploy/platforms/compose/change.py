"""The parts of a change to the stack: what is written, stopped and waited for, of which the commands are made."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from app.pools import Pool
from deploy.errors import ExitCode, WarrenError
from deploy.output import note
from deploy.platforms.base import Instance
from deploy.platforms.compose import containers, edge, files
from deploy.platforms.compose.image import Image
from deploy.run import Runner
from deploy.secrets import Secrets
from deploy.services import is_worker, of_pool, worker_services
from deploy.services import services as all_services
from deploy.settings import Settings
from deploy.upgrade import require
from deploy.wait import until

__all__ = ["Changes", "pool_services", "scales"]

# What a worker does first.
LOAD = "from app import celery; celery.loader.import_default_modules()"


class Changes:
    """Knows the stack that Compose runs, and what must not be done to it."""

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

    def write(self, pools: Iterable[Pool] | None = None) -> None:
        if not self.runner.dry:
            chosen = self.settings.pools if pools is None else pools
            files.write(self.settings, self.secrets, self.image.name(), chosen)

    def came_up(self, pools: Iterable[str]) -> None:
        if not self.runner.dry:
            files.came_up(pools)

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

    def status(self) -> list[Instance]:
        found = [containers.instance(one) for one in containers.listed(self.settings, self.runner)]
        # Compose takes what is no service any more for an orphan, which the next `up` removes.
        order = {service: place for place, service in enumerate(all_services(self.settings))}
        return sorted(found, key=lambda one: (order.get(one.service, len(order)), containers.number(one.name)))


def pool_services(settings: Settings) -> list[str]:
    """The services of the pools beside the default one."""
    return [of_pool(pool) for pool in settings.pools]


def scales(counts: Mapping[str, int]) -> list[str]:
    """The options that say how many containers services have."""
    return [word for service, count in counts.items() for word in ("--scale", f"{service}={count}")]
