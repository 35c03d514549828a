"""deploy/platforms/compose: exactly which commands are run, and what is made of the engine's answers."""

from __future__ import annotations

import errno
import json
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy import ports
from deploy.commands import stack
from deploy.errors import ExitCode, WarrenError
from deploy.paths import ROOT
from deploy.platforms.base import Endpoints, Instance
from deploy.platforms.compose import Compose, containers, engine, files, image
from deploy.platforms.compose import change as module
from deploy.secrets import Secrets
from deploy.services import broker_url
from deploy.session import Session
from deploy.settings import Settings
from tests.unit.conftest import FakeRunner

COMPOSE = "docker compose --project-name warren --env-file .warren/compose.env --file deploy/compose.yaml"
PS = (
    "docker ps --all --no-trunc --format json --filter label=com.docker.compose.project=warren "
    "--filter label=com.docker.compose.oneoff=False"
)
VERSION = "docker version --format '{{.Server.Version}}'"
UP = f"{COMPOSE} up --detach --remove-orphans --quiet-pull --scale worker={{}} --wait --wait-timeout 180"


LABEL = "warren.definitions"

# As Docker 28 shows the ports of a running container.
PUBLISHED = {
    "rabbitmq": "4369/tcp, 127.0.0.1:5672->5672/tcp, 127.0.0.1:15672->15672/tcp, 15691/tcp, 127.0.0.1:15692->15692/tcp",
    "flower": "127.0.0.1:5555->5555/tcp",
    "monitor": "127.0.0.1:5556->5556/tcp",
}


def container(service: str, number: int = 1, state: str = "running", status: str = "", **more: str) -> dict[str, str]:
    """A line of `docker ps --format json`, as Docker 28 writes it."""
    status = status or {"running": "Up 5 minutes (healthy)", "exited": "Exited (0) 2 minutes ago"}.get(state, "")
    labels = {
        "com.docker.compose.config-hash": "4f5a",
        "com.docker.compose.container-number": str(number),
        "com.docker.compose.depends_on": "rabbitmq:service_healthy:false,monitor:service_started:true",
        "com.docker.compose.oneoff": "False",
        "com.docker.compose.project": "warren",
        "com.docker.compose.service": service,
        "org.opencontainers.image.version": "24.04",
    }
    line = {
        "Command": '"celery -A app worke…"',
        "ID": f"{number:02d}{service}".encode().hex().ljust(64, "0"),
        "Image": "warren-app:0123456789ab",
        "Labels": ",".join(f"{name}={value}" for name, value in labels.items()),
        "Names": f"warren-{service}-{number}",
        "Ports": PUBLISHED.get(service, "") if state == "running" else "",
        "State": state,
        "Status": status,
    }
    return {**line, **more}


def printed(*containers: dict[str, str]) -> str:
    return "".join(json.dumps(one) + "\n" for one in containers)


def labelled(containers: list[dict[str, str]]) -> list[dict[str, str]]:
    """``containers``, the broker's as if the files that are there were those that it was made from."""
    if not files.present():
        return containers
    label = f",{LABEL}={files.digest()}"
    return [
        {**one, "Labels": one["Labels"] + label}
        if one["Names"].endswith("rabbitmq-1") and LABEL not in one["Labels"]
        else one
        for one in containers
    ]


def node(number: int) -> str:
    return "celery@" + container("worker", number)["ID"][:12]


STACK = [container("flower"), container("worker"), container("monitor", status="Up 5 minutes"), container("rabbitmq")]


class Driver(Compose):
    """The driver with a runner that runs nothing."""

    runner: FakeRunner  # type: ignore[assignment]

    def __init__(self, runner: FakeRunner, secrets: Secrets, **settings: Any) -> None:
        super().__init__(Settings(**settings), secrets, runner)  # type: ignore[arg-type]
        self.runner = runner

    @property
    def ran(self) -> list[str]:
        return self.runner.ran


