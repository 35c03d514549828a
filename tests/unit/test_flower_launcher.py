"""``python -m app.flower`` without a broker: it starts, says how it is, and ends as it should."""

from __future__ import annotations

import base64
import json
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.ports import any_free
from deploy.secrets import NAMES, Secrets
from deploy.services import environments
from deploy.settings import Settings
from tests.support.eventually import eventually
from tests.support.processes import PYTHON, Process

HOST = "127.0.0.1"
LOGIN = "Basic " + base64.b64encode(b"operator:secret").decode()

Make = Callable[..., Process]


@pytest.fixture
def port() -> int:
    return any_free(HOST, set())


@pytest.fixture
def make(tmp_path: Path, port: int) -> Iterator[Make]:
    running: list[Process] = []

    def start(*command: str, **values: str) -> Process:
        variables = {
            # Nobody listens there.
            **{"CELERY_BROKER_URL": f"amqp://flower:hidden@{HOST}:9/warren", "FLOWER_BASIC_AUTH": "operator:secret"},
            **{"FLOWER_ADDRESS": HOST, "FLOWER_PORT": str(port), "FLOWER_ENABLE_EVENTS": "false"},
            **{"FLOWER_DB": str(tmp_path / "flower"), "FLOWER_PERSISTENT": "true", **values},
        }
        if "FLOWER_AUTH" in values:
            del variables["FLOWER_BASIC_AUTH"]
        running.append(Process(command or [PYTHON, "-m", "app.flower"], variables, tmp_path / "flower.log"))
        return running[-1]

    yield start
    for one in running:
        one.kill()


def ask(port: int, path: str, login: str = "") -> tuple[int, str]:
    request = urllib.request.Request(f"http://{HOST}:{port}{path}", headers={"Authorization": login} if login else {})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def answers(port: int, process: Process) -> None:
    eventually(lambda: ask(port, "/healthcheck")[0] == 200, 60, process.tail)


def test_without_a_broker(make: Make, port: int) -> None:
    flower = make()
    answers(port, flower)
    eventually(lambda: "no broker at 127.0.0.1:9" in ask(port, "/readyz")[1], 30, flower.tail)
    status, text = ask(port, "/readyz")
    assert (status, text.count("\n")) == (503, 1)
    assert ask(port, "/tasks", LOGIN)[0] == 200
    assert json.loads(ask(port, "/api/tasks", LOGIN)[1]) == {}
    # Before they hold what the log has, they would be taken for a fall.
    assert ask(port, "/metrics", LOGIN)[0] == 503
    for login in (
        "",
        LOGIN[:-4],
        "Basic !!!",
        "Basic",
        "Bearer ",
        "Basic " + base64.b64encode("é:é".encode()).decode(),
    ):
        assert [ask(port, path, login)[0] for path in ("/", "/api/tasks", "/metrics")] == [401, 401, 401], login
    assert sum("trying again until it works" in line for line in flower.lines) == 1
    assert "hidden" not in flower.text
    assert flower.end() == 0
    assert "Traceback" not in flower.text


def test_a_port_that_is_taken(make: Make, port: int) -> None:
    with socket.create_server((HOST, port)):
        flower = make()
        assert flower.popen.wait(60) == 1
    assert f"error: Flower can't listen on port {port} (Address already in use)" in flower.lines[-1]
    assert "Traceback" not in flower.text


def test_a_wrong_setting(make: Make) -> None:
    flower = make(FLOWER_READY_SECONDS="soon")
    assert flower.popen.wait(60) == 3
    assert flower.lines[-1].startswith("error: FLOWER_READY_SECONDS=soon (in the environment) is not a number")


PROVIDERS = {
    "GoogleAuth2LoginHandler": "https://accounts.google.com/",
    "GithubLoginHandler": "https://github.example.org/login/oauth/authorize?",
    "GitLabLoginHandler": "https://gitlab.example.org/oauth/authorize?",
    "OktaLoginHandler": "https://shop.okta.example.org/oauth2/v1/authorize?",
}


class Stays(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def sent_to(port: int, path: str) -> str:
    """Where a page leads who is not logged in."""
    try:
        urllib.request.build_opener(Stays).open(f"http://{HOST}:{port}{path}", timeout=20)
    except urllib.error.HTTPError as error:
        assert error.code == 302
        return str(error.headers["Location"])
    raise AssertionError(path)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_login_elsewhere(make: Make, port: int, provider: str) -> None:
    settings = Settings(
        flower_auth_provider=f"flower.views.auth.{provider}",
        flower_auth="*@example.org",
        flower_oauth2_key="the-key",
        flower_oauth2_secret="hidden",
        flower_oauth2_redirect_uri="https://flower.example.org/login",
        flower_github_oauth_domain="github.example.org",
        flower_gitlab_oauth_domain="gitlab.example.org",
        flower_oauth2_okta_base_url="https://shop.okta.example.org/oauth2",
    )
    secrets = Secrets({name: name for name in NAMES})
    wanted = environments(settings, secrets, HOST, 9, 9)["flower"]
    assert "FLOWER_BASIC_AUTH" not in wanted
    own = {name: value for name, value in wanted.items() if name.startswith(("FLOWER_AUTH", "FLOWER_O", "FLOWER_G"))}
    flower = make(FLOWER_METRICS_TOKEN="let-me-in", **own)
    answers(port, flower)
    for path in ("/", "/tasks", "/api/tasks"):
        assert sent_to(port, path).startswith("/login?next=")
    found = sent_to(port, "/login")
    assert found.startswith(PROVIDERS[provider])
    assert "client_id=the-key" in found
    assert "redirect_uri=https%3A%2F%2Fflower.example.org%2Flogin" in found
    # A password is no way in, nor is a cookie of one's own making.
    assert ask(port, "/metrics", LOGIN)[0] == 401
    assert ask(port, "/metrics", "Bearer let-me-in")[0] == 503
    assert ask(port, "/healthcheck")[0] == 200


# A receiver that hangs, as none of ours is known to do.
HANGS = """
import os, sys, threading
from app.flower import receiver
receiver.Receiver.run = lambda self: threading.Event().wait()
from app.flower.__main__ import main
os._exit(main())
"""


def test_a_deaf_one_ends_to_be_started_again(make: Make, port: int) -> None:
    flower = make(PYTHON, "-c", HANGS, FLOWER_DEAF_SECONDS="2")
    assert flower.popen.wait(60) == 1
    assert "nothing was heard of the receiver of events for" in flower.lines[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_its_own_options_work(make: Make, port: int, number: signal.Signals) -> None:
    flower = make(PYTHON, "-m", "app.flower", "--url-prefix=/under/here", "--logging=debug")
    eventually(lambda: ask(port, "/under/here/healthcheck")[0] == 200, 60, flower.tail)
    assert ask(port, "/healthcheck")[0] == 200
    assert ask(port, "/under/here/tasks", LOGIN)[0] == 200
    assert ask(port, "/tasks", LOGIN)[0] == 404
    flower.signal(number)
    assert flower.popen.wait(60) == 0
