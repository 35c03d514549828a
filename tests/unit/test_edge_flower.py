"""Flower with a login elsewhere, as a proxy asks it: below a prefix, over HTTP, in the name of a browser that has HTTPS."""

from __future__ import annotations

import http.client
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import pytest
from tornado.web import create_signed_value, decode_signed_value

from deploy.platforms.compose import edge
from deploy.ports import any_free
from deploy.secrets import NAMES, Secrets
from deploy.services import environments
from deploy.settings import Settings
from tests.support.eventually import eventually
from tests.support.processes import PYTHON, Process

HOST = "127.0.0.1"
SECRETS = Secrets({name: f"{name}-secret" for name in NAMES})

# What Caddy sends along.
BROWSER = {"Host": "tasks.example.org", "X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7"}

Answer = tuple[int, http.client.HTTPMessage]


def ask(
    port: int, path: str, cookie: str = "", method: str = "GET", headers: Mapping[str, str] = MappingProxyType(BROWSER)
) -> Answer:
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    try:
        connection.request(method, path, headers={**headers, **({"Cookie": cookie} if cookie else {})})
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers
    finally:
        connection.close()


def signed(name: str, value: str, secret: str = SECRETS["flower-cookie"]) -> str:
    return f"{name}={create_signed_value(secret, name, value).decode()}"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("flower")
    settings = Settings(
        flower_auth_provider="flower.views.auth.GithubLoginHandler",
        flower_auth="ann@example.org",
        flower_oauth2_key="the-key",
        flower_oauth2_secret="hidden",
        flower_oauth2_redirect_uri="https://tasks.example.org/flower/login",
    )
    found = any_free(HOST, set())
    values = {
        # Nobody listens at the broker's port.
        **environments(settings, SECRETS, HOST, 9, 9)["flower"],
        **edge.BEHIND["flower"],
        # As behind proxies that let HTTP through; the edge does not.
        "WARREN_HTTPS_ONLY": "true",
        **{"FLOWER_ADDRESS": HOST, "FLOWER_PORT": str(found), "FLOWER_DB": str(folder / "state")},
    }
    process = Process([PYTHON, "-m", "app.flower"], values, folder / "flower.log")
    try:
        eventually(lambda: ask(found, "/healthcheck")[0] == 200, 60, process.tail)
        yield found
    finally:
        process.kill()


def test_who_is_not_logged_in_is_sent_to_the_provider_and_back_below_the_prefix(port: int) -> None:
    status, headers = ask(port, "/flower/tasks")
    assert (status, headers["Location"]) == (302, "/flower/login?next=%2Fflower%2Ftasks")
    status, headers = ask(port, "/flower/login")
    assert status == 302
    assert "redirect_uri=https%3A%2F%2Ftasks.example.org%2Fflower%2Flogin" in headers["Location"]
    # For all paths: the browser brings it back to the return path.
    cookie = headers["Set-Cookie"]
    assert cookie.startswith("oauth_state=") and "Path=/;" in f"{cookie};"
    # For HTTPS only, which Flower itself does not speak.
    assert "; Secure" in cookie
    value = cookie.partition(";")[0].partition("=")[2].strip('"')
    state = decode_signed_value(SECRETS["flower-cookie"], "oauth_state", value)
    assert state and f"state={state.decode()}" in headers["Location"]


def test_the_return_path_believes_only_who_was_sent(port: int) -> None:
    assert ask(port, "/flower/login?code=x&state=one")[0] == 403
    assert ask(port, "/flower/login?code=x&state=one", signed("oauth_state", "two"))[0] == 403


@pytest.mark.parametrize("path", ["/flower/", "/flower/tasks", "/flower/api/tasks"])
def test_a_login_is_kept_by_its_cookie(port: int, path: str) -> None:
    assert ask(port, path, signed("user", "ann@example.org"))[0] == 200
    # Signed by somebody else.
    assert ask(port, path, signed("user", "ann@example.org", "another-secret"))[0] in {302, 401}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/", "/flower/tasks?x=1", "/flower/api/task/revoke/x", "/healthcheck"])
def test_who_came_by_http_is_led_to_https_before_anything_else(port: int, path: str, method: str) -> None:
    status, headers = ask(port, path, method=method, headers=BROWSER | {"X-Forwarded-Proto": "http"})
    assert (status, headers["Location"], headers["Set-Cookie"]) == (308, f"https://tasks.example.org{path}", None)


def test_who_came_through_no_proxy_is_answered(port: int) -> None:
    assert [ask(port, path, headers={})[0] for path in ("/healthcheck", "/flower/healthcheck")] == [200, 200]


def test_another_site_cannot_use_it(port: int) -> None:
    """Without the form's own word the cookie alone revokes nothing."""
    assert ask(port, "/flower/api/task/revoke/x", signed("user", "ann@example.org"), "POST")[0] == 403
