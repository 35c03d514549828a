"""The edge on Compose: which commands are run, what the services are told, and when it is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import platforms, ports
from deploy.commands import stack
from deploy.errors import ExitCode, WarrenError
from deploy.paths import ROOT
from deploy.platforms.base import Endpoints
from deploy.platforms.compose import edge
from deploy.secrets import Secrets
from deploy.session import Session
from deploy.settings import Settings, load
from tests.unit.conftest import FakeRunner, Menu
from tests.unit.test_compose import COMPOSE, STACK, container, make
from tests.unit.test_stack import Platform, one, session_on

__all__ = ["make"]

WITH_EDGE = f"{COMPOSE} --file deploy/edge/compose.yaml"
UP = f"{WITH_EDGE} up --detach --remove-orphans --quiet-pull --scale worker=1 --wait --wait-timeout 180"
FETCH_CA = f"{WITH_EDGE} cp edge:/data/caddy/pki/authorities/local/root.crt .warren/edge-ca.crt"


def written(home: Path, name: str) -> dict[str, str]:
    text = (home / ".warren" / name).read_text()
    return dict(re.findall(r"^(\w+)='(.*)'$", text, re.MULTILINE))


# --- commands


def test_up_takes_one_more_file_and_then_fetches_the_certificate_of_the_ca(make: Any) -> None:
    driver = make(edge="on")
    driver.up(None)
    assert driver.ran == [UP, FETCH_CA]


def test_with_a_public_ca_there_is_no_certificate_to_fetch(make: Any) -> None:
    driver = make(edge="on", edge_host="tasks.example.org")
    driver.up(None)
    assert driver.ran == [UP]


def test_down_leaves_the_keys_of_the_edge(make: Any) -> None:
    """To Compose the edge is an orphan then, which it removes, and its volume is nobody's."""
    driver = make(*STACK, container("edge"), edge="on")
    driver.down(volumes=True)
    assert driver.ran == [f"{COMPOSE} stop worker", f"{COMPOSE} down --remove-orphans --volumes"]


def test_restart_of_all_is_of_the_edge_too(make: Any) -> None:
    make(edge="on").up(None)
    driver = make(*STACK, container("edge"), edge="on")
    driver.restart(["edge", "flower", "rabbitmq"])
    assert driver.ran == [
        f"{WITH_EDGE} up --detach --no-deps --force-recreate --wait --wait-timeout 180 rabbitmq flower edge"
    ]


def test_turning_it_off_is_an_up_without_it(make: Any, home: Path) -> None:
    make(edge="on").up(None)
    assert "WARREN_EDGE_ADDRESS" in written(home, "compose.env")
    driver = make(*STACK, container("edge"))
    driver.up(None)
    assert "--remove-orphans" in driver.ran[-1] and "edge" not in driver.ran[-1]
    assert not any("EDGE" in name for name in written(home, "compose.env"))
    assert written(home, "env/flower.env")["FLOWER_URL_PREFIX"] == ""
    assert "MONITOR_BEHIND_PROXY" not in written(home, "env/monitor.env")


@pytest.mark.parametrize("now", ["on", "off"])
def test_a_setting_that_changed_holds_from_the_next_up_on(make: Any, now: str) -> None:
    make(edge="off" if now == "on" else "on").up(None)
    driver = make(*STACK, edge=now)
    with pytest.raises(WarrenError, match=f"^the edge is to be {now} by now; `invoke up` first$"):
        driver.restart(["flower"])
    assert driver.ran == []
    driver.scale(1, set())
    driver.exec("worker", ["true"])
    driver.logs(["worker", "edge"], False, 5)
    file = "--file deploy/edge/compose.yaml"
    assert [file in line for line in [*driver.ran, *driver.runner.attached]] == [now == "off"] * 3
    assert driver.runner.attached[-1].endswith("logs --tail 5 worker" + (" edge" if now == "off" else ""))


def test_the_log_of_an_edge_that_is_not_up(make: Any) -> None:
    make().up(None)
    with pytest.raises(WarrenError, match=r"^edge: not up yet; `invoke up` starts it$"):
        make(*STACK, edge="on").logs(["edge"], False, 5)


def test_status_shows_it_last(make: Any) -> None:
    assert [one.service for one in make(container("edge"), *STACK, edge="on").status()][-1] == "edge"


# --- what services are told


