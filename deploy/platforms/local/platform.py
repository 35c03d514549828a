"""The stack as processes of this host, under supervisor."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from app.pools import DEFAULT
from deploy.errors import ExitCode, WarrenError
from deploy.platforms.base import Autoscaler, Endpoints, Instance
from deploy.platforms.local import addresses, install, launch, leftovers, package
from deploy.platforms.local.change import Changes
from deploy.platforms.local.places import CONF, LOCAL, LOGS, PROGRAMS, log_file, program_file, relative
from deploy.platforms.local.programs import context, node_name, number, service_of
from deploy.platforms.local.ready import ready
from deploy.platforms.local.supervisor import drop_socket_folder
from deploy.platforms.local.told import SUPERVISORCTL, kill, since
from deploy.services import SERVICES, is_worker, kind, not_up_yet, nothing_runs, of_pool
from deploy.services import services as all_services

__all__ = ["Local"]

STATES = {"STARTING": "starting", "RUNNING": "running", "STOPPING": "running", "STOPPED": "stopped"}


class Local(Changes):
    """Drives supervisor; what runs is in `.warren/local`, what it writes in `.warren/logs`."""

    name = "local"
    keeps = "in .warren/secrets"

    def check(self) -> None:
        scripts = package.find()
        if scripts:
            package.require_supported(scripts)
        elif not package.installable():
            raise package.missing()

    def build(self) -> None:
        if self.settings.foreign_app:
            install.install(context(self.settings), self.runner)

    def up(self, workers: int | None) -> None:
        scripts = package.ensure(self.runner)
        self.build()
        with self.changing() as progress:
            runs = self.supervisor.runs()
            slots = self.wanted(self.slots() if runs else {})
            if workers is not None:
                slots["worker"] = resized(slots["worker"], workers, set(), self.settings.project)
            ports = addresses.choose(self.settings, runs)
            if scripts is not None:
                self.reach(self.plan(slots, ports, scripts), self.everything(), (), progress)

    def down(self, volumes: bool) -> None:
        with self.changing() as progress:
            if self.supervisor.runs():
                if self.runner.dry:
                    self.runner.show(f"{SUPERVISORCTL} shutdown")
                else:
                    self.stop_all(progress)
            elif (left := leftovers.running()) and self.runner.acts(kill(left)):
                leftovers.end(self.settings.stop_grace, progress)
            if not self.runner.dry:
                drop_socket_folder()
                CONF.unlink(missing_ok=True)
                shutil.rmtree(PROGRAMS, ignore_errors=True)
            if volumes and self.runner.acts(f"rm -r {relative(LOCAL)} {relative(LOGS)}"):
                for folder in (LOCAL, LOGS):
                    if folder.exists():
                        shutil.rmtree(folder)

    def restart(self, services: Sequence[str]) -> None:
        known = all_services(self.settings)
        unknown = [service for service in services if service not in known]
        if unknown:
            raise WarrenError(f"there is no service {unknown[0]!r}; there are {', '.join(known)}", ExitCode.UNKNOWN)
        self.build()
        with self.changing() as progress:
            self.require_running()
            slots = self.slots()
            if "rabbitmq" in services:
                slots |= {service: wanted for service, wanted in self.wanted(slots).items() if service in services}
            elif new := [one for one in services if is_worker(one) and one not in slots]:
                raise not_up_yet(new[0])
            plan = self.plan(slots, self.ports(), self.scripts())
            names = [one.name for one in plan.programs if one.service in services]
            self.reach(plan, services, names, progress)
            if "rabbitmq" in services and not self.runner.dry:
                # They find their broker again by themselves.
                limit = time.monotonic() + self.settings.up_timeout
                there = self.supervisor.processes()
                names = [one.name for one in plan.programs if one.name in there]
                self.await_ready(names, {}, plan.ports, limit, progress)

    def status(self) -> list[Instance]:
        processes = self.supervisor.processes()
        if not processes:
            lost = "runs without its process manager: `invoke up` starts anew"
            names = [name for name in leftovers.running() if kind(service_of(name)) in SERVICES]
            return in_order(Instance(service_of(name), name, "failed", False, lost) for name in names)
        ports = addresses.known()
        found = []
        for process in processes.values():
            service = service_of(process.name)
            if kind(service) in SERVICES:
                serves = ports is not None and ready(process, self.settings.bind, ports)
                state = "running" if serves else STATES.get(process.state, "failed")
                found.append(Instance(service, process.name, state, serves, since(process), node_of(process.name)))
        return in_order(found)

    def overview(self) -> tuple[list[Instance], dict[str, Autoscaler]]:
        return self.status(), {}

    def troubles(self) -> list[str]:
        return []

    def logs(self, services: Sequence[str], follow: bool, tail: int) -> int:
        names = [one.name for one in self.status()] or sorted(file.stem for file in LOGS.glob("*.log"))
        chosen = [
            name for name in names if (service_of(name) in services if services else kind(service_of(name)) in SERVICES)
        ]
        files = [relative(log_file(name)) for name in chosen if log_file(name).exists()]
        if not files:
            new = [one for one in services if is_worker(one) and one not in self.slots()]
            if names and new and len(new) == len(services):
                raise WarrenError(f"{', '.join(services)}: not up yet; `invoke up` starts it", ExitCode.FAILED)
            raise WarrenError(f"nothing has been logged yet; {nothing_runs()}", ExitCode.FAILED)
        code = self.runner.attach(["tail", "-n", str(tail), *(["-F"] if follow else []), *files])
        # Following ends by Ctrl-C only, as it should.
        return 0 if code == -signal.SIGINT else code

    def scale(self, workers: int, busy: set[str], pool: str = DEFAULT) -> None:
        service = of_pool(pool)
        with self.changing() as progress:
            self.require_running()
            slots = self.slots()
            if service not in slots:
                raise not_up_yet(service)
            slots[service] = resized(slots[service], workers, busy, self.settings.project, service)
            self.reach(self.plan(slots, self.ports(), self.scripts()), [service], (), progress)

    def autoscalers(self) -> dict[str, Autoscaler]:
        return {}

    def exec(self, service: str, command: Sequence[str]) -> int:
        processes = self.supervisor.processes().values()
        running = [one.name for one in processes if one.up and service_of(one.name) == service]
        if not running:
            raise WarrenError(f"{service} does not run; `invoke status` shows what does", ExitCode.UNKNOWN)
        launcher = [sys.executable, "-I", "-S", relative(Path(launch.__file__))]
        return self.runner.attach([*launcher, "exec", relative(program_file(running[0])), *command])

    def endpoints(self) -> Endpoints:
        return addresses.endpoints(self.settings)


def in_order(instances: Iterable[Instance]) -> list[Instance]:
    return sorted(instances, key=lambda one: (SERVICES.index(kind(one.service)), one.service, number(one.name)))


def resized(slots: list[int], count: int, busy: set[str], project: str, service: str = "worker") -> list[int]:
    """``count`` slots made from ``slots``: idle ones leave first, of these the highest; new ones fill the gaps."""
    if count <= len(slots):
        by_need = sorted(slots, key=lambda slot: (node_name(slot, project, service) not in busy, slot))
        return sorted(by_need[:count])
    free = (slot for slot in itertools.count(1) if slot not in slots)
    return sorted([*slots, *itertools.islice(free, count - len(slots))])


def node_of(name: str) -> str:
    """The Celery node name that worker ``name`` was started with."""
    if not number(name):
        return ""
    try:
        return str(json.loads(program_file(name).read_text())["node"])
    except (OSError, ValueError, KeyError):
        return ""
