"""One number, the longest allowed task time, drives every limit; here the limits are held against each other."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.config import platform_settings, worker_settings
from app.pools import Pool
from app.settings import AppSettings, from_environment
from deploy.definitions import broker_settings
from deploy.paths import ROOT
from deploy.platforms.compose import Compose
from deploy.platforms.local.addresses import Ports
from deploy.platforms.local.programs import programs as local_programs
from deploy.secrets import Secrets
from deploy.services import environments
from deploy.settings import Settings
from tests.unit.conftest import FakeRunner

SLOTS = {"worker": [1], "worker-quick": [1], "worker-heavy": [1]}
LIMITS = [2, 3, 9, 10, 11, 59, 60, 299, 300, 301, 3600, 604_800]


@pytest.mark.parametrize("limit", LIMITS)
def test_soft_before_hard_before_stop_before_the_brokers_timeout(limit: int) -> None:
    settings = AppSettings(task_time_limit=limit)
    assert 0 < settings.task_soft_time_limit < limit < settings.stop_grace < settings.consumer_timeout


@pytest.mark.parametrize(
    ("limit", "soft", "stop", "consumer"), [(10, 9, 40, 100), (300, 270, 330, 390), (3600, 3570, 3630, 3690)]
)
def test_the_numbers_that_the_manual_tells(limit: int, soft: int, stop: int, consumer: int) -> None:
    settings = AppSettings(task_time_limit=limit)
    assert (settings.task_soft_time_limit, settings.stop_grace, settings.consumer_timeout) == (soft, stop, consumer)


def compose_variables(settings: Settings, secrets: Secrets, home: Any) -> dict[str, str]:
    Compose(settings, secrets, FakeRunner()).write()  # type: ignore[arg-type]
    text = (home / ".warren" / "compose.env").read_text()
    return dict(re.findall(r"^(\w+)='(.*)'$", text, re.MULTILINE))


@pytest.mark.parametrize("limit", LIMITS)
def test_celery_compose_and_the_broker_agree(limit: int, home: Any, secrets: Secrets) -> None:
    settings = Settings(task_time_limit=limit)
    celery = worker_settings(settings)
    assert celery["task_time_limit"] == limit
    assert celery["task_soft_time_limit"] == settings.task_soft_time_limit
    # The worker gets the same number by its environment.
    worker = environments(settings, secrets, "rabbitmq", 5672, 15672)["worker"]
    assert int(worker["WARREN_TASK_TIME_LIMIT"]) == limit
    compose = compose_variables(settings, secrets, home)
    milliseconds = re.search(r"^consumer_timeout = (\d+)$", broker_settings(settings), re.MULTILINE)
    assert milliseconds
    # In seconds: Celery ends the task, then Compose kills the worker, then the broker gives the task to another.
    assert limit + 30 == int(compose["WARREN_STOP_GRACE"]) < int(milliseconds.group(1)) // 1000 == limit + 90


def test_each_pool_has_its_own_number_and_the_broker_waits_for_the_longest(home: Any, secrets: Secrets) -> None:
    limits = {"quick": 20, "heavy": 3600}
    pools = tuple(Pool(name=name, queues=(name,), time_limit=limit) for name, limit in limits.items())
    settings = Settings(pools=pools)
    compose = compose_variables(settings, secrets, home)
    services = yaml.safe_load((home / ".warren" / "pools.yaml").read_text())["services"]
    milliseconds = re.search(r"^consumer_timeout = (\d+)$", broker_settings(settings), re.MULTILINE)
    assert milliseconds and int(milliseconds.group(1)) == (3600 + 90) * 1000
    assert compose["WARREN_STOP_GRACE"] == "330"
    programs = local_programs(settings, secrets, Ports(1, 2, 3, 4, 5, 6, 7), SLOTS, Path("/scripts"))
    graces = {program.service: program.stop_seconds for program in programs}
    environment = environments(settings, secrets, "rabbitmq", 5672, 15672)["worker"]
    for name, limit in limits.items():
        own = from_environment({**environment, "WARREN_POOL": name})
        assert worker_settings(own)["task_time_limit"] == limit
        assert services[f"worker-{name}"]["stop_grace_period"] == f"{limit + 30}s"
        assert graces[f"worker-{name}"] == limit + 30
    assert graces["worker"] == 330


def test_composes_stop_grace_of_workers_is_that_variable_in_seconds() -> None:
    stack = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    assert re.fullmatch(r"\$\{WARREN_STOP_GRACE:\?\}s", stack["services"]["worker"]["stop_grace_period"])


def test_compose_gets_every_variable_that_its_file_asks_for_and_no_other(
    home: Any, settings: Settings, secrets: Secrets
) -> None:
    asked = set(re.findall(r"\$\{(\w+)", (ROOT / "deploy" / "compose.yaml").read_text()))
    assert asked == set(compose_variables(settings, secrets, home))


def test_the_broker_waits_longer_for_a_heartbeat_than_celery_sends_it() -> None:
    from app.config import own_settings

    conf = (ROOT / "deploy" / "rabbitmq" / "conf.d" / "20-warren.conf").read_text()
    heartbeat = re.search(r"^heartbeat = (\d+)$", conf, re.MULTILINE)
    assert heartbeat and own_settings(AppSettings())["broker_heartbeat"] <= int(heartbeat.group(1))


def test_limits_of_the_broker_follow_their_settings(home: Any, secrets: Secrets) -> None:
    conf = broker_settings(Settings(rabbitmq_memory_mb=2000, disk_free_limit_mb=77, task_time_limit=10))
    assert dict(line.split(" = ") for line in conf.splitlines() if not line.startswith("#")) == {
        "total_memory_available_override_value": "1600MiB",
        "disk_free_limit.absolute": "77MB",
        "consumer_timeout": "100000",
    }


def test_celerys_settings_are_plain_values() -> None:
    plain = {name: value for name, value in platform_settings(AppSettings()).items() if name != "task_queues"}
    assert json.loads(json.dumps(plain)) == plain
