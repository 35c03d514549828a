"""Worker pools on the local platform: which programs there are, and which numbers they have."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from app.pools import Pool
from deploy.errors import WarrenError
from deploy.platforms.local import change, platform, supervisor
from deploy.platforms.local.programs import Program, node_name, programs, service_of
from deploy.platforms.local.ready import ready
from deploy.run import Runner
from deploy.secrets import Secrets
from deploy.settings import Settings
from tests.unit.test_local_supervisor import PORTS, places

__all__ = ["places"]  # a fixture

HEAVY = Pool(name="heavy", queues=("video",), time_limit=60, workers=2, concurrency="3")
SETTINGS = Settings(pools=(HEAVY,))


def made(secrets: Secrets, **slots: list[int]) -> dict[str, Program]:
    by_service = {service.replace("_", "-"): numbers for service, numbers in slots.items()}
    found = programs(SETTINGS, secrets, PORTS, by_service, Path("/scripts"))
    return {program.name: program for program in found}


def test_each_worker_is_a_program_of_its_service(secrets: Secrets) -> None:
    found = made(secrets, worker=[1], worker_heavy=[1, 3])
    assert list(found) == ["epmd", "rabbitmq", "worker-1", "worker-heavy-1", "worker-heavy-3", "monitor", "flower"]
    assert [service_of(name) for name in found] == [one.service for one in found.values()]
    default, heavy = found["worker-1"], found["worker-heavy-3"]
    assert (heavy.node, heavy.stop_seconds) == ("worker-heavy-3@warren", 90)
    assert default.stop_seconds == 330
    assert heavy.environment["WARREN_POOL"] == "heavy"
    assert heavy.environment["WARREN_WORKER_CONCURRENCY"] == HEAVY.concurrency
    assert "WARREN_POOL" not in default.environment
    # Both stop before all others.
    assert default.priority == heavy.priority > found["monitor"].priority


def test_the_configuration_remembers_pools_without_workers(secrets: Secrets, places: Path) -> None:
    found = made(secrets, worker=[2], worker_heavy=[])
    text = supervisor.configuration(list(found.values()), places, ["worker", "worker-heavy"])
    assert supervisor.worker_slots(text) == {"worker": [2], "worker-heavy": []}
    # As an older version wrote it.
    assert supervisor.worker_slots(text.replace(supervisor.WORKERS, "; else: ")) == {"worker": [2]}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"worker": [1], "worker-heavy": [1, 2]}),
        ({"worker": [2, 3]}, {"worker": [2, 3], "worker-heavy": [1, 2]}),
        ({"worker": [], "worker-heavy": []}, {"worker": [], "worker-heavy": []}),
        ({"worker": [1], "worker-old": [1]}, {"worker": [1], "worker-heavy": [1, 2]}),
    ],
)
def test_up_keeps_the_numbers_of_pools_that_were_there(
    before: dict[str, list[int]], after: dict[str, list[int]], secrets: Secrets
) -> None:
    assert platform.Local(SETTINGS, secrets, Runner()).wanted(before) == after


def test_idle_ones_of_a_pool_leave_first() -> None:
    busy = {node_name(3, "warren", "worker-heavy"), node_name(1, "warren")}
    assert platform.resized([1, 2, 3], 1, busy, "warren", "worker-heavy") == [3]


def test_the_wait_for_a_stop_is_that_of_the_most_patient(secrets: Secrets) -> None:
    local = platform.Local(SETTINGS, secrets, Runner())
    assert local.patience(["monitor"]) == ""
    assert local.patience(["worker-heavy-1"]).endswith("(at most 90 s)")
    assert local.patience(["worker-heavy-1", "worker-1"]).endswith("(at most 330 s)")
    # Its limit is not known here.
    assert local.patience(["worker-old-1", "worker-1"]) == ": running tasks are finished first"


def test_a_worker_of_a_pool_is_ready_by_its_own_health(
    secrets: Secrets, places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deploy.platforms.local import ready as module

    asked: list[str] = []
    monkeypatch.setattr(module, "launched", lambda _: True)
    monkeypatch.setattr(module.health, "ready", lambda folder: asked.append(folder) or True)
    assert ready(supervisor.Process("worker-heavy-2", "RUNNING", 7, 9), "127.0.0.1", PORTS)
    assert asked[0].endswith("/health/worker-heavy-2")


# --- a restart


class Silent:
    """The progress of a command that nobody watches."""

    seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class Running:
    """A supervisor that runs the stack, as far as a restart needs it."""

    def __init__(self, *names: str, changed: Sequence[str] = ()) -> None:
        self.names = list(names)
        self.new: list[str] = []
        self.changed = list(changed)
        self.stopped: list[str] = []
        self.written: list[str] = []

    def runs(self) -> bool:
        return True

    def processes(self) -> dict[str, supervisor.Process]:
        states = {name: "STOPPED" if name in self.stopped else "RUNNING" for name in self.names}
        return {name: supervisor.Process(name, states[name], 7, 9) for name in self.names}

    def write(self, planned: Sequence[Program], changing: Sequence[Program], services: Sequence[str]) -> None:
        self.new = [one.name for one in planned if one.name not in self.names]
        self.written = list(services)

    def differences(self) -> tuple[list[str], list[str], list[str]]:
        return self.new, self.changed, []

    def add(self, name: str) -> None:
        if name not in self.names:
            self.names.append(name)
            self.stopped.append(name)

    def remove(self, name: str) -> None:
        pass

    def stop_program(self, name: str) -> None:
        self.stopped.append(name)

    def start_program(self, name: str) -> None:
        self.stopped.remove(name)


@pytest.fixture
def restarted(secrets: Secrets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a restart of services makes of a running stack."""

    def restart(running: Running, *services: str) -> Running:
        local = platform.Local(SETTINGS, secrets, Runner())
        conf = tmp_path / "supervisord.conf"
        conf.write_text(
            supervisor.configuration(
                [one for one in made(secrets, worker=[1], worker_heavy=[1]).values() if one.name in running.names],
                tmp_path,
                sorted({service_of(name) for name in running.names if name.startswith("worker")}),
            )
        )
        monkeypatch.setattr(change, "CONF", conf)
        monkeypatch.setattr(change, "ready", lambda *_: True)
        monkeypatch.setattr(change.broker, "write", lambda *_: None)
        monkeypatch.setattr(change.addresses, "remember", lambda *_: None)
        monkeypatch.setattr(change, "private_folder", lambda path: path)
        monkeypatch.setattr(local, "supervisor", running)
        monkeypatch.setattr(local, "ports", lambda: PORTS)
        monkeypatch.setattr(local, "scripts", lambda: Path("/scripts"))
        monkeypatch.setattr(local, "changing", lambda: nullcontext(Silent()))
        local.restart(services)
        return running

    return restart