@pytest.fixture
def make(home: Path, secrets: Secrets, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(ports, "free", lambda *_: True)

    def driver(
        *containers: dict[str, str] | list[dict[str, str]],
        answers: dict[str, Any] | None = None,
        dry: bool = False,
        built: bool = True,
        **settings: Any,
    ) -> Driver:
        lists = [one for one in containers if isinstance(one, list)]
        ps: Any = [printed(*labelled(one)) for one in lists] if lists else printed(*labelled(list(containers)))  # type: ignore[arg-type]
        given = {VERSION: "28.2.2\n", PS: ps, "docker images": "0a1b2c\n" if built else "", **(answers or {})}
        return Driver(FakeRunner(given, dry=dry), secrets, **settings)

    return driver


# --- up


def test_the_stack_of_another_checkout_is_left_alone(make: Any) -> None:
    theirs = container("rabbitmq")
    theirs["Labels"] += ",com.docker.compose.project.working_dir=/srv/other/deploy"
    for act in (lambda one: one.up(None), lambda one: one.status(), lambda one: one.restart(["worker"])):
        driver = make(theirs)
        with pytest.raises(WarrenError, match="belong to the checkout /srv/other; choose another name") as caught:
            act(driver)
        assert caught.value.code is ExitCode.REFUSED
        assert driver.ran == []


def test_a_fresh_up(make: Any) -> None:
    driver = make()
    driver.up(None)
    assert driver.ran == [UP.format(1)]


def test_up_makes_the_image_first_where_it_is_not_there(make: Any) -> None:
    driver = make(built=False)
    driver.up(None)
    assert [line.split(" --")[0] for line in driver.ran] == ["docker build", "docker compose"]


def test_new_code_is_loaded_once_before_it_takes_the_place_of_workers(make: Any) -> None:
    driver = make(*STACK, built=False)
    driver.up(None)
    assert driver.ran[1:] == [f"{COMPOSE} run --rm --no-deps --no-TTY worker python3 -c '{module.LOAD}'", UP.format(1)]


def test_code_that_cannot_be_loaded_leaves_the_workers_alone(make: Any, home: Path) -> None:
    make(*STACK).up(None)
    failure = WarrenError("`docker compose run` ended with exit code 1", ExitCode.FAILED)
    driver = make(*STACK, built=False, log_level="debug", answers={f"{COMPOSE} run": failure})
    with pytest.raises(WarrenError, match="can't be loaded") as caught:
        driver.up(None)
    assert caught.value.code is ExitCode.SETTINGS
    assert UP.format(1) not in driver.ran
    assert "WARREN_LOG_LEVEL='info'" in (home / ".warren" / "compose.env").read_text()


def test_workers_end_their_tasks_before_the_broker_changes(make: Any) -> None:
    make(*STACK).up(None)
    driver = make(*STACK, delivery_limit=7)
    driver.up(None)
    assert driver.ran == [f"{COMPOSE} stop worker", UP.format(1)]


@pytest.mark.parametrize(
    ("workers", "running", "setting", "count"),
    [
        (None, 0, 1, 1),
        (None, 0, 3, 3),
        (None, 0, 0, 0),
        (None, 5, 3, 5),
        (0, 5, 3, 0),
        (7, 0, 1, 7),
        (2, 5, 1, 2),
    ],
)
def test_the_number_of_workers_is_what_is_said_or_runs_or_is_set(
    make: Any, workers: int | None, running: int, setting: int, count: int
) -> None:
    there = [container("rabbitmq"), *(container("worker", number) for number in range(1, running + 1))]
    driver = make(*(there if running else []), workers=setting)
    driver.up(workers)
    assert driver.ran == [UP.format(count)]


@pytest.mark.parametrize("status", ["Up 2 seconds (health: starting)", "Up 5 minutes (unhealthy)"])
def test_workers_that_are_starting_are_kept_too(make: Any, status: str) -> None:
    workers = [container("worker", number, status=status) for number in (1, 2, 3)]
    driver = make(container("rabbitmq"), *workers)
    driver.up(None)
    assert driver.ran == [UP.format(3)]


def test_up_waits_as_long_as_it_is_told_to(make: Any) -> None:
    driver = make(up_timeout=33)
    driver.up(None)
    assert driver.ran[0].endswith(" --wait --wait-timeout 33")


def test_the_project_has_the_name_that_is_set(make: Any) -> None:
    driver = make(project="shop")
    driver.up(None)
    assert driver.ran[0].startswith("docker compose --project-name shop ")
    assert any("label=com.docker.compose.project=shop" in line for line in driver.runner.read_)


# --- ports


def take(monkeypatch: pytest.MonkeyPatch, *taken: int) -> None:
    monkeypatch.setattr(ports, "free", lambda _, port, *__: port not in taken)


@pytest.mark.parametrize(
    ("port", "variable"),
    [
        (5672, "WARREN_AMQP_PORT=25672"),
        (15672, "WARREN_MANAGEMENT_PORT=35672"),
        (15692, "WARREN_PROMETHEUS_PORT=35692"),
        (5555, "WARREN_FLOWER_PORT=25555"),
        (5556, "WARREN_MONITOR_PORT=25556"),
    ],
)
def test_a_taken_port_names_its_variable_before_anything_is_started(
    make: Any, monkeypatch: pytest.MonkeyPatch, port: int, variable: str
) -> None:
    take(monkeypatch, port)
    driver = make()
    with pytest.raises(WarrenError) as caught:
        driver.up(None)
    assert caught.value.code is ExitCode.PORT
    assert str(caught.value) == (
        f"port {port} is taken by another program; stop that, or choose another port: {variable} in .env"
    )
    assert driver.ran == []


def test_the_port_that_is_proposed_is_one(settings: Settings) -> None:
    assert "WARREN_AMQP_PORT=40000 " in str(ports.taken("amqp_port", 60_000))
    assert "WARREN_AMQP_PORT=59999 " in str(ports.taken("amqp_port", 39_999))


@pytest.mark.parametrize(
    ("there", "ours"),
    [
        ([container("rabbitmq")], [5672, 15672, 15692]),
        ([container("rabbitmq", status="Up 2 seconds (health: starting)")], [5672, 15672, 15692]),
        ([container("rabbitmq", state="exited", status="Exited (1) 1 second ago"), container("flower")], [5555]),
        (STACK, [5672, 15672, 15692, 5555, 5556]),
    ],
)
def test_our_own_ports_are_not_another_programs(
    make: Any, monkeypatch: pytest.MonkeyPatch, there: list[dict[str, str]], ours: list[int]
) -> None:
    take(monkeypatch, *ours)
    driver = make(*there)
    driver.up(None)
    assert len(driver.ran) == 1


def test_another_port_for_what_runs_is_looked_at(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    take(monkeypatch, 5672, 15672, 15692, 5555, 5556, 6666)
    with pytest.raises(WarrenError, match="port 6666 is taken"):
        make(*STACK, amqp_port=6666).up(None)


def test_the_port_of_what_does_not_run_is_looked_at(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    take(monkeypatch, 5555)
    with pytest.raises(WarrenError, match="WARREN_FLOWER_PORT"):
        make(container("rabbitmq")).up(None)


def listening(host: str = "127.0.0.1") -> socket.socket:
    server = socket.socket()
    server.bind((host, 0))
    server.listen(1)
    return server


def test_a_port_is_taken_while_somebody_listens_there() -> None:
    with listening() as server:
        port = server.getsockname()[1]
        assert not ports.free("127.0.0.1", port)
    assert ports.free("127.0.0.1", port)
    assert port != ports.any_free("127.0.0.1", {port})


@pytest.mark.parametrize("listens", [True, False])
def test_a_low_port_is_free_for_the_engine_where_this_user_may_not_listen(
    monkeypatch: pytest.MonkeyPatch, listens: bool
) -> None:
    class Socket(socket.socket):
        def bind(self, address: Any) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    server = listening()
    port = server.getsockname()[1]
    if not listens:
        server.close()
    monkeypatch.setattr(ports.socket, "socket", Socket)
    assert ports.free("127.0.0.1", port) is not listens
    server.close()


def test_require_free_names_the_first_taken_port() -> None:
    with listening() as server:
        port = server.getsockname()[1]
        free = ports.any_free("127.0.0.1", {port})
        settings = Settings(amqp_port=free, management_port=port, prometheus_port=port)
        with pytest.raises(WarrenError, match=f"^port {port} is taken .* WARREN_MANAGEMENT_PORT=") as caught:
            ports.require_free(settings)
    assert caught.value.code is ExitCode.PORT


def test_an_address_that_this_host_does_not_have() -> None:
    with pytest.raises(WarrenError) as caught:
        ports.free("192.0.2.1", 5672)
    assert caught.value.code is ExitCode.SETTINGS
    assert str(caught.value) == "WARREN_BIND=192.0.2.1 is no address of this host; 127.0.0.1 always is"


# --- what up leaves when it does not come to its end


def test_settings_that_a_service_refuses_are_said_in_its_own_words(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said = SimpleNamespace(stdout="", stderr="error: CELERY_APP=x can't be imported\n")
    monkeypatch.setattr(containers.subprocess, "run", lambda *_, **__: said)
    failing = [container("rabbitmq"), container("worker", state="restarting", status="Restarting (3) 1 second ago")]
    driver = make([], failing, answers={UP.format(1): WarrenError("`docker compose up` failed", ExitCode.FAILED)})
    with pytest.raises(WarrenError) as caught:
        driver.up(None)
    assert (str(caught.value), caught.value.code) == (
        "warren-worker-1: CELERY_APP=x can't be imported",
        ExitCode.SETTINGS,
    )


def test_what_is_only_not_ready_yet_is_waited_for(make: Any) -> None:
    """Compose gives up at once on a container that runs and is unhealthy, as workers are after an outage of the broker."""
    waiting = [container("rabbitmq"), container("worker", status="Up 3 minutes (unhealthy)")]
    failure = WarrenError("container warren-worker-1 is unhealthy", ExitCode.FAILED)
    driver = make(STACK, waiting, waiting, waiting, STACK, answers={UP.format(1): failure})
    driver.up(None)
    assert driver.ran == [UP.format(1)]


def test_a_service_that_does_not_become_ready_is_named_with_its_last_line(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def logs(command: list[str], **_: Any) -> SimpleNamespace:
        asked.append(command)
        return SimpleNamespace(stdout="started\n", stderr="it broke\n\n")

    monkeypatch.setattr(containers.subprocess, "run", logs)
    failing = [
        container("rabbitmq"),
        container("worker", state="restarting", status="Restarting (3) 1 second ago"),
        container("flower", status="Up 3 minutes (unhealthy)"),
    ]
    driver = make([], failing, answers={UP.format(1): WarrenError("`docker compose up` failed", ExitCode.FAILED)})
    with pytest.raises(WarrenError) as caught:
        driver.up(None)
    assert caught.value.code is ExitCode.TIMEOUT
    assert str(caught.value).splitlines() == [
        "warren-worker-1 is starting: it broke",
        "warren-flower-1 is running: it broke",
        "what came up is left as it is; see `invoke logs`, and `invoke up` to go on",
    ]
    assert [command[-1] for command in asked] == ["warren-worker-1", "warren-flower-1"]
    assert driver.ran == [UP.format(1)]


def test_where_every_service_is_ready_the_error_is_the_commands_own(make: Any) -> None:
    error = WarrenError("`docker compose up` ended with exit code 1: no space left on device", ExitCode.FAILED)
    driver = make([], STACK, answers={UP.format(1): error})
    with pytest.raises(WarrenError) as caught:
        driver.up(None)
    assert caught.value is error


DOWN = [f"{COMPOSE} stop worker", f"{COMPOSE} down --remove-orphans"]


def test_workers_end_their_tasks_too_where_the_files_are_ahead_of_the_broker(make: Any) -> None:
    """After a `restart` of others, and after an `up` that was interrupted."""
    make(*STACK).up(None)
    there = labelled(STACK)
    driver = make(*there, delivery_limit=7)
    driver.restart(["monitor"])
    assert len(driver.ran) == 1
    driver.up(None)
    assert driver.ran[1:] == [f"{COMPOSE} stop worker", UP.format(1)]


@pytest.mark.parametrize(
    "setting", [{"amqp_port": 5673}, {"rabbitmq_memory_mb": 2000}, {"rabbitmq_image": "rabbitmq:5"}]
)
def test_every_setting_of_the_brokers_container_is_in_its_label(make: Any, setting: dict[str, Any]) -> None:
    make(*STACK).write()
    driver = make(*STACK, **setting)
    driver.up(None)
    assert driver.ran == [f"{COMPOSE} stop worker", UP.format(1)]


def test_ctrl_c_on_a_fresh_up_takes_down_what_was_started(make: Any) -> None:
    driver = make(answers={UP.format(1): KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        driver.up(None)
    assert driver.ran == [UP.format(1), *DOWN]


def test_ctrl_c_on_a_stack_that_was_up_leaves_it(make: Any) -> None:
    driver = make(*STACK, answers={UP.format(1): KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        driver.up(None)
    assert driver.ran == [UP.format(1)]


def session_of(driver: Compose) -> Session:
    session = Session(driver.runner)
    session.__dict__["platform"] = driver
    session.__dict__["settings"] = driver.settings
    session.__dict__["secrets"] = driver.secrets
    return session


@pytest.mark.parametrize("fresh", [True, False])
def test_the_platform_is_remembered_unless_ctrl_c_left_nothing(
    make: Any, home: Path, capsys: pytest.CaptureFixture[str], fresh: bool
) -> None:
    driver = make(*([] if fresh else STACK), answers={UP.format(1): KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        stack.up(session_of(driver), None)
    assert (home / ".warren" / "platform").exists() is not fresh
    assert ("nothing is left running" in capsys.readouterr().err) is fresh


def test_a_failed_up_that_left_something_is_remembered(make: Any, home: Path) -> None:
    error = {UP.format(1): WarrenError("no", ExitCode.FAILED)}
    with pytest.raises(WarrenError):
        stack.up(session_of(make([], [], STACK, answers=error)), None)
    remembered = home / ".warren" / "platform"
    assert remembered.read_text() == "compose\n"
    remembered.unlink()
    with pytest.raises(WarrenError):
        stack.up(session_of(make(answers=error)), None)
    assert not remembered.exists()


# --- build


def test_the_image_is_built_from_this_checkout_under_the_digest_of_its_contents(make: Any) -> None:
    driver = make(built=False, python_image="python:3.12-slim")
    driver.build()
    image = f"warren-app:{driver.image.digest()}"
    assert driver.runner.read_ == [f"docker images --quiet {image}"]
    assert driver.ran == [
        f"docker build --file deploy/image/Dockerfile --tag {image} --build-arg PYTHON_IMAGE=python:3.12-slim "
        f"--build-context project={ROOT}/deploy/image/no-project ."
    ]


def test_what_is_built_already_is_not_built_again(make: Any) -> None:
    driver = make(built=True)
    driver.build()
    assert driver.ran == []


@pytest.mark.parametrize(
    ("image", "named"),
    [
        ("warren-app", False),
        ("registry.example:5000/shop", False),
        ("shop:1.4", True),
        ("registry.example:5000/team/shop:1.4", True),
        ("shop@sha256:" + "0" * 64, True),
    ],
)
def test_an_image_with_a_tag_is_used_as_it_is_and_never_built(make: Any, image: str, named: bool) -> None:
    driver = make(built=False, app_image=image)
    driver.build()
    assert bool(driver.ran) is not named
    assert (driver.image.name() == image) is named
    if not named:
        assert driver.image.name() == f"{image}:{driver.image.digest()}"


def test_a_project_of_the_users_own_is_the_images_second_context(make: Any, tmp_path: Path) -> None:
    project = tmp_path / "shop"
    project.mkdir()
    driver = make(built=False, celery_app="shop.celery:app", app_context=str(project))
    driver.build()
    assert f"--build-context project={project} ." in driver.ran[0]


def test_the_digest_changes_with_what_goes_into_the_image_and_with_nothing_else(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("app", "requirements", "deploy/image/no-project", "docs", "shop"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "app" / "tasks.py").write_text("one")
    (tmp_path / "requirements" / "app.txt").write_text("celery")
    (tmp_path / "shop" / "celery.py").write_text("shop")
    monkeypatch.setattr(image, "ROOT", tmp_path)

    def digest(**settings: Any) -> str:
        return str(make(**settings).image.digest())

    shop = {"celery_app": "shop.celery", "app_context": "shop"}
    first, foreign = digest(), digest(**shop)
    with monkeypatch.context() as shell:
        shell.setenv("DOCKER_DEFAULT_PLATFORM", "linux/amd64")
        other = digest()
    assert len({first, foreign, other, digest(python_image="python:3.12")}) == 4

    for name in ("docs/new.md", "app/.hidden", "app/__pycache__/tasks.pyc", "requirements/dev.txt", "shop/.git/HEAD"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("new")
        assert (digest(), digest(**shop)) == (first, foreign), name
    (tmp_path / "shop" / "celery.py").write_text("other")
    assert digest() == first
    assert digest(**shop) != foreign
    seen = {first}
    for name, text in (
        ("app/tasks.py", "two"),
        ("app/sub/new.py", ""),
        ("requirements/app.txt", "x"),
        ("deploy/image/Dockerfile", "FROM"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        assert digest() not in seen, name
        seen.add(digest())
    (tmp_path / "app" / "tasks.py").rename(tmp_path / "app" / "other.py")
    assert digest() not in seen


# --- down, restart, logs, exec


def test_down_stops_workers_first_and_keeps_the_data(make: Any) -> None:
    driver = make(*STACK)
    driver.down(volumes=False)
    assert driver.ran == DOWN


def test_down_with_its_data(make: Any) -> None:
    driver = make(*STACK)
    driver.down(volumes=True)
    assert driver.ran == [DOWN[0], f"{DOWN[1]} --volumes"]


def test_down_in_a_checkout_that_was_never_up_writes_what_compose_reads(make: Any, home: Path) -> None:
    make().down(volumes=False)
    assert (home / ".warren" / "compose.env").exists()


RECREATE = f"{COMPOSE} up --detach --no-deps --force-recreate{{}} --wait --wait-timeout 180"


@pytest.mark.parametrize(
    ("services", "scale", "end"),
    [
        (["worker"], " --scale worker=2", "worker"),
        (["flower", "rabbitmq"], "", "rabbitmq flower"),
        (["rabbitmq", "worker", "monitor", "flower"], " --scale worker=2", "rabbitmq worker monitor flower"),
    ],
)
def test_restart_makes_the_containers_anew_in_the_order_of_a_start(
    make: Any, services: list[str], scale: str, end: str
) -> None:
    driver = make(*STACK, container("worker", 2))
    driver.restart(services)
    assert driver.ran == [f"{RECREATE.format(scale)} {end}"]


def test_a_restart_stops_workers_first_where_the_broker_changes_too(make: Any) -> None:
    make(*STACK).write()
    driver = make(*STACK, delivery_limit=7)
    driver.restart(["rabbitmq", "worker"])
    assert driver.ran == [f"{COMPOSE} stop worker", f"{RECREATE.format(' --scale worker=1')} rabbitmq worker"]


@pytest.mark.parametrize("call", [lambda one: one.restart(["worker"]), lambda one: one.scale(2, set())])
def test_what_needs_a_stack_says_that_there_is_none(make: Any, call: Any) -> None:
    driver = make()
    with pytest.raises(WarrenError) as caught:
        call(driver)
    assert (str(caught.value), caught.value.code) == ("nothing runs; `invoke up` starts the stack", ExitCode.FAILED)
    assert driver.ran == []


def test_logs(make: Any) -> None:
    driver = make(*STACK, answers={f"{COMPOSE} logs": "5"})
    assert driver.logs(["worker", "flower"], False, 20) == 5
    driver.logs([], True, 0)
    assert driver.runner.attached == [f"{COMPOSE} logs --tail 20 worker flower", f"{COMPOSE} logs --tail 0 --follow"]


def test_exec(make: Any) -> None:
    driver = make(*STACK, answers={f"{COMPOSE} exec": "5"})
    assert driver.exec("worker", ["celery", "-A", "app", "report", "a b"]) == 5
    assert driver.runner.attached == [f"{COMPOSE} exec worker celery -A app report 'a b'"]


# --- scaling

SCALE = f"{COMPOSE} up --detach --no-deps --no-recreate --scale worker={{0}} --wait --wait-timeout 180 worker"


def workers(count: int) -> list[dict[str, str]]:
    return [container("rabbitmq"), *(container("worker", number) for number in range(1, count + 1))]


@pytest.mark.parametrize(("before", "after"), [(1, 4), (0, 1), (3, 3)])
def test_more_or_as_many_workers_stop_none(make: Any, before: int, after: int) -> None:
    driver = make(*workers(before))
    driver.scale(after, set())
    assert driver.ran == [SCALE.format(after)]


@pytest.mark.parametrize(
    ("before", "after", "busy", "stopped"),
    [
        (4, 2, [], [4, 3]),
        (4, 2, [4, 3], [2, 1]),
        (4, 2, [1, 4], [3, 2]),
        (4, 1, [4, 3], [2, 1, 4]),
        (4, 3, [4], [3]),
        (12, 10, [12], [11, 10]),
        (3, 0, [2], [3, 1, 2]),
        (2, 1, [1, 2], [2]),
    ],
)
def test_fewer_workers_stop_idle_ones_first_and_then_the_youngest(
    make: Any, before: int, after: int, busy: list[int], stopped: list[int]
) -> None:
    driver = make(*workers(before))
    driver.scale(after, {node(number) for number in busy})
    names = " ".join(f"warren-worker-{number}" for number in stopped)
    assert driver.ran == [f"docker stop {names}", f"docker rm {names}", SCALE.format(after)]


def test_stopped_workers_do_not_count_for_scaling(make: Any) -> None:
    driver = make(*workers(2), container("worker", 3, state="exited"))
    driver.scale(2, set())
    assert driver.ran == [SCALE.format(2)]


# --- dry


@pytest.mark.parametrize(
    "call",
    [
        lambda one: one.up(None),
        lambda one: one.down(True),
        lambda one: one.restart(["worker"]),
        lambda one: one.scale(0, set()),
        lambda one: one.build(),
    ],
)
def test_dry_shows_commands_and_changes_nothing(make: Any, home: Path, call: Any) -> None:
    driver = make(*STACK, dry=True, built=False)
    call(driver)
    assert driver.ran == []
    assert any(line.startswith(("docker compose", "docker build", "docker stop")) for line in driver.runner.shown)
    assert not (home / ".warren").exists()


# --- status


def test_the_stack_in_the_order_of_its_start(make: Any) -> None:
    many = [container("worker", number) for number in (10, 9, 2)]
    assert [one.name for one in make(*STACK, *many).status()] == [
        *("warren-rabbitmq-1", "warren-worker-1", "warren-worker-2", "warren-worker-9", "warren-worker-10"),
        *("warren-monitor-1", "warren-flower-1"),
    ]


def test_nothing_runs(make: Any) -> None:
    assert make().status() == []


def test_a_container_that_is_none_of_ours_is_shown_last(make: Any) -> None:
    assert [one.service for one in make(container("adminer"), *STACK).status()][-1] == "adminer"


@pytest.mark.parametrize(
    ("state", "status", "expected"),
    [
        ("running", "Up 5 minutes (healthy)", ("running", True, "Up 5 minutes")),
        ("running", "Up 5 minutes", ("running", True, "Up 5 minutes")),
        ("running", "Up 2 seconds (health: starting)", ("starting", False, "Up 2 seconds")),
        ("running", "Up 5 minutes (unhealthy)", ("running", False, "Up 5 minutes")),
        ("running", "Up About an hour (healthy)", ("running", True, "Up About an hour")),
        ("created", "Created", ("starting", False, "Created")),
        ("restarting", "Restarting (1) 3 seconds ago", ("starting", False, "Restarting (1) 3 seconds ago")),
        ("exited", "Exited (0) 2 hours ago", ("stopped", False, "Exited (0) 2 hours ago")),
        ("exited", "Exited (143) 2 hours ago", ("stopped", False, "Exited (143) 2 hours ago")),
        ("exited", "Exited (137) 2 hours ago", ("failed", False, "Exited (137) 2 hours ago")),
        ("exited", "Exited (1) Less than a second ago", ("failed", False, "Exited (1) Less than a second ago")),
        ("exited", "Exited (14) 1 second ago", ("failed", False, "Exited (14) 1 second ago")),
        ("dead", "Dead", ("failed", False, "Dead")),
    ],
)
def test_what_the_engine_calls_it_and_what_we_do(
    make: Any, state: str, status: str, expected: tuple[str, bool, str]
) -> None:
    (one,) = make(container("worker", state=state, status=status)).status()
    assert (one.state, one.ready, one.since) == expected


def test_a_workers_node_is_named_after_its_container(make: Any) -> None:
    found = make(container("worker", ID="0123456789abcdef" * 4), container("flower")).status()
    assert [one.node for one in found] == ["celery@0123456789ab", ""]
    assert found[0] == Instance(
        service="worker",
        name="warren-worker-1",
        state="running",
        ready=True,
        since="Up 5 minutes",
        node="celery@0123456789ab",
    )


# --- an engine that can't be used

NO_ENGINE = (
    "; start the engine (sudo systemctl start docker) or install it (docs.docker.com/engine/install), "
    "or choose --platform local"
)


def failed(said: str) -> WarrenError:
    return WarrenError(f"`docker x` ended with exit code 1: {said}", ExitCode.FAILED)


ENGINE = [
    (
        WarrenError("docker is not installed, or not on the PATH", ExitCode.PLATFORM),
        "docker is not installed" + NO_ENGINE,
    ),
    (
        failed(
            "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: "
            'Get "http://%2Fvar%2Frun%2Fdocker.sock/v1.50/version": dial unix /var/run/docker.sock: connect: '
            "permission denied"
        ),
        "this user may not use the Docker engine; join the group docker (sudo usermod -aG docker $USER, then log in "
        "again), or choose --platform local",
    ),
    (
        failed("Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"),
        "the Docker engine does not answer" + NO_ENGINE,
    ),
    (
        failed("failed to connect to the docker API at unix:///var/run/docker.sock; check if the path is correct"),
        "the Docker engine does not answer" + NO_ENGINE,
    ),
    (
        WarrenError("`docker x` did not end within 10 s", ExitCode.TIMEOUT),
        "the Docker engine does not answer" + NO_ENGINE,
    ),
]


@pytest.mark.parametrize(("error", "line"), ENGINE)
def test_an_engine_that_cannot_be_used_is_one_line(make: Any, error: WarrenError, line: str) -> None:
    for driver, call in ((make(answers={VERSION: error}), "check"), (make(answers={PS: error}), "status")):
        with pytest.raises(WarrenError) as caught:
            getattr(driver, call)()
        assert (str(caught.value), caught.value.code) == (line, ExitCode.PLATFORM)


@pytest.mark.parametrize(
    "said", ["docker: 'compose' is not a docker command.", "docker: unknown command: docker compose"]
)
def test_an_engine_without_compose(make: Any, said: str) -> None:
    error = WarrenError(f"`docker compose version --short` ended with exit code 1: {said}", ExitCode.FAILED)
    with pytest.raises(WarrenError) as caught:
        make(answers={"docker compose version": error}).check()
    assert (str(caught.value), caught.value.code) == ("docker has no Compose plugin" + NO_ENGINE, ExitCode.PLATFORM)


def test_a_client_that_has_no_server_to_tell_the_version_of(make: Any) -> None:
    with pytest.raises(WarrenError, match=r"^the Docker engine does not answer"):
        make(answers={VERSION: "\n"}).check()


def test_another_error_of_the_engine_is_told_as_it_is(make: Any) -> None:
    error = failed("no space left on device")
    with pytest.raises(WarrenError) as caught:
        make(answers={PS: error}).status()
    assert caught.value is error


def test_up_asks_the_engine_before_it_does_anything(make: Any, home: Path) -> None:
    driver = make(answers={VERSION: ENGINE[0][0]})
    with pytest.raises(WarrenError, match=r"^docker is not installed"):
        driver.up(None)
    assert driver.ran == []
    assert not (home / ".warren").exists()


def test_the_engine_gets_a_limited_time_to_answer(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = make()
    limits: list[float | None] = []
    read = driver.runner.read
    monkeypatch.setattr(driver.runner, "read", lambda command, timeout=None: limits.append(timeout) or read(command))
    driver.check()
    driver.status()
    assert limits == [engine.ENGINE_PATIENCE] * 3


# --- files


def test_values_are_written_so_that_compose_takes_them_literally() -> None:
    assert files.lines({"A": "x $y #z", "B": "it's"}) == "A='x $y #z'\nB=\"it's\"\n"
    assert files.lines({"A": r"""sh -c 'echo "$X" \'"""}) == r'''A="sh -c 'echo \"\$X\" \\'"''' + "\n"
    assert files.lines({"A": "ends with \\"}) == 'A="ends with \\\\"\n'


@pytest.mark.parametrize(("bind", "written"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "0.0.0.0"), ("::1", "[::1]")])
def test_the_address_in_a_published_port(make: Any, home: Path, bind: str, written: str) -> None:
    make(bind=bind).write()
    assert f"WARREN_BIND='{written}'\n" in (home / ".warren" / "compose.env").read_text()


def digest_of(home: Path) -> str:
    text = (home / ".warren" / "compose.env").read_text()
    return text.partition("WARREN_DEFINITIONS_DIGEST='")[2].partition("'")[0]


def test_the_broker_is_made_anew_when_and_only_when_what_it_reads_changes(make: Any, home: Path) -> None:
    make().write()
    first = digest_of(home)
    assert len(first) == 12
    for same in ({}, {"workers": 7}, {"log_level": "debug"}, {"flower_port": 5673}):
        make(**same).write()
        assert digest_of(home) == first, same
    read = ({"queues": ("mail",)}, {"task_time_limit": 20}, {"delivery_limit": 3})
    of_its_container = ({"rabbitmq_memory_mb": 512}, {"amqp_port": 5673}, {"bind": "0.0.0.0"})
    for other in (*read, *of_its_container):
        make(**other).write()
        assert digest_of(home) != first, other


@pytest.mark.parametrize(
    ("bind", "host"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "127.0.0.1"),
        ("10.1.2.3", "10.1.2.3"),
        ("::1", "::1"),
    ],
)
def test_where_this_host_reaches_the_stack(make: Any, bind: str, host: str) -> None:
    driver = make(bind=bind, amqp_port=1, management_port=2, prometheus_port=3, flower_port=4, monitor_port=5)
    assert driver.endpoints() == Endpoints(host=host, amqp=1, management=2, prometheus=3, flower=4, monitor=5)


@pytest.mark.parametrize(
    ("prefix", "path"), [("", ""), ("/", ""), ("flower", "/flower/"), ("/under/here", "/under/here/")]
)
def test_flowers_address_has_its_prefix(make: Any, prefix: str, path: str) -> None:
    assert make(flower_url_prefix=prefix, flower_port=4).endpoints().flower_url == f"http://127.0.0.1:4{path}"
    # The edge has it in one place.
    assert make(flower_url_prefix="flower", edge="on").endpoints().flower_url == "https://localhost:8443/flower/"


def test_addresses_of_version_6_stand_in_brackets_in_urls(secrets: Secrets) -> None:
    where = Endpoints(host="::1", amqp=1, management=2, prometheus=3, flower=4, monitor=5)
    assert (where.flower_url, where.management_url, where.monitor_url) == (
        *("http://[::1]:4", "http://[::1]:2", "http://[::1]:5"),
    )
    assert broker_url("ops", secrets, "[::1]", 1) == broker_url("ops", secrets, "::1", 1)
    assert broker_url("ops", secrets, "::1", 1) == "amqp://ops:password-of-ops@[::1]:1/warren"


def test_a_password_that_a_user_wrote_may_hold_anything() -> None:
    from urllib.parse import unquote, urlsplit

    url = urlsplit(broker_url("ops", Secrets(ops="p@ss/w:r#d%?"), "h", 1))
    assert (unquote(url.password or ""), url.hostname, url.port, url.path) == ("p@ss/w:r#d%?", "h", 1, "/warren")
