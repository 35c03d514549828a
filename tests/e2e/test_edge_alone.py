"""The edge's container with nothing behind it: what its configuration says for each kind of certificate, what it answers
by itself, and what it writes into its log. It needs no stack.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import docker
import pytest
from docker.models.containers import Container

from deploy.paths import ROOT
from deploy.platforms.compose import edge
from deploy.settings import Settings
from tests.support import containers
from tests.support.edge import PATIENCE
from tests.support.eventually import eventually
from tests.support.ports import free_port

SETTINGS = Settings()
FILE = "/etc/caddy/Caddyfile"
HSTS = ("Strict-Transport-Security", "max-age=31536000")


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    if why := containers.lacking(SETTINGS.caddy_image, "WARREN_CADDY_IMAGE"):
        pytest.skip(why)
    client = docker.from_env()
    yield client
    client.close()


def caddy(settings: Settings, *command: str) -> dict[str, Any]:
    """How the image is run: with the file and the variables of the edge, and without its rights."""
    variables = {name.removeprefix("WARREN_"): value for name, value in edge.variables(settings).items()}
    return {
        "image": settings.caddy_image,
        "command": ["caddy", *command, "--config", FILE, "--adapter", "caddyfile"],
        "environment": {name: value for name, value in variables.items() if name.startswith("EDGE_")},
        "volumes": {str(ROOT / "deploy" / "edge"): {"bind": "/etc/caddy", "mode": "ro"}},
    }


KINDS = {
    "internal": {},
    "acme": {"edge_host": "tasks.example.org"},
    "acme-email": {"edge_host": "tasks.example.org", "edge_email": "ops@example.org"},
}


def headers(part: Any) -> set[tuple[str, str]]:
    """All headers that handlers of a part of Caddy's own configuration set or add."""
    if isinstance(part, list):
        return set().union(*map(headers, part))
    if not isinstance(part, dict):
        return set()
    said = part.get("response", {}) if part.get("handler") == "headers" else {}
    here = {**said.get("set", {}), **said.get("add", {})}
    return {(name, value) for name, values in here.items() for value in values}.union(*map(headers, part.values()))


@pytest.mark.parametrize("kind", KINDS)
def test_its_configuration_holds_for_each_kind_of_certificate(engine: docker.DockerClient, kind: str) -> None:
    settings = Settings(edge="on", **KINDS[kind])  # type: ignore[arg-type]
    assert edge.variables(settings)["WARREN_EDGE_TLS"] == kind
    run = partial(engine.containers.run, remove=True, network_mode="none")
    assert b"Valid configuration" in run(**caddy(settings, "validate"), stderr=True)
    servers = json.loads(run(**caddy(settings, "adapt")))["apps"]["http"]["servers"].values()
    (site,) = [one for one in servers if one["listen"] == [":8443"]]
    # Both what is behind it answers, and what it says when that fails.
    told = [HSTS in headers(part) for part in (site["routes"], site["errors"]["routes"])]
    assert told == [kind != "internal"] * 2


class Alone:
    def __init__(self, container: Container, port: int) -> None:
        self.container = container
        self.port = port

    def ask(self, path: str, sent: Mapping[str, str] | None = None) -> tuple[int, http.client.HTTPMessage, str]:
        # Whose certificate it is, test_edge.py asks.
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=PATIENCE, context=context)
        try:
            connection.request("GET", path, headers=dict(sent or {}))
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()
        finally:
            connection.close()

    def log(self) -> str:
        return str(self.container.logs().decode())

    def serves(self) -> bool:
        try:
            return self.ask("/")[0] == 502
        except OSError:
            return False


@pytest.fixture(scope="module")
def alone(engine: docker.DockerClient) -> Iterator[Alone]:
    port = free_port()
    container = engine.containers.run(
        **caddy(Settings(edge="on", edge_https_port=port), "run"), ports={"8443/tcp": ("127.0.0.1", port)}, detach=True
    )
    try:
        made = Alone(container, port)
        eventually(made.serves, 2 * PATIENCE, made.log)
        yield made
    finally:
        container.remove(force=True, v=True)


def secured(said: http.client.HTTPMessage) -> None:
    assert said["X-Content-Type-Options"] == "nosniff"
    assert said["X-Frame-Options"] == "DENY"
    assert said.get_all("Content-Security-Policy") == ["frame-ancestors 'none'"]
    assert said["Referrer-Policy"] == "same-origin"
    assert "Server" not in said
    assert HSTS[0] not in said


@pytest.mark.parametrize("path", ["/", "/flower/", "/rabbitmq/api/overview"])
def test_who_is_away_is_answered_for_with_the_headers_of_security(alone: Alone, path: str) -> None:
    status, said, text = alone.ask(path)
    assert (status, said["Content-Type"]) == (502, "text/plain; charset=utf-8")
    assert text == "502: what is behind this address does not answer; `invoke status` shows what runs\n"
    secured(said)


@pytest.mark.parametrize("path", ["/flower", "/rabbitmq"])
def test_so_is_who_forgot_a_slash(alone: Alone, path: str) -> None:
    status, said, _ = alone.ask(path)
    assert (status, said["Location"]) == (308, f"{path}/")
    secured(said)


def test_its_log_has_requests_but_no_secrets_of_them(alone: Alone) -> None:
    """Nor have the other lines that some versions write of requests that fail."""
    sent = {"Authorization": "Bearer hidden-1", "X-Key": "hidden-2"}
    alone.ask("/flower/login?code=hidden-3&kept=failed&state=hidden-4", sent)
    alone.ask("/flower?code=hidden-5&kept=done", sent)

    def logged() -> set[str]:
        lines = [json.loads(line) for line in alone.log().splitlines() if "kept=" in line]
        found = {line["request"]["uri"] for line in lines}
        return found if len(found) == 2 else set()

    assert eventually(logged, PATIENCE, alone.log) == {"/flower/login?kept=failed", "/flower?kept=done"}
    assert "hidden-" not in alone.log()
