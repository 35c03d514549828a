"""Makes of what runs what is to run: what starts and stops, in which order, and what is undone where it fails."""

from __future__ import annotations

import time
import xmlrpc.client
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from deploy.errors import ExitCode, WarrenError
from deploy.paths import ROOT, private_folder, write_private
from deploy.platforms.local import addresses, broker, launch, leftovers, package
from deploy.platforms.local.addresses import Ports
from deploy.platforms.local.places import CONF, LOCAL, LOGS, log_file, relative
from deploy.platforms.local.programs import (
    ORDER,
    STOP_ORDER,
    Program,
    folders,
    programs,
    service_of,
)
from deploy.platforms.local.progress import Progress
from deploy.platforms.local.ready import log_size, ready
from deploy.platforms.local.supervisor import NAME, Process, Supervisor, digests, worker_slots
from deploy.platforms.local.told import SUPERVISORCTL, ctl, ended, said
from deploy.platforms.lock import locked
from deploy.run import Runner
from deploy.secrets import Secrets
from deploy.services import SERVICES, is_worker, kind, nothing_runs, worker_services
from deploy.settings import Settings
from deploy.wait import INTERVAL

__all__ = ["Changes", "Slots"]

# Seconds that pool processes without their worker get before they are killed: their tasks are with others by now.
ORPHAN_SECONDS = 5

# What starts together. The others would only fail and try again until the broker answers.
TIERS = (("epmd", "rabbitmq"), ("worker", "monitor", "flower"))

# The numbers of the workers of each service.
Slots: TypeAlias = dict[str, list[int]]


@dataclass(frozen=True)
class Plan:
    """What is to run."""

    programs: list[Program]
    ports: Ports
    slots: Slots


@dataclass(frozen=True)
class Before:
    """What was there when a change began."""

    up: bool
    configuration: str
    running: frozenset[str]

    @classmethod
    def now(cls, supervisor: Supervisor) -> Before:
        up = supervisor.runs()
        running = frozenset(name for name, process in supervisor.processes().items() if process.up)
        return cls(up, CONF.read_text() if up and CONF.exists() else "", running)


