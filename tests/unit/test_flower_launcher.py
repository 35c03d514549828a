"""``python -m app.flower`` without a broker: it starts, says how it is, and ends as it should."""

from __future__ import annotations

import json
import re
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flower.urls
import pytest
from tornado.web import RequestHandler, URLSpec, create_signed_value

from deploy.ports import any_free
from deploy.secrets import NAMES, Secrets
from deploy.services import FLOWER_OAUTH, environments
from deploy.settings import Settings
from tests.support.eventually import eventually
from tests.support.login import basic
from tests.support.ports import needs_ipv6
from tests.support.processes import PYTHON, Process

HOST = "127.0.0.1"
LOGIN = basic("operator", "secret")

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


class Stays(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def ask(port: int, path: str, login: str = "", *, method: str = "GET", cookie: str = "") -> tuple[int, str]:
    """Status and text of an answer; of one that leads elsewhere, where to."""
    headers = {name: value for name, value in (("Authorization", login), ("Cookie", cookie)) if value}
    request = urllib.request.Request(f"http://{HOST}:{port}{path}", headers=headers, method=method)
    try:
        with urllib.request.build_opener(Stays).open(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Location"] or error.read().decode()


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
        basic("é", "é"),
    ):
        assert [ask(port, path, login)[0] for path in ("/", "/api/tasks", "/metrics")] == [401, 401, 401], login
    assert sum("trying again until it works" in line for line in flower.lines) == 1
    assert "hidden" not in flower.text
    assert flower.end() == 0
    assert "Traceback" not in flower.text


# What needs no login: how Flower is, how its pages look, how to log in, and that something is not there.
OPEN = {"/healthcheck", "/readyz", r"/static/(.*)", "/login/?", "/logout", ".*"}


def closed(port: int) -> set[int]:
    """What all pages but these answer who is not logged in, whatever is asked of them."""
    specs = [page if isinstance(page, URLSpec) else URLSpec(*page) for page in flower.urls.handlers]
    pages = {spec.regex.pattern.removesuffix("$"): spec.handler_class for spec in specs}
    assert pages.keys() >= OPEN - {"/readyz"}
    found = {
        (pattern, method): ask(port, re.sub(r"\(\.[+*]\)", "some-id", pattern), method=method)[0]
        for pattern, handler in pages.items()
        if pattern not in OPEN
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
        if getattr(handler, method.lower()) is not getattr(RequestHandler, method.lower())
    }
    assert len(found) >= 28, found
    return set(found.values())


def test_no_page_is_open_but_these(make: Make, port: int) -> None:
    answers(port, make())
    assert closed(port) == {401}
    assert [ask(port, page)[0] for page in ("/healthcheck", "/readyz", "/static/js/flower.js")] == [200, 503, 200]
    assert [ask(port, page)[0] for page in ("/login", "/some-page", "/static/../app.py")] == [404, 404, 403]


def test_a_port_that_is_taken(make: Make, port: int) -> None:
    with socket.create_server((HOST, port)):
        flower = make()
        assert flower.popen.wait(60) == 1
    assert f"error: Flower can't listen on port {port} (Address already in use)" in flower.lines[-1]
    assert "Traceback" not in flower.text


@needs_ipv6
def test_without_an_address_it_listens_on_all_of_both_families(make: Make, port: int) -> None:
    answers(port, make(FLOWER_ADDRESS=""))
    socket.create_connection(("::1", port), timeout=20).close()


def test_a_wrong_setting(make: Make) -> None:
    flower = make(FLOWER_READY_SECONDS="soon")
    assert flower.popen.wait(60) == 3
    assert flower.lines[-1].startswith("error: FLOWER_READY_SECONDS=soon (in the environment) is not a number")
    flower = make(FLOWER_AUTH="*@example.org")
    assert flower.popen.wait(60) == 3
    assert flower.lines[-1].endswith("; write for example FLOWER_AUTH=.*@example.org")
    flower = make(FLOWER_AUTH_PROVIDER="flower.views.auth.GoogleAuth2LoginHandler")
    assert flower.popen.wait(60) == 3
    assert flower.lines[-1].startswith("error: a login by OAuth needs FLOWER_AUTH, FLOWER_OAUTH2_KEY, ")


PROVIDERS = {
    "GoogleAuth2LoginHandler": "https://accounts.google.com/",
    "GithubLoginHandler": "https://github.com/login/oauth/authorize?",
    "GitLabLoginHandler": "https://gitlab.example.org/oauth/authorize?",
    "OktaLoginHandler": "https://shop.okta.example.org/oauth2/v1/authorize?",
}


def user(address: str, secret: str) -> str:
    """The cookie of who was logged in by a provider."""
    return f"user={create_signed_value(secret, 'user', address).decode()}"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_login_elsewhere(make: Make, port: int, provider: str) -> None:
    settings = Settings(
        flower_auth_provider=f"flower.views.auth.{provider}",
        flower_auth=".*@example.org",
        flower_oauth2_key="the-key",
        flower_oauth2_secret="hidden-key",
        flower_oauth2_redirect_uri="https://flower.example.org/login",
        flower_gitlab_oauth_domain="gitlab.example.org",
        flower_oauth2_okta_base_url="https://shop.okta.example.org/oauth2",
    )
    secrets = Secrets({name: name for name in NAMES})
    wanted = environments(settings, secrets, HOST, 9, 9)["flower"]
    assert "FLOWER_BASIC_AUTH" not in wanted
    variables = ("FLOWER_AUTH", "FLOWER_O", "FLOWER_G", "FLOWER_COOKIE")
    own = {name: value for name, value in wanted.items() if name.startswith(variables)}
    cookie_secret = own["FLOWER_COOKIE_SECRET"]
    # As pods have it: the others are empty, and the password is there too.
    empty = {name.upper(): "" for name in FLOWER_OAUTH if name.upper() not in own}
    own = {**empty, "FLOWER_BASIC_AUTH": "operator:flower-login", **own}
    flower = make(FLOWER_METRICS_TOKEN="let-me-in", FLOWER_LOGGING="debug", **own)
    answers(port, flower)
    for path in ("/", "/tasks", "/api/tasks"):
        status, found = ask(port, path)
        assert (status, found.partition("=")[0]) == (302, "/login?next")
        # Who was let in stays in, and nobody else: by no address of another domain, no cookie of one's own making.
        assert ask(port, path, cookie=user("ann@example.org", cookie_secret))[0] == 200
        assert ask(port, path, cookie=user("ann@example.com", cookie_secret))[0] == 302
        assert ask(port, path, cookie=user("ann@example.org", "guess"))[0] == 302
        assert ask(port, path, cookie="user=ann@example.org")[0] == 302
    # A POST is refused for want of Flower's own token.
    assert closed(port) <= {302, 401, 403}
    status, found = ask(port, "/login")
    assert status == 302
    assert found.startswith(PROVIDERS[provider])
    assert "client_id=the-key" in found
    assert "redirect_uri=https%3A%2F%2Fflower.example.org%2Flogin" in found
    # A password is no way in.
    assert ask(port, "/metrics", LOGIN)[0] == 401
    assert ask(port, "/metrics", "Bearer let-me-in")[0] == 503
    assert ask(port, "/healthcheck")[0] == 200
    # Flower's own banner has all settings.
    assert "[D " in flower.text
    assert "hidden" not in flower.text
    assert cookie_secret not in flower.text


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
    secrets = {"FLOWER_COOKIE_SECRET": "hidden-cookie", "FLOWER_METRICS_TOKEN": "hidden-token"}
    flower = make(PYTHON, "-m", "app.flower", "--url-prefix=/under/here", "--logging=debug", **secrets)
    eventually(lambda: ask(port, "/under/here/healthcheck")[0] == 200, 60, flower.tail)
    assert ask(port, "/healthcheck")[0] == 200
    # Prometheus need not know the prefix, nor people who come by another way.
    assert ask(port, "/metrics", "Bearer hidden-token")[0] == 503
    assert [ask(port, page) for page in ("/", "/under/here")] == [(302, "/under/here/")] * 2
    assert [ask(port, f"/under/here/{page}", LOGIN)[0] for page in ("", "tasks")] == [200, 200]
    assert ask(port, "/tasks", LOGIN)[0] == 404
    flower.signal(number)
    assert flower.popen.wait(60) == 0
    assert "[D " in flower.text
    # Nor the broker's password.
    assert "hidden" not in flower.text
