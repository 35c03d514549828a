"""The process manager of the local platform, and what it is told to run."""

from __future__ import annotations

import configparser
import os
import shlex
import sys
from pathlib import Path

import pytest

from deploy.errors import ExitCode, WarrenError
from deploy.paths import ROOT
from deploy.platforms.compose.image import Image
from deploy.platforms.local import broker, package, platform, programs, supervisor, told
from deploy.platforms.local.addresses import Ports
from deploy.platforms.local.install import requirements
from deploy.platforms.local.programs import Program
from deploy.run import Runner
from deploy.secrets import NAMES, Secrets
from deploy.settings import Settings

PORTS = Ports(5672, 15672, 15692, 5555, 5556, 4369, 25672)
SECRETS = Secrets({name: f"password-of-{name}" for name in NAMES})


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of this test's own instead of .warren/local."""
    local = tmp_path / "local"
    local.mkdir()
    monkeypatch.setattr(supervisor, "LOCAL", local)
    monkeypatch.setattr(programs, "LOCAL", local)
    monkeypatch.setattr(broker, "FOLDER", local / "broker")
    return local


def all_programs(settings: Settings | None = None, slots: tuple[int, ...] = (1, 2)) -> dict[str, Program]:
    made = programs.programs(settings or Settings(), SECRETS, PORTS, {"worker": slots}, Path("/scripts"))
    return {program.name: program for program in made}


def parsed(text: str) -> configparser.RawConfigParser:
    """``text`` as supervisor reads it."""
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False)
    parser.read_string(text)
    return parser


def test_programs_and_their_order() -> None:
    made = all_programs()
    assert list(made) == ["epmd", "rabbitmq", "worker-1", "worker-2", "monitor", "flower"]
    by_stop = sorted(made.values(), key=lambda one: -one.priority)
    assert [one.service for one in by_stop] == ["worker", "worker", "monitor", "flower", "rabbitmq", "epmd"]


def test_a_worker_has_a_node_name_and_a_health_folder_of_its_own() -> None:
    made = all_programs(Settings(project="shop"))
    assert made["worker-2"].node == "worker-2@shop"
    assert made["worker-1"].environment["WARREN_HEALTH_DIR"] != made["worker-2"].environment["WARREN_HEALTH_DIR"]


def test_a_worker_gets_its_grace_and_the_signal_goes_to_it_alone() -> None:
    made = all_programs(Settings(task_time_limit=900))
    conf = parsed(supervisor.configuration(list(made.values()), ROOT / ".warren" / "local"))
    worker = conf["program:worker-1"]
    assert worker["stopwaitsecs"] == "930"
    assert (worker["stopsignal"], worker["stopasgroup"], worker["killasgroup"]) == ("TERM", "false", "true")


def test_no_secret_is_in_the_configuration_or_on_a_command_line() -> None:
    made = all_programs()
    text = supervisor.configuration(list(made.values()), ROOT / ".warren" / "local")
    text += " ".join(word for program in made.values() for word in program.arguments)
    assert "password-of" not in text


@pytest.mark.parametrize("change", ["setting", "password", "ports"])
def test_what_changes_a_program_changes_its_digest(change: str) -> None:
    before = all_programs()
    settings = Settings(queues=("default", "mail")) if change == "setting" else Settings()
    secrets = Secrets({**SECRETS, "worker": "another"}) if change == "password" else SECRETS
    ports = Ports(5673, 15672, 15692, 5555, 5556, 4369, 25672) if change == "ports" else PORTS
    after = {one.name: one for one in programs.programs(settings, secrets, ports, {"worker": [1, 2]}, Path("/scripts"))}
    assert before["worker-1"].digest != after["worker-1"].digest
    assert before["rabbitmq"].digest != after["rabbitmq"].digest
    assert before["epmd"].digest == after["epmd"].digest


def test_nothing_changed_is_nothing_changed() -> None:
    first, second = all_programs(), all_programs()
    assert [one.digest for one in first.values()] == [one.digest for one in second.values()]


def test_the_digests_can_be_read_back_from_the_configuration() -> None:
    made = all_programs()
    text = supervisor.configuration(list(made.values()), ROOT / ".warren" / "local")
    assert supervisor.digests(text) == {name: program.digest for name, program in made.items()}


def test_an_odd_path_of_the_interpreter_survives_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/opt/100% my python/bin/python")
    conf = parsed(supervisor.configuration(list(all_programs().values()), ROOT / ".warren" / "local"))
    assert shlex.split(conf["program:epmd"]["command"].replace("%%", "%"))[0] == "/opt/100% my python/bin/python"


def test_a_long_path_gets_a_short_private_place_for_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(supervisor, "LOCAL", long)
    folder = supervisor.socket_folder()
    assert len(str(folder / "supervisor.sock")) < supervisor.SOCKET_PATH_LIMIT
    assert folder.stat().st_mode & 0o777 == 0o700
    assert supervisor.socket_folder() == folder
    supervisor.drop_socket_folder()
    assert not folder.exists()
    assert not list(long.iterdir())