class Changes:
    """The parts of a change, of which the commands are made."""

    def __init__(self, settings: Settings, secrets: Secrets, runner: Runner) -> None:
        self.settings = settings
        self.secrets = secrets
        self.runner = runner
        self.supervisor = Supervisor()

    @contextmanager
    def changing(self) -> Iterator[Progress]:
        """Progress for a command that changes the stack, which no other does meanwhile."""
        with Progress() as progress:
            if self.runner.dry:
                yield progress
                return
            private_folder(LOCAL)
            with locked(progress.waits):
                yield progress

    def require_running(self) -> dict[str, Process]:
        processes = self.supervisor.processes()
        if not processes:
            raise nothing_runs()
        return processes

    def scripts(self) -> Path:
        scripts = package.find()
        if scripts is None:
            raise package.missing()
        return scripts

    def ports(self) -> Ports:
        """The ports of the stack that runs."""
        return addresses.known() or addresses.choose(self.settings, running=True)

    def slots(self) -> Slots:
        """The workers that are to run by now; those still stopping after an interrupted `scale` are not among them."""
        return worker_slots(CONF.read_text()) if CONF.exists() else {}

    def wanted(self, slots: Slots) -> Slots:
        """The workers of the pools that the settings name: those in ``slots``, or as many as the settings say."""
        return {
            service: slots.get(service, list(range(1, pool.workers + 1)))
            for service, pool in worker_services(self.settings).items()
        }

    def everything(self) -> list[str]:
        """All services, also of pools that were there and are named no more."""
        return list(dict.fromkeys([*ORDER, *worker_services(self.settings), *self.slots()]))

    def plan(self, slots: Slots, ports: Ports, scripts: Path) -> Plan:
        return Plan(programs(self.settings, self.secrets, ports, slots, scripts), ports, slots)

    def reach(self, plan: Plan, services: Collection[str], force: Collection[str], progress: Progress) -> None:
        """Makes of what runs what ``plan`` says, for the programs of ``services``; those named in ``force`` start anew.

        On an error or Ctrl-C, what this call started is stopped again.
        """
        if self.runner.dry:
            self.foretell(plan, services, force)
            return
        limit = time.monotonic() + self.settings.up_timeout
        before = Before.now(self.supervisor)
        started: dict[str, int] = {}
        try:
            self.write(plan, services)
            if not before.up:
                if leftovers.running():
                    leftovers.end(self.settings.stop_grace, progress)
                self.runner.show(f"{NAME} --configuration {relative(CONF)}")
                self.supervisor.start()
            self.adopt(services, force, progress)
            for tier in TIERS:
                names = [one.name for one in plan.programs if kind(one.service) in tier and one.service in services]
                self.start(names, started, progress)
                self.await_ready(names, started, plan.ports, limit, progress)
        except BaseException:
            self.undo(before, started, plan.ports, progress)
            raise

    def write(self, plan: Plan, services: Collection[str]) -> None:
        """Writes all that the programs of ``services`` read."""
        health = [folders()["health"] / one.name for one in plan.programs if is_worker(one.service)]
        for folder in (LOGS, *folders().values(), *health):
            private_folder(folder)
        if "rabbitmq" in services:
            broker.write(self.settings, self.secrets, plan.ports)
            addresses.remember(plan.ports)
        if self.settings.foreign_app:
            link = private_folder(LOCAL / "path") / "app"
            link.unlink(missing_ok=True)
            link.symlink_to(ROOT / "app")
        changing = [one for one in plan.programs if one.service in services]
        self.supervisor.write(plan.programs, changing, list(plan.slots))

    def adopt(self, services: Collection[str], force: Collection[str], progress: Progress) -> None:
        """Makes supervisor know the programs of the configuration; what changed is stopped for it."""
        differences = self.supervisor.differences()
        added, changed, removed = ([name for name in names if service_of(name) in services] for names in differences)
        # A worker whose broker goes away loses the task that it runs, which then runs again. But whoever is not among
        # the services would not be started again.
        mine = [name for name in self.supervisor.processes() if service_of(name) in services]
        workers = [name for name in mine if "rabbitmq" in changed and is_worker(service_of(name))]
        self.stop(dict.fromkeys([*changed, *removed, *force, *workers]), progress)
        for name in (*changed, *removed):
            self.supervisor.remove(name)
        for name in (*changed, *added):
            self.supervisor.add(name)

    def start(self, names: Sequence[str], started: dict[str, int], progress: Progress) -> None:
        """Starts those of ``names`` that do not run; ``started`` gets each with the size of its log."""
        processes = self.supervisor.processes()
        idle = [name for name in names if name in processes and not processes[name].up]
        # What was stopping, or waits for its next try.
        self.stop(idle, progress)
        for name in idle:
            started[name] = log_size(name)
            self.runner.show(ctl("start", name))
            self.supervisor.start_program(name)

    def await_ready(
        self, names: Sequence[str], started: dict[str, int], ports: Ports, limit: float, progress: Progress
    ) -> None:
        """Waits until all of ``names`` are ready.

        Raises:
            WarrenError: one that this call started has ended, or it takes too long; with the last line of its log.
        """
        waiting = list(names)
        pids: dict[str, int] = {}
        while True:
            processes = self.supervisor.processes()
            if not processes and names:
                raise WarrenError(f"the process manager has ended; see {relative(log_file(NAME))}", ExitCode.FAILED)
            for name in list(waiting):
                process = processes[name]
                if name in started:
                    first = pids.setdefault(name, process.pid)
                    if not process.up or process.pid != first:
                        raise ended(name, started[name])
                if ready(process, self.settings.bind, ports):
                    waiting.remove(name)
                    if name in started and kind(service_of(name)) in SERVICES:
                        progress.line(f"{name} is ready after {progress.seconds:.1f} s")
            if not waiting:
                return
            if time.monotonic() > limit:
                lines = [f"{name} is not ready{said(name, started.get(name, 0))}" for name in waiting]
                more = f"it took longer than WARREN_UP_TIMEOUT={self.settings.up_timeout} s"
                raise WarrenError("\n".join([*lines, more]), ExitCode.TIMEOUT)
            progress.spins(f"waiting for {', '.join(waiting)}")
            time.sleep(INTERVAL)

    def stop(self, names: Collection[str], progress: Progress) -> None:
        """Stops ``names`` in their order and returns when they have ended. Supervisor kills what takes longer than it may."""
        for service in STOP_ORDER:
            tier = [name for name in names if kind(service_of(name)) == service]
            before = self.supervisor.processes()
            for name in tier:
                if name in before and before[name].state not in {"STOPPED", "STOPPING", "EXITED", "FATAL"}:
                    self.runner.show(ctl("stop", name))
                    self.supervisor.stop_program(name)
            begin = time.monotonic()
            while left := [
                one.name for one in self.supervisor.processes().values() if one.name in tier and not one.down
            ]:
                if time.monotonic() - begin > 1:
                    progress.waits(f"waiting for {', '.join(left)} to stop{self.patience(left)}")
                time.sleep(INTERVAL)

    def patience(self, names: Collection[str]) -> str:
        pools = worker_services(self.settings)
        workers = [service for service in map(service_of, names) if is_worker(service)]
        if any(service not in pools for service in workers):
            # Of a pool that the settings do not name any more.
            return ": running tasks are finished first"
        longest = max((pools[service].stop_grace for service in workers), default=0)
        return f": running tasks are finished first (at most {longest} s)" if longest else ""

    def stop_all(self, progress: Progress) -> None:
        """Stops everything, supervisord too, and sees that nothing is left behind."""
        self.stop(list(self.supervisor.processes()), progress)
        self.runner.show(f"{SUPERVISORCTL} shutdown")
        try:
            pid = self.supervisor.shut_down()
        except OSError:
            pid = 0
        while pid and launch.started(pid):
            time.sleep(INTERVAL)
        leftovers.end(ORPHAN_SECONDS, progress)

    def undo(self, before: Before, started: Collection[str], ports: Ports, progress: Progress) -> None:
        """Stops what a call that failed has started; what ran before it is left to supervisor, which tries it again."""
        if not self.supervisor.runs():
            leftovers.end(ORPHAN_SECONDS, progress)
        elif not before.up:
            progress.line("stopping what was started")
            broker_process = self.supervisor.processes().get("rabbitmq")
            if broker_process and not ready(broker_process, self.settings.bind, ports):
                # A broker that still starts has accepted nothing that could be lost, and would stop only after that.
                self.supervisor.kill_program("rabbitmq")
            self.stop_all(progress)
        else:
            self.stop([name for name in started if name not in before.running], progress)
            write_private(CONF, before.configuration)
            # Those that the call had taken away when it failed are new now, and those that it brought are no more in it.
            added, _, removed = self.supervisor.differences()
            for name in added:
                self.supervisor.add(name)
            for name in removed:
                with suppress(xmlrpc.client.Fault):
                    self.supervisor.remove(name)
            for name in before.running:
                self.supervisor.start_program(name)

    def foretell(self, plan: Plan, services: Collection[str], force: Collection[str]) -> None:
        """Shows what `reach` would do."""
        old = digests(CONF.read_text()) if CONF.exists() and self.supervisor.runs() else {}
        if not old:
            self.runner.show(f"{NAME} --configuration {relative(CONF)}")
        new = {one.name: one.digest for one in plan.programs if one.service in services}
        gone = [name for name in old if name not in new and service_of(name) in services]
        again = [name for name in new if name in force or old.get(name, new[name]) != new[name]]
        for name in (*gone, *(name for name in again if name in old)):
            self.runner.show(ctl("stop", name))
        for name in new:
            if name in again or name not in old:
                self.runner.show(ctl("start", name))
