"""Worker pools: their settings, and what every part makes of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from celery import Celery, Task, signals

from app import factory
from app.config import worker_settings
from app.environment import Mistake
from app.limits import ordered
from app.pools import Pool
from app.settings import AppSettings, from_environment
from deploy.commands import stack
from deploy.definitions import broker_settings, definitions
from deploy.errors import ExitCode, WarrenError
from deploy.secrets import Secrets
from deploy.services import environments, of_its_workers, services
from deploy.settings import Settings, load

HEAVY = Pool(name="heavy", queues=("video", "reports"), time_limit=3600, concurrency="1", workers=2)
QUICK = Pool(name="quick", queues=("mail",), time_limit=20)

WRITTEN = {
    "WARREN_POOLS": "heavy,quick",
    "WARREN_POOL_HEAVY_QUEUES": "video, reports",
    "WARREN_POOL_HEAVY_TIME_LIMIT": "3600",
    "WARREN_POOL_HEAVY_CONCURRENCY": "1",
    "WARREN_POOL_HEAVY_WORKERS": "2",
    "WARREN_POOL_QUICK_QUEUES": "mail",
    "WARREN_POOL_QUICK_TIME_LIMIT": "20",
}


@pytest.fixture
def pooled() -> Settings:
    return Settings(pools=(HEAVY, QUICK))


# --- settings


def test_pools_are_read_from_env_and_environment(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("".join(f"{name}={value}\n" for name, value in WRITTEN.items()))
    assert load(file, {}).pools == load(tmp_path / "none", WRITTEN).pools == (HEAVY, QUICK)


def test_what_a_pool_does_not_say_is_as_for_all(tmp_path: Path) -> None:
    given = {"WARREN_POOLS": "heavy", "WARREN_POOL_HEAVY_QUEUES": "video", "WARREN_POOL_HEAVY_WORKERS": ""}
    general = {"WARREN_TASK_TIME_LIMIT": "40", "WARREN_WORKER_CONCURRENCY": "3", "WARREN_WORKERS": "5"}
    settings = load(tmp_path / ".env", {**given, **general})
    assert settings.pools == (Pool(name="heavy", queues=("video",), time_limit=40, concurrency="3", workers=1),)
    assert settings.default_pool == Pool(name="default", queues=("default",), time_limit=40, concurrency="3", workers=5)
    assert settings.every_queue == ("default", "video")


VIDEO = {"WARREN_POOLS": "heavy", "WARREN_POOL_HEAVY_QUEUES": "video"}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"WARREN_POOLS": "heavy"},
            "the pool heavy of WARREN_POOLS has no queues; write for example WARREN_POOL_HEAVY_QUEUES=heavy",
        ),
        (
            {"WARREN_POOL_HEAVY_QUEUES": "video"},
            "WARREN_POOL_HEAVY_QUEUES (in the environment) is of no pool that WARREN_POOLS names; write WARREN_POOLS=heavy",
        ),
        (
            {**VIDEO, "WARREN_POOL_QUICK_WORKERS": "2"},
            "WARREN_POOL_QUICK_WORKERS (in the environment) is of no pool that WARREN_POOLS names; "
            "write WARREN_POOLS=heavy,quick",
        ),
        (
            {**VIDEO, "WARREN_POOL_HEAVY_QUEUE": "video"},
            "WARREN_POOL_HEAVY_QUEUE (in the environment) is no setting of Warren; did you mean WARREN_POOL_HEAVY_QUEUES?",
        ),
        (
            {**VIDEO, "WARREN_POOL_HEAVY_QUEUES": "default"},
            "WARREN_POOL_HEAVY_QUEUES: default is in WARREN_QUEUES too; a queue belongs to one pool",
        ),
        (
            {**VIDEO, "WARREN_POOLS": "heavy,quick", "WARREN_POOL_QUICK_QUEUES": "mail,video"},
            "WARREN_POOL_QUICK_QUEUES: video is in WARREN_POOL_HEAVY_QUEUES too; a queue belongs to one pool",
        ),
        (
            {**VIDEO, "WARREN_POOL_HEAVY_QUEUES": "video,video"},
            "WARREN_POOL_HEAVY_QUEUES: video is there twice; name each queue once",
        ),
        (
            {**VIDEO, "WARREN_POOL_HEAVY_QUEUES": "dead_letters"},
            "WARREN_POOL_HEAVY_QUEUES: dead_letters is the queue of undeliverable tasks; choose another name",
        ),
        (
            {**VIDEO, "WARREN_POOL_HEAVY_QUEUES": "a.b"},
            "WARREN_POOL_HEAVY_QUEUES=a.b (in the environment) is not a list of queue names, such as default,mail "
            "(a-z, 0-9, - and _; no dots); write for example WARREN_POOL_HEAVY_QUEUES=video,reports",
        ),
        (
            {**VIDEO, "WARREN_POOL_HEAVY_TIME_LIMIT": "1"},
            "WARREN_POOL_HEAVY_TIME_LIMIT=1 (in the environment) is not a number of seconds from 2 to 604800 (a week); "
            "write for example WARREN_POOL_HEAVY_TIME_LIMIT=3600",
        ),
        ({**VIDEO, "WARREN_POOLS": "heavy,heavy"}, "WARREN_POOLS: heavy is there twice; name each pool once"),
        (
            {**VIDEO, "WARREN_POOLS": "heavy,default"},
            "WARREN_POOLS: default is the pool of WARREN_QUEUES, which is always there; name further ones",
        ),
        (
            {"WARREN_POOLS": "Heavy-1"},
            "WARREN_POOLS=Heavy-1 (in the environment) is not a list of names of pools, such as heavy,quick "
            "(a-z and 0-9, at most 21 characters); write for example WARREN_POOLS=heavy",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, given: dict[str, str], line: str) -> None:
    with pytest.raises(WarrenError) as caught:
        load(tmp_path / ".env", given)
    assert str(caught.value).splitlines() == [line]
    assert caught.value.code is ExitCode.SETTINGS


def test_what_is_to_be_written_names_all_pools_that_are_not_declared(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("WARREN_POOL_QUICK_WORKERS=2\n")
    with pytest.raises(WarrenError) as caught:
        load(tmp_path / ".env", {**VIDEO, "WARREN_POOL_BIG_QUEUES": "x", "WARREN_POOL_BIG_WORKERS": "2"})
    said = "is of no pool that WARREN_POOLS names; write WARREN_POOLS=heavy,big,quick"
    assert str(caught.value).splitlines() == [
        f"WARREN_POOL_BIG_QUEUES (in the environment) {said}",
        f"WARREN_POOL_BIG_WORKERS (in the environment) {said}",
        f"WARREN_POOL_QUICK_WORKERS (in .env) {said}",
    ]


def test_a_worker_of_no_pool_does_not_start() -> None:
    with pytest.raises(Mistake, match=r"^WARREN_POOL=slow is no pool that WARREN_POOLS names$"):
        from_environment({**WRITTEN, "WARREN_POOL": "slow"})


def test_config_shows_the_variables_of_pools(
    home: Path, secrets: Secrets, pooled: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.config(session(pooled), as_json=True)
    found = json.loads(capsys.readouterr().out)["settings"]
    assert {name: value for name, value in found.items() if name.startswith("WARREN_POOL")} == {
        **{name: value.replace(" ", "") for name, value in WRITTEN.items()},
        "WARREN_POOL_QUICK_CONCURRENCY": "auto",
        "WARREN_POOL_QUICK_WORKERS": "1",
    }
    stack.config(session(pooled), as_json=False)
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert rows["WARREN_POOL_HEAVY_TIME_LIMIT"] == ["3600", "300"]
    assert rows["WARREN_POOL_QUICK_CONCURRENCY"] == ["auto"]


def session(settings: Settings) -> Any:
    return SimpleNamespace(settings=settings, platform=SimpleNamespace(name="compose", keeps="in .warren/secrets"))


# --- what containers get


def test_each_process_reads_the_same_pools(pooled: Settings, secrets: Secrets) -> None:
    made = environments(pooled, secrets, "rabbitmq", 5672, 15672)
    for values in made.values():
        read = from_environment(values)
        assert [(pool.name, pool.queues, pool.time_limit) for pool in read.pools] == [
            ("heavy", ("video", "reports"), 3600),
            ("quick", ("mail",), 20),
        ]
    for pool in pooled.every_pool:
        own = from_environment({**made["worker"], **of_its_workers(pool)}).own_pool
        assert (own.name, own.time_limit, own.concurrency) == (pool.name, pool.time_limit, pool.concurrency)
    assert from_environment(made["worker"]).own_pool.name == "default"


def test_without_pools_nothing_is_said_of_them(settings: Settings, secrets: Secrets) -> None:
    for values in environments(settings, secrets, "rabbitmq", 5672, 15672).values():
        assert not [name for name in values if name.startswith("WARREN_POOL")]


@pytest.mark.parametrize("change", [{"workers": 7}, {"concurrency": "3"}])
def test_what_only_a_pool_itself_has_to_know_is_in_no_environment_of_others(
    pooled: Settings, secrets: Secrets, change: dict[str, Any]
) -> None:
    more = Settings(pools=(Pool(**{**as_dict(HEAVY), **change}), QUICK))
    before, after = (environments(one, secrets, "rabbitmq", 5672, 15672) for one in (pooled, more))
    assert before == after


def test_a_pools_workers_do_not_see_how_many_tasks_those_of_the_default_pool_run(
    pooled: Settings, secrets: Secrets
) -> None:
    def heavy(concurrency: str) -> dict[str, str]:
        settings = Settings(worker_concurrency=concurrency, pools=pooled.pools)
        return {**environments(settings, secrets, "rabbitmq", 5672, 15672)["worker"], **of_its_workers(HEAVY)}

    assert heavy("2") == heavy("7")


def as_dict(pool: Pool) -> dict[str, Any]:
    return {name: getattr(pool, name) for name in pool.__struct_fields__}


def test_services_of_pools_follow_the_worker(pooled: Settings) -> None:
    assert services(pooled) == ("rabbitmq", "worker", "worker-heavy", "worker-quick", "monitor", "flower")


# --- the broker


def test_queues_of_pools_are_like_the_others(pooled: Settings, secrets: Secrets) -> None:
    made = definitions(pooled, secrets)
    ours = {queue["name"]: {**queue, "name": ""} for queue in made["queues"]}
    assert ours["video"] == ours["reports"] == ours["mail"] == ours["default"]
    bound = {(one["destination"], one["routing_key"]) for one in made["bindings"] if one["source"] == "tasks"}
    for queue in pooled.every_queue:
        assert {(queue, queue), (queue, f"#.{queue}")} <= bound
    (policy,) = (one for one in made["policies"] if one["name"] == "tasks")
    assert all(re.match(policy["pattern"], queue) for queue in pooled.every_queue)
    (worker,) = (one for one in made["permissions"] if one["user"] == "worker")
    assert all(re.match(worker[right], queue) for right in ("read", "write") for queue in pooled.every_queue)


# --- one number for each pool, and the longest for what they share


def test_limits_are_ordered_in_every_pool(pooled: Settings) -> None:
    milliseconds = re.search(r"^consumer_timeout = (\d+)$", broker_settings(pooled), re.MULTILINE)
    assert milliseconds and int(milliseconds.group(1)) == 3_690_000
    for pool in pooled.every_pool:
        assert 0 < pool.soft_time_limit < pool.time_limit < pool.stop_grace < pooled.consumer_timeout
    assert [pool.stop_grace for pool in pooled.every_pool] == [330, 3630, 50]


@pytest.mark.parametrize(("pool", "limits"), [("default", (300, 270)), ("heavy", (3600, 3570)), ("quick", (20, 18))])
def test_a_worker_has_the_limits_of_its_pool(pool: str, limits: tuple[int, int]) -> None:
    found = worker_settings(AppSettings(pools=(HEAVY, QUICK), pool=pool))
    assert (found["task_time_limit"], found["task_soft_time_limit"]) == limits


def test_the_limit_of_a_queue_is_that_of_its_pool(pooled: Settings) -> None:
    assert [pooled.time_limit_of(queue) for queue in ("default", "video", "mail")] == [300, 3600, 20]
    # Nobody knows better: no task is called stalled too early.
    assert pooled.time_limit_of("else") == pooled.time_limit_of(None) == 3600


# --- the app of a process


@pytest.fixture
def heavy(monkeypatch: pytest.MonkeyPatch) -> Celery:
    """The app of a worker of the pool heavy."""
    for name, value in {**WRITTEN, "WARREN_POOL": "heavy"}.items():
        monkeypatch.setenv(name, value)
    app = Celery("of a test", set_as_current=False)
    factory.adopt(app, from_environment())
    factory.join_pool(SimpleNamespace(app=app))
    return app


def test_a_worker_takes_from_its_own_queues_and_knows_all(heavy: Celery) -> None:
    assert set(heavy.amqp.queues.consume_from) == {"video", "reports"}
    assert {queue.name for queue in heavy.conf.task_queues} == {"default", "video", "reports", "mail"}
    assert heavy.conf.task_default_queue == "default"
    assert heavy.conf.worker_concurrency == "1"


def sent_limits(task: Any, **options: Any) -> list[int | None]:
    """Hard and soft limit in the message that is sent."""
    found: list[list[int | None]] = []

    def see(headers: Any = None, **_: Any) -> None:
        found.append(list(headers["timelimit"]))

    signals.before_task_publish.connect(see)
    try:
        task.apply_async(ignore_result=True, **options)
    finally:
        signals.before_task_publish.disconnect(see)
    return found[0]


def nothing() -> None: ...


class Own(Task):
    """A base class that somebody's project has for its tasks."""


