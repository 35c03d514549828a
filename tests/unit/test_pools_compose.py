"""Worker pools on Compose: exactly which commands are run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.pools import Pool
from deploy.errors import ExitCode, WarrenError
from deploy.platforms.compose import files
from tests.unit.test_compose import COMPOSE, STACK, container, labelled, make, workers

__all__ = ["make"]  # a fixture

HEAVY = Pool(name="heavy", queues=("video",), time_limit=60, workers=2)
POOLS = f"{COMPOSE} --file .warren/pools.yaml"
WAIT = "--wait --wait-timeout 180"
UP = f"{POOLS} up --detach --remove-orphans --quiet-pull --scale worker={{}} --scale worker-heavy={{}} {WAIT}"


def heavy(*numbers: int) -> list[dict[str, str]]:
    return [
        container("worker-heavy", number, ID=f"{number:02d}heavy".encode().hex().ljust(64, "0")) for number in numbers
    ]


@pytest.fixture
def pooled(make: Any) -> Any:
    """A driver whose pool heavy was brought up before."""

    def driver(*containers: Any, **options: Any) -> Any:
        made = make(*containers, pools=(HEAVY,), **options)
        if not made.runner.dry:
            made.write()
            files.came_up(["worker-heavy"])
        return made

    return driver


def test_a_fresh_up_starts_what_the_settings_say(make: Any) -> None:
    driver = make(pools=(HEAVY,))
    driver.up(3)
    assert driver.ran == [UP.format(3, 2)]


def test_a_second_up_keeps_what_somebody_scaled_them_to(pooled: Any) -> None:
    for numbers in ((), (1, 2, 3)):
        driver = pooled(*STACK, *heavy(*numbers))
        driver.up(None)
        assert driver.ran == [UP.format(1, len(numbers))]


def test_a_pool_that_is_new_in_a_stack_is_started(make: Any) -> None:
    make(*STACK).write()
    driver = make(*STACK, pools=(HEAVY,))
    driver.up(None)
    # Its queues make another broker.
    assert driver.ran == [f"{POOLS} stop worker worker-heavy", UP.format(1, 2)]


def end(*_: Any) -> None:
    raise KeyboardInterrupt


def cannot_load(*_: Any) -> None:
    raise WarrenError("no", ExitCode.SETTINGS)


def restarted(one: Any) -> None:
    one.restart(["monitor"])


def interrupted(one: Any) -> None:
    one.stop_workers = end
    with pytest.raises(KeyboardInterrupt):
        one.up(None)


def refused(one: Any) -> None:
    one.image.build = lambda: True
    one.try_tasks = cannot_load
    with pytest.raises(WarrenError):
        one.up(None)
    assert files.pools() == []


@pytest.mark.parametrize("act", [restarted, interrupted, refused])
def test_it_still_is_new_after_a_command_that_did_not_start_it(make: Any, act: Any) -> None:
    make(*STACK).write()
    there = labelled(STACK)
    act(make(*there, pools=(HEAVY,)))
    with pytest.raises(WarrenError, match="not up yet"):
        make(*there, pools=(HEAVY,)).scale(1, set(), "heavy")
    driver = make(*there, pools=(HEAVY,))
    driver.up(None)
    assert driver.ran == [f"{POOLS} stop worker worker-heavy", UP.format(1, 2)]
    # From now on none is what somebody wants.
    driver = make(*STACK, pools=(HEAVY,))
    driver.up(None)
    assert driver.ran == [UP.format(1, 0)]


def test_a_stack_that_was_down_has_no_pool_yet(pooled: Any) -> None:
    driver = pooled([], [container("rabbitmq")], answers={UP.format(1, 2): WarrenError("no", ExitCode.FAILED)})
    with pytest.raises(WarrenError):
        driver.up(None)
    driver.up(None)
    assert driver.ran == [UP.format(1, 2), UP.format(0, 2)]


@pytest.mark.parametrize(
    ("services", "stopped"), [(["worker-heavy"], []), (["rabbitmq", "worker-heavy"], ["worker-heavy"])]
)
def test_a_restart_stops_nobody_whom_it_does_not_start(
    pooled: Any, make: Any, services: list[str], stopped: list[str]
) -> None:
    pooled(*STACK)
    driver = make(*STACK, *heavy(1), pools=(HEAVY,), delivery_limit=5)
    driver.restart(services)
    assert driver.ran[:-1] == [f"{POOLS} stop {one}" for one in stopped]


def test_a_restart_of_broker_and_pool_brings_a_new_one(make: Any) -> None:
    make(*STACK).write()
    driver = make(*STACK, pools=(HEAVY,))
    driver.restart(["rabbitmq", "worker-heavy"])
    assert driver.ran == [
        f"{POOLS} up --detach --no-deps --force-recreate --scale worker-heavy=2 {WAIT} rabbitmq worker-heavy"
    ]
    assert files.up() == ["worker-heavy"]


def test_workers_of_a_pool_that_is_none_any_more_end_their_tasks_before_the_broker_goes(pooled: Any, make: Any) -> None:
    pooled(*STACK).write()
    driver = make(*STACK, *heavy(1, 2))
    driver.up(None)
    assert driver.ran[:2] == [f"{COMPOSE} stop worker", "docker stop warren-worker-heavy-1 warren-worker-heavy-2"]
    assert files.pools() == []


def test_scaling_a_pool_leaves_the_others_alone(pooled: Any) -> None:
    up = (
        f"{POOLS} up --detach --no-deps --no-recreate --scale worker-heavy={{0}} --wait --wait-timeout 180 worker-heavy"
    )
    driver = pooled(*workers(2), *heavy(1, 2))
    driver.scale(4, set(), "heavy")
    assert driver.ran == [up.format(4)]


def test_idle_workers_of_a_pool_stop_first(pooled: Any, capsys: pytest.CaptureFixture[str]) -> None:
    driver = pooled(*workers(3), *heavy(1, 2, 3))
    busy = {"celery@" + one["ID"][:12] for one in (*heavy(3, 2), *workers(3)[1:])}
    driver.scale(1, busy, "heavy")
    assert driver.ran[:2] == [
        "docker stop warren-worker-heavy-1 warren-worker-heavy-3",
        "docker rm warren-worker-heavy-1 warren-worker-heavy-3",
    ]
    assert capsys.readouterr().err == "warren-worker-heavy-3: ends its task first, for 90 s at most\n"


@pytest.mark.parametrize(
    "act",
    [
        lambda one: one.scale(1, set(), "heavy"),
        lambda one: one.restart(["worker-heavy"]),
        lambda one: one.exec("worker-heavy", ["true"]),
    ],
)
def test_a_pool_that_is_not_up_yet(make: Any, act: Any) -> None:
    make(*STACK).write()
    driver = make(*STACK, pools=(HEAVY,))
    with pytest.raises(WarrenError, match="the pool heavy is not up yet; `invoke up` makes its queues") as caught:
        act(driver)
    assert caught.value.code is ExitCode.FAILED
    assert driver.ran == []


def test_a_restart_of_a_pool_keeps_its_number(pooled: Any) -> None:
    driver = pooled(*STACK, *heavy(1, 2, 3))
    driver.restart(["worker-heavy"])
    assert driver.ran == [
        f"{POOLS} up --detach --no-deps --force-recreate --scale worker-heavy=3 --wait --wait-timeout 180 worker-heavy"
    ]


def test_down_stops_all_workers_first(pooled: Any) -> None:
    driver = pooled(*STACK, *heavy(1))
    driver.down(False)
    assert driver.ran == [f"{POOLS} stop worker worker-heavy", f"{POOLS} down --remove-orphans"]


def test_status_tells_the_node_of_each(pooled: Any) -> None:
    found = pooled(*STACK, *heavy(1)).status()
    assert [one.service for one in found] == ["rabbitmq", "worker", "worker-heavy", "monitor", "flower"]
    assert found[2].node == "celery@" + heavy(1)[0]["ID"][:12]


def test_logs_of_a_pool_that_is_not_up_yet_are_none(make: Any, pooled: Any) -> None:
    services = ["rabbitmq", "worker", "worker-heavy"]
    driver = make(pools=(HEAVY,))
    driver.logs(services, False, 5)
    assert driver.runner.attached == [f"{COMPOSE} logs --tail 5 rabbitmq worker"]
    driver = pooled()
    driver.logs(services, False, 5)
    assert driver.runner.attached == [f"{POOLS} logs --tail 5 rabbitmq worker worker-heavy"]


def test_a_dry_up_shows_the_file_that_would_be_written(make: Any, home: Path) -> None:
    driver = make(pools=(HEAVY,), dry=True)
    driver.up(None)
    assert driver.runner.shown[-1] == UP.format(1, 2)
    assert not (home / ".warren" / files.POOLS).exists()