BASE = ("epmd", "rabbitmq", "worker-1", "monitor", "flower")


def test_a_restart_of_the_broker_brings_no_new_pool(restarted: Any) -> None:
    after = restarted(Running(*BASE, changed=["rabbitmq"]), "rabbitmq")
    assert (after.names, after.written, after.stopped) == ([*BASE], ["worker"], [])


def test_a_restart_of_the_broker_and_a_new_pool_does(restarted: Any) -> None:
    after = restarted(Running(*BASE, changed=["rabbitmq"]), "rabbitmq", "worker-heavy")
    assert after.names == [*BASE, "worker-heavy-1", "worker-heavy-2"]
    assert after.written == ["worker", "worker-heavy"]
    assert after.stopped == []


def test_a_restart_leaves_nobody_stopped(restarted: Any) -> None:
    running = Running(*BASE, "worker-heavy-1", changed=["rabbitmq"])
    assert restarted(running, "rabbitmq", "worker-heavy").stopped == []


# --- logs


def test_logs_of_a_pool_that_is_not_up_yet(secrets: Secrets, places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = platform.Local(SETTINGS, secrets, Runner())
    monkeypatch.setattr(local, "supervisor", Running(*BASE))
    monkeypatch.setattr(local, "slots", lambda: {"worker": [1]})
    monkeypatch.setattr(change, "ready", lambda *_: True)
    monkeypatch.setattr(platform, "log_file", lambda name: places / f"{name}.log")
    with pytest.raises(WarrenError, match=r"^worker-heavy: not up yet; `invoke up` starts it$"):
        local.logs(["worker-heavy"], False, 5)
    with pytest.raises(WarrenError, match=r"^nothing has been logged yet"):
        local.logs(["worker", "worker-heavy"], False, 5)