def test_a_foreign_project_sees_only_the_package_app(tmp_path: Path) -> None:
    made = all_programs(Settings(celery_app="shop:app", app_context=str(tmp_path)))
    assert str(ROOT) not in made["worker-1"].environment["PYTHONPATH"].split(":")
    assert made["worker-1"].directory == tmp_path


def test_the_code_of_a_foreign_project_counts_and_its_virtual_environment_does_not(tmp_path: Path) -> None:
    settings = Settings(celery_app="shop:app", app_context=str(tmp_path))
    before = all_programs(settings)["worker-1"].digest
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    (tmp_path / "venv" / "module.py").touch()
    assert all_programs(settings)["worker-1"].digest == before
    (tmp_path / "shop.py").touch()
    assert all_programs(settings)["worker-1"].digest != before


def test_what_else_lies_beside_the_code_of_a_foreign_project_disturbs_nothing(tmp_path: Path) -> None:
    settings = Settings(celery_app="shop", app_context=str(tmp_path))
    before = programs.code_digest(settings)
    # As Emacs marks a file that somebody edits.
    (tmp_path / ".#shop.py").symlink_to("me@host.1234")
    assert programs.code_digest(settings) == before
    # A name that is no text.
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.py")).touch()
    except OSError:
        pytest.skip("this file system takes no such name")
    assert programs.code_digest(settings) != before
    assert Image(settings, Runner()).digest()


def test_what_a_foreign_project_asks_for_may_be_written_in_anything(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(WarrenError, match=r"pyproject\.toml can't be read: ") as caught:
        requirements(tmp_path)
    assert caught.value.code is ExitCode.SETTINGS
    # pip takes it.
    (tmp_path / "requirements.txt").write_bytes(b"celery  # caf\xe9\n")
    assert requirements(tmp_path) == ("celery  # caf\\xe9\n", ["--requirement", str(tmp_path / "requirements.txt")])


def test_the_brokers_environment_names_every_place_of_the_systems_instance() -> None:
    environment = broker.environment(PORTS)
    places = (
        "HOME",
        "RABBITMQ_MNESIA_BASE",
        "RABBITMQ_LOG_BASE",
        "RABBITMQ_CONFIG_FILE",
        "RABBITMQ_ADVANCED_CONFIG_FILE",
    )
    assert all(not environment[name].startswith(("/etc", "/var")) for name in places)
    assert environment["RABBITMQ_CONF_ENV_FILE"] == "/dev/null"
    assert environment["RABBITMQ_NODENAME"] == broker.node()


def test_the_broker_listens_where_the_settings_say() -> None:
    text = broker.configuration(Settings(bind="10.0.0.1"), PORTS)
    for line in ("listeners.tcp.1 = 10.0.0.1:5672", "management.tcp.ip = 10.0.0.1", "prometheus.tcp.ip = 10.0.0.1"):
        assert line in text.splitlines()


@pytest.mark.parametrize(
    ("slots", "count", "busy", "expected"),
    [
        ([], 3, set(), [1, 2, 3]),
        ([1, 3], 3, set(), [1, 2, 3]),
        ([1, 2, 3], 1, {"worker-2@warren"}, [2]),
        ([1, 2, 3], 2, {"worker-3@warren"}, [1, 3]),
        ([1, 2, 3], 1, {"worker-1@warren", "worker-3@warren"}, [1]),
        ([1, 2], 0, {"worker-1@warren"}, []),
        ([2, 5], 2, set(), [2, 5]),
    ],
)
def test_idle_workers_leave_first_and_new_ones_fill_the_gaps(
    slots: list[int], count: int, busy: set[str], expected: list[int]
) -> None:
    assert platform.resized(slots, count, busy, "warren") == expected


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "less than a second"), (1, "1 second"), (61, "1 minute"), (7200, "2 hours"), (90_000, "1 day")],
)
def test_times_in_words(seconds: int, words: str) -> None:
    assert told.in_words(seconds) == words


def install_rabbitmq(root: Path, version: str) -> Path:
    scripts = root / "usr" / "lib" / "rabbitmq" / "lib" / f"rabbitmq_server-{version}" / "sbin"
    scripts.mkdir(parents=True)
    (scripts / "rabbitmq-server").touch()
    return scripts


def test_the_newest_package_is_found(tmp_path: Path) -> None:
    install_rabbitmq(tmp_path, "3.9.27")
    newest = install_rabbitmq(tmp_path, "3.10.8")
    assert package.find(tmp_path) == newest
    package.require_supported(newest)


def test_too_old_a_broker_is_named(tmp_path: Path) -> None:
    with pytest.raises(WarrenError, match=r"RabbitMQ 3\.9 .* 3\.10") as caught:
        package.require_supported(install_rabbitmq(tmp_path, "3.9.27"))
    assert caught.value.code is ExitCode.PLATFORM


def test_a_missing_package_names_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.debian.found", lambda program: False)
    monkeypatch.setattr("deploy.debian.installable", lambda: False)
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")
    with pytest.raises(WarrenError, match="sudo apt-get install rabbitmq-server") as caught:
        package.debian.ensure("rabbitmq-server", "rabbitmq-server", Runner())
    assert caught.value.code is ExitCode.PLATFORM