@pytest.mark.parametrize("late", [False, True])
def test_a_message_has_only_limits_that_somebody_gave(heavy: Celery, late: bool) -> None:
    # Late: what a worker imports after it has joined its pool. The other is anybody who only sends.
    app = heavy if late else factory.adopt(Celery("of a test", set_as_current=False), from_environment())
    app.conf.broker_transport_options = {}
    app.conf.broker_url = app.conf.broker_read_url = app.conf.broker_write_url = "memory://"
    plain = app.task(name="plain", shared=False)(nothing)
    based = app.task(name="based", shared=False, base=Own)(nothing)
    # Each as a pool's own limits would be.
    hard = app.task(name="hard", shared=False, time_limit=3600)(nothing)
    soft = app.task(name="soft", shared=False, soft_time_limit=270)(nothing)
    assert sent_limits(plain) == sent_limits(based) == [None, None]
    assert sent_limits(plain, time_limit=3600) == sent_limits(hard) == [3600, None]
    assert sent_limits(soft) == [None, 270]
    assert sent_limits(plain, soft_time_limit=5, time_limit=7) == [7, 5]


@pytest.mark.parametrize(
    ("given", "applied"),
    [
        # Usual limits of the pool: 270 and 300.
        ((None, None), (None, None)),
        ((None, 20), (18, 20)),
        ((None, 1), (1, 1)),
        ((400, None), (270, None)),
        ((5, 20), (5, 20)),
        ((None, 600), (None, 600)),
        ((20, 20), (18, 20)),
    ],
)
def test_the_soft_limit_comes_before_the_hard_one(
    given: tuple[int | None, int | None], applied: tuple[int | None, int | None]
) -> None:
    did: list[Any] = []
    run = ordered(lambda *args, **options: did.append((args, options)), 270, 300)
    run("task", soft_timeout=given[0], timeout=given[1], callback=1)
    assert did == [(("task",), {"soft_timeout": applied[0], "timeout": applied[1], "callback": 1})]


# --- Compose's second file


def test_the_second_file_says_what_differs(pooled: Settings) -> None:
    from deploy.platforms.compose.files import service

    made = yaml.safe_load("services:\n" + service(HEAVY) + service(QUICK))["services"]
    base = {"file": "compose.yaml", "service": "worker"}
    assert made == {
        "worker-heavy": {
            "extends": base,
            "environment": of_its_workers(HEAVY),
            "stop_grace_period": "3630s",
            "deploy": {"replicas": 2},
        },
        "worker-quick": {
            "extends": base,
            "environment": of_its_workers(QUICK),
            "stop_grace_period": "50s",
            "deploy": {"replicas": 1},
        },
    }