def test_the_services_behind_it_know_of_it(make: Any, home: Path) -> None:
    make(edge="on", edge_https_port=443, edge_host="Tasks.LAN").write()
    flower, monitor = written(home, "env/flower.env"), written(home, "env/monitor.env")
    assert (flower["FLOWER_URL_PREFIX"], flower["FLOWER_XHEADERS"]) == ("flower", "true")
    assert monitor["MONITOR_BEHIND_PROXY"] == "on"
    compose = written(home, "compose.env")
    assert (compose["WARREN_EDGE_ADDRESS"], compose["WARREN_EDGE_HOST"]) == ("https://tasks.lan", "tasks.lan")
    assert compose["WARREN_EDGE_TLS"] == "internal"


def test_every_variable_of_its_file_is_written(make: Any, home: Path) -> None:
    make(edge="on").write()
    text = (ROOT / edge.FILE).read_text()
    of_the_stack = {"WARREN_BIND", "WARREN_AMQP_PORT", "WARREN_MANAGEMENT_PORT"}
    assert set(re.findall(r"\$\{(\w+)", text)) == set(edge.variables(Settings(edge="on"))) | of_the_stack
    assert set(edge.variables(Settings(edge="on"))) <= set(written(home, "compose.env"))
    inside = set(re.findall(r"\{\$(\w+)\}", (ROOT / "deploy" / "edge" / "Caddyfile").read_text()))
    assert inside == set(re.findall(r"^      (EDGE_\w+):", text, re.MULTILINE))


def services(file: str = edge.FILE) -> dict[str, Any]:
    """What a file of Compose says, without Compose's own tags."""
    return dict(yaml.safe_load(re.sub("!(reset|override)", "", (ROOT / file).read_text()))["services"])


def test_what_no_command_asks_is_closed() -> None:
    with_edge, without = services(), services("deploy/compose.yaml")
    for service in without:
        left = with_edge.get(service, without[service]).get("ports", [])
        gone = [port for port in without[service].get("ports", []) if port not in left]
        # In the words of the one file, or both differ in what is published.
        assert set(left) <= set(without[service].get("ports", []))
        assert {"flower": ["WARREN_FLOWER_PORT"], "rabbitmq": ["WARREN_PROMETHEUS_PORT"]}.get(service, []) == [
            name for port in gone for name in re.findall(r"WARREN_\w+_PORT", port)
        ]
    assert sorted(edge.CLOSED) == ["flower_port", "prometheus_port"]


def test_its_container_may_do_nothing_and_write_nowhere() -> None:
    service = services()["edge"]
    assert service["read_only"] is True
    assert (service["cap_drop"], service["cap_add"]) == (["ALL"], ["NET_BIND_SERVICE"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert [volume for volume in service["volumes"] if not volume.endswith(":ro")] == ["edge:/data"]


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost", True),
        ("server", True),
        ("10.0.0.5", True),
        ("tasks.home.arpa", True),
        ("tasks.lan", True),
        ("TASKS.Internal", True),
        ("tasks.example.org", False),
        ("lan.example.org", False),
    ],
)
def test_names_that_no_public_ca_knows_get_certificates_of_its_own(host: str, own: bool) -> None:
    assert edge.own_ca(Settings(edge="on", edge_host=host)) is own
    assert edge.own_ca(Settings(edge="on", edge_host=host, edge_tls="internal"))
    assert not edge.own_ca(Settings(edge="on", edge_host=host, edge_tls="acme"))


@pytest.mark.parametrize(("email", "tls"), [("", "acme"), ("ops@example.org", "acme-email")])
def test_whom_the_public_ca_may_write_to(email: str, tls: str) -> None:
    variables = edge.variables(Settings(edge="on", edge_host="tasks.example.org", edge_email=email))
    assert (variables["WARREN_EDGE_TLS"], variables["WARREN_EDGE_EMAIL"]) == (tls, email)


# --- ports


@pytest.mark.parametrize(
    ("bind", "inner"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "127.0.0.1"),
        ("10.1.2.3", "127.0.0.1"),
    ],
)
def test_nothing_else_listens_where_other_hosts_reach_it(
    make: Any, home: Path, bind: str, inner: str, capsys: pytest.CaptureFixture[str]
) -> None:
    driver = make(edge="on", bind=bind, edge_bind="0.0.0.0", amqp_port=1, management_port=2, monitor_port=5)
    driver.up(None)
    assert written(home, "compose.env")["WARREN_BIND"] == (f"[{inner}]" if ":" in inner else inner)
    assert written(home, "compose.env")["WARREN_EDGE_BIND"] == "0.0.0.0"
    assert driver.endpoints() == Endpoints(
        host=inner,
        amqp=1,
        management=2,
        prometheus=15692,
        flower=5555,
        monitor=5,
        edge="https://localhost:8443",
        ca=".warren/edge-ca.crt",
    )
    assert (f"WARREN_BIND={bind} does not hold" in capsys.readouterr().err) is (bind != inner)


