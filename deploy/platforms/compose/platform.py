"""The stack as containers, under Docker Compose."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from app.pools import DEFAULT
from deploy import ports
from deploy.errors import ExitCode, WarrenError
from deploy.output import note
from deploy.platforms.base import Autoscaler, Endpoints, Instance
from deploy.platforms.compose import containers, edge, engine, files
from deploy.platforms.compose.change import Changes, pool_services, scales
from deploy.platforms.lock import locked
from deploy.services import EDGE, is_worker, not_up_yet, nothing_runs, of_pool, worker_services
from deploy.services import services as all_services
from deploy.settings import EDGE_PORTS

__all__ = ["Compose"]


class Compose(Changes):
    """Drives `docker compose`; every command that it runs can be typed by hand, from the project's folder."""

    name = "compose"
    keeps = "in .warren/secrets"

    def check(self) -> None:
        engine.check(self.runner)

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

    def overview(self) -> tuple[list[Instance], dict[str, Autoscaler]]:
        return self.status(), {}

    def troubles(self) -> list[str]:
        return []

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
