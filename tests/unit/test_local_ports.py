"""The ports of the local platform."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.errors import ExitCode, WarrenError
from deploy.platforms.local import addresses
from deploy.settings import Settings


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "ports.json"
    monkeypatch.setattr(addresses, "FILE", place)
    return place


@pytest.fixture
def busy() -> Iterator[int]:
    """A port that another program listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_an_explicit_port_that_is_taken_is_an_error_with_its_variable(busy: int) -> None:
    with pytest.raises(WarrenError, match="WARREN_FLOWER_PORT") as caught:
        addresses.choose(Settings(flower_port=busy), running=False)
    assert caught.value.code is ExitCode.PORT


def test_a_default_that_is_taken_gives_way(busy: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "defaults", lambda: {**real(), "amqp_port": busy})
    chosen = addresses.choose(Settings(amqp_port=busy), running=False)
    assert chosen.amqp_port != busy


def real() -> dict[str, int]:
    return {
        "amqp_port": 5672,
        "management_port": 15672,
        "prometheus_port": 15692,
        "flower_port": 5555,
        "monitor_port": 5556,
    }


def test_all_ports_differ() -> None:
    chosen = addresses.choose(Settings(), running=False)
    assert len(set(vars(chosen).values())) == 7


def test_what_runs_keeps_its_ports_though_they_are_in_use(busy: int) -> None:
    chosen = addresses.choose(Settings(), running=False)
    addresses.remember(addresses.Ports(**{**vars(chosen), "amqp_port": busy}))
    assert addresses.choose(Settings(), running=True).amqp_port == busy
    assert addresses.endpoints(Settings()).amqp == busy
    where = addresses.endpoints(Settings(flower_url_prefix="/flower"))
    assert where.flower_url == f"http://127.0.0.1:{chosen.flower_port}/flower/"


def test_what_runs_moves_when_the_settings_name_another_port() -> None:
    addresses.remember(addresses.choose(Settings(), running=False))
    free = addresses.ports.any_free("127.0.0.1", set())
    assert addresses.choose(Settings(flower_port=free), running=True).flower_port == free


def test_a_port_that_came_with_a_newer_version_is_chosen_though_the_stack_runs(
    file: Path, busy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = addresses.choose(Settings(), running=False)
    file.write_text(json.dumps({name: port for name, port in vars(chosen).items() if name != "monitor_port"}))
    monkeypatch.setattr(addresses, "defaults", lambda: {**real(), "monitor_port": busy})
    assert addresses.endpoints(Settings()).monitor == busy
    after = addresses.choose(Settings(monitor_port=busy), running=True)
    assert after.monitor_port != busy
    assert {**vars(after), "monitor_port": 0} == {**vars(chosen), "monitor_port": 0}


def test_a_damaged_file_says_what_to_do(file: Path) -> None:
    file.write_text("{")
    with pytest.raises(WarrenError, match="delete it"):
        addresses.known()


@pytest.mark.parametrize(
    ("bind", "host", "url"),
    [
        ("0.0.0.0", "127.0.0.1", "127.0.0.1"),
        ("::", "::1", "[::1]"),
        ("10.1.2.3", "10.1.2.3", "10.1.2.3"),
        ("fe80::1", "fe80::1", "[fe80::1]"),
    ],
)
def test_the_address_that_this_host_uses(bind: str, host: str, url: str) -> None:
    assert addresses.reach(bind) == host
    assert addresses.url_host(bind) == url