def test_only_its_own_ports_and_those_that_are_published_must_be_free(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(ports, "free", lambda *where: asked.append(where) or True)
    make(edge="on", bind="10.1.2.3", edge_bind="10.1.2.4").up(None)
    assert asked == [
        *(("127.0.0.1", port, "WARREN_BIND") for port in (5672, 15672, 5556)),
        *(("10.1.2.4", port, "WARREN_EDGE_BIND") for port in (8080, 8443)),
    ]


def test_a_taken_port_of_it_names_its_variable(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "free", lambda _, port, *__: port != 8443)
    with pytest.raises(WarrenError, match=r"port 8443 is taken .* WARREN_EDGE_HTTPS_PORT=28443 in \.env") as caught:
        make(edge="on").up(None)
    assert caught.value.code is ExitCode.PORT


def test_an_address_of_no_host_names_its_variable() -> None:
    with pytest.raises(WarrenError, match=r"^WARREN_EDGE_BIND=192\.0\.2\.1 is no address of this host"):
        ports.require_free(Settings(edge_bind="192.0.2.1"), ["edge_http_port"], "edge_bind")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"edge_bind": "0.0.0.0", "edge_http_port": 80, "edge_https_port": 443}, False),
        ({"edge_http_port": 80, "edge_https_port": 443}, True),
        ({"edge_bind": "0.0.0.0"}, True),
    ],
)
def test_what_a_public_ca_asks_for(given: dict[str, Any], said: bool, capsys: pytest.CaptureFixture[str]) -> None:
    edge.advise(Settings(edge="on", edge_host="tasks.example.org", **given))
    assert ("comes by ACME" in capsys.readouterr().err) is said


# --- settings


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"WARREN_EDGE": "yes"}, "is not on or off"),
        ({"WARREN_EDGE_HOST": "https://x"}, "is not the name of a host"),
        ({"WARREN_EDGE_HOST": "a b"}, "is not the name of a host"),
        ({"WARREN_EDGE_EMAIL": "ops"}, "is not an e-mail address"),
        ({"WARREN_EDGE_EMAIL": "a@b {"}, "is not an e-mail address"),
        ({"WARREN_EDGE_BIND": "1.2.3"}, "WARREN_EDGE_BIND=1.2.3 is not an IP address"),
        (
            {"WARREN_EDGE": "on", "WARREN_EDGE_HTTP_PORT": "8443"},
            "WARREN_EDGE_HTTP_PORT and WARREN_EDGE_HTTPS_PORT are",
        ),
        (
            {"WARREN_EDGE": "on", "WARREN_AMQP_PORT": "8443"},
            "WARREN_AMQP_PORT and WARREN_EDGE_HTTPS_PORT are both 8443",
        ),
    ],
)
def test_mistakes(tmp_path: Path, values: dict[str, str], line: str) -> None:
    with pytest.raises(WarrenError, match=line):
        load(tmp_path / ".env", values)


def test_its_ports_are_nobodys_business_while_it_is_off(tmp_path: Path) -> None:
    assert load(tmp_path / ".env", {"WARREN_AMQP_PORT": "8443"}).amqp_port == 8443


# --- the option, and what is remembered of it


def session(secrets: Secrets, platform: Platform, home: Path, dry: bool = False) -> Session:
    made = Session(FakeRunner(dry=dry))  # type: ignore[arg-type]
    made.__dict__.update(platform=platform, secrets=secrets)
    return made


@pytest.mark.parametrize("option", [None, True, False])
@pytest.mark.parametrize("remembered", [None, True, False])
@pytest.mark.parametrize("setting", ["on", "off"])
def test_the_option_before_what_is_remembered_before_the_setting(
    home: Path, monkeypatch: pytest.MonkeyPatch, option: bool | None, remembered: bool | None, setting: str
) -> None:
    monkeypatch.setenv("WARREN_EDGE", setting)
    if remembered is not None:
        platforms.remember_edge(remembered)
    found = Session(FakeRunner(), edge=option).settings.edge  # type: ignore[arg-type]
    said = next((one for one in (option, remembered) if one is not None), setting == "on")
    assert found == ("on" if said else "off")


