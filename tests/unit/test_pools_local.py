"""Worker pools on the local platform: which programs there are, and which numbers they have."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.pools import Pool
from deploy.platforms.local import platform, supervisor
from deploy.platforms.local.programs import Program, node_name, programs, service_of
from deploy.platforms.local.ready import ready
from deploy.run import Runner
from deploy.secrets import Secrets
from deploy.settings import Settings
from tests.unit.test_local_supervisor import PORTS, places

__all__ = ["places"]  # a fixture

HEAVY = Pool(name="heavy", queues=("video",), time_limit=60, workers=2)
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