def test_it_holds_until_down(home: Path, secrets: Secrets) -> None:
    platform = Platform()
    stack.up(session(secrets, platform, home), None, edge=True)
    assert platforms.remembered_edge() is True
    stack.up(session(secrets, platform, home), None)
    assert platforms.remembered_edge() is True
    stack.up(session(secrets, platform, home), None, edge=False)
    assert platforms.remembered_edge() is False
    stack.down(session(secrets, platform, home), volumes=False, yes=False)
    assert platforms.remembered_edge() is None


def test_a_dry_up_remembers_nothing(home: Path, secrets: Secrets) -> None:
    stack.up(session(secrets, Platform(), home, dry=True), None, edge=True)
    assert platforms.remembered_edge() is None


class Failing(Platform):
    def up(self, workers: int | None) -> None:
        raise WarrenError("port 8443 is taken", ExitCode.PORT)


@pytest.mark.parametrize(("there", "said"), [([], None), ([one("edge")], True)])
def test_an_up_that_fails_before_it_did_anything_is_not_remembered(
    home: Path, secrets: Secrets, there: list[Any], said: bool | None
) -> None:
    with pytest.raises(WarrenError):
        stack.up(session(secrets, Failing([one("rabbitmq"), *there]), home), None, edge=True)
    assert platforms.remembered_edge() is said


def test_both_options_contradict_each_other(menu: Menu, home: Path) -> None:
    ended = menu("up", "--edge", "--no-edge")
    assert (ended.code, ended.err) == (2, "error: --edge and --no-edge contradict each other; choose one\n")


@pytest.mark.parametrize(
    ("option", "code", "line"),
    [
        (True, ExitCode.USAGE, "leave --edge away, or add --platform compose"),
        (None, ExitCode.SETTINGS, "take WARREN_EDGE=on out of the settings, or set WARREN_PLATFORM=compose"),
    ],
)
@pytest.mark.parametrize("name", ["local", "kubernetes"])
def test_other_platforms_refuse_it(
    home: Path, secrets: Secrets, monkeypatch: pytest.MonkeyPatch, option: bool | None, code: int, line: str, name: str
) -> None:
    monkeypatch.setenv("WARREN_EDGE", "off" if option else "on")
    platform = Platform()
    platform.name = name
    with pytest.raises(WarrenError) as caught:
        stack.up(session(secrets, platform, home), None, edge=option)
    assert str(caught.value) == f"the edge works with Docker Compose, and this is the platform {name}; {line}"
    assert caught.value.code is code
    assert platform.calls == []
    assert platforms.remembered_edge() is None


# --- what is printed


class Edged(Platform):
    def endpoints(self) -> Endpoints:
        return Endpoints(
            host="127.0.0.1", amqp=1, management=2, prometheus=3, flower=4, monitor=5, edge="https://h:6", ca="ca.crt"
        )


def test_up_and_open_tell_its_addresses(
    home: Path, secrets: Secrets, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.up(session_on(Edged(), secrets, edge="on"), None)
    for page, path in (("monitor", ""), ("flower", "flower/"), ("rabbitmq", "rabbitmq/")):
        stack.open_page(session_on(Edged(), secrets, dry=True), page)
        said = capsys.readouterr().out
        assert f"https://h:6/{path}  (user " in said
    stack.addresses(session_on(Edged(), secrets))
    said = capsys.readouterr().out
    assert "http://" not in said
    assert "a CA of this stack's own, ca.crt: docs/edge.md says how to trust it" in said


def test_it_is_a_service_only_while_it_is_on(home: Path, secrets: Secrets) -> None:
    platform = Platform()
    with pytest.raises(WarrenError, match=r"^the edge is off; `invoke up --edge` turns it on$") as caught:
        stack.restart(session_on(platform, secrets), ["edge"])
    assert caught.value.code is ExitCode.UNKNOWN
    stack.restart(session_on(platform, secrets, edge="on"), ["edge"])
    stack.restart(session_on(platform, secrets, edge="on"), [])
    stack.logs(session_on(platform, secrets, edge="on"), [], False, 5)
    everything = ["rabbitmq", "worker", "monitor", "flower", "edge"]
    assert platform.calls == [("restart", ["edge"]), ("restart", everything), ("logs", everything, False, 5)]
