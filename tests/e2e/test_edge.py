"""The edge on Compose, put in front of the stack that runs: TLS, what other hosts reach, and Flower in a browser.

The tests share one stack with those of the other files, and leave it without an edge as they found it.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser

from deploy.platforms.compose.edge import CLOSED
from deploy.ports import FIELDS
from deploy.settings import Settings
from tests.support import containers
from tests.support.browser import chromium
from tests.support.checkout import Checkout
from tests.support.edge import PATIENCE, Edge, Looks, refused
from tests.support.eventually import eventually
from tests.support.ports import free_port

# Elsewhere there is none: tests/unit/test_edge.py has how it is refused.
pytestmark = pytest.mark.parametrize("platform", ["compose"], indirect=True, scope="session")


@pytest.fixture(scope="module")
def edge(stack: Checkout) -> Iterator[Edge]:
    if why := containers.lacking(Settings().caddy_image, "WARREN_CADDY_IMAGE"):
        pytest.skip(why)
    ports = [free_port("0.0.0.0"), free_port("0.0.0.0")]
    stack.set(
        # Of both, only the edge's is to hold.
        WARREN_BIND="0.0.0.0",
        WARREN_EDGE_BIND="0.0.0.0",
        WARREN_EDGE_HTTP_PORT=str(ports[0]),
        WARREN_EDGE_HTTPS_PORT=str(ports[1]),
    )
    try:
        done = stack.invoke("up", "--edge")
        made = Edge(stack, *ports)
        assert "http://" not in done.stdout
        assert all(f"{made.url}{path}  (user " in done.stdout for path in ("/", "/flower/", "/rabbitmq/"))
        assert "WARREN_BIND=0.0.0.0 does not hold while the edge is on" in done.stderr
        yield made
    finally:
        stack.set(WARREN_BIND="127.0.0.1")
        said = stack.invoke("up", "--no-edge").stdout
        # No command of the menu throws the key of a CA away.
        volume = f"{stack.project}_edge"
        removed = subprocess.run(["docker", "volume", "rm", volume], capture_output=True, text=True, check=False).stdout
    assert "https://" not in said
    assert "edge" not in {one["service"] for one in stack.json("status")["instances"]}
    assert refused("127.0.0.1", ports[1])
    assert removed.strip() == volume


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


@pytest.fixture
def flower(edge: Edge, browser: Browser) -> Iterator[Looks]:
    """A page in Flower's realm, in which nothing may fail."""
    looks = Looks(browser, edge)
    yield looks
    looks.context.close()
    assert looks.wrong == []


# --- the stack behind it


def test_commands_know_it_and_reach_what_they_need(edge: Edge) -> None:
    stack = edge.stack
    (shown,) = [one for one in stack.json("status")["instances"] if one["service"] == "edge"]
    assert (shown["state"], shown["ready"]) == ("running", True)
    assert f"{edge.url}/flower/" in stack.invoke("open", "flower", "--dry").stdout
    assert stack.invoke("call", "add", "2", "3", "--wait").stdout == "5\n"
    assert "default" in {queue["queue"] for queue in stack.json("queues")}
    assert stack.json("history")["tasks"]
    assert "certificate obtained" in stack.invoke("logs", "edge", "--tail", "1000").stdout


def test_an_up_without_the_option_keeps_it_and_changes_nothing(edge: Edge) -> None:
    before = edge.stack.containers()
    assert edge.url in edge.stack.invoke("up").stdout
    assert edge.stack.containers() == before


def test_its_configuration_is_valid_and_formatted(edge: Edge) -> None:
    where = "/etc/caddy/Caddyfile"
    caddy = ("exec", "edge", "--", "caddy")
    assert edge.stack.invoke(*caddy, "validate", "--config", where, "--adapter", "caddyfile").returncode == 0
    assert edge.stack.invoke(*caddy, "fmt", where).stdout == (edge.stack.folder / "deploy/edge/Caddyfile").read_text()


def network(stack: Checkout) -> dict[str, Any]:
    name = f"{stack.project}_warren"
    said = subprocess.run(["docker", "network", "inspect", name], capture_output=True, text=True, check=True).stdout
    return dict(json.loads(said)[0])


def test_other_hosts_reach_the_edge_and_nothing_else(edge: Edge) -> None:
    # An address of this host beside its own loopback: that of its bridge to the stack's network.
    address = network(edge.stack)["IPAM"]["Config"][0]["Gateway"]
    assert not refused(address, edge.https_port)
    settings = edge.stack.json("config")["settings"]
    ports = {field: int(settings[f"WARREN_{field.upper()}"]) for field in FIELDS}
    assert [field for field, port in ports.items() if not refused(address, port)] == []
    # For the commands of this host; they need none of Flower, nor of the broker's metrics, which have no login.
    assert {field for field, port in ports.items() if refused("127.0.0.1", port)} == CLOSED


# --- HTTPS


def test_http_leads_to_the_one_address(edge: Edge) -> None:
    with socket.create_connection(("127.0.0.1", edge.http_port), PATIENCE) as connection:
        connection.sendall(b"GET /flower/?x=1 HTTP/1.0\r\nHost: elsewhere.example\r\n\r\n")
        answer = connection.makefile().read()
    assert answer.startswith("HTTP/1.0 308 ")
    assert f"Location: {edge.url}/flower/?x=1\n" in answer


def test_its_certificate_is_of_its_own_ca_and_http_2_is_spoken(edge: Edge) -> None:
    where = ("127.0.0.1", edge.https_port)
    trusting = edge.trusting("h2", "http/1.1")
    with (
        socket.create_connection(where, PATIENCE) as plain,
        trusting.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        assert (secure.selected_alpn_protocol(), secure.version()) == ("h2", "TLSv1.3")
    with socket.create_connection(where, PATIENCE) as plain, pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")


@pytest.mark.parametrize("path", ["/", "/flower/", "/rabbitmq/", "/rabbitmq/api/overview", "/nothing"])
def test_every_answer_has_the_headers_of_security(edge: Edge, path: str) -> None:
    headers = edge.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert "frame-ancestors 'none'" in ", ".join(headers.get_all("Content-Security-Policy") or [])
    assert headers["Referrer-Policy"] in {"no-referrer", "same-origin"}
    assert "Server" not in headers
    # A browser that learns it from a test, or from localhost, would never again speak HTTP there.
    assert "Strict-Transport-Security" not in headers


def test_pages_are_compressed_and_cookies_are_for_https(edge: Edge) -> None:
    answer = edge.get("/flower/", edge.flower_login, **{"Accept-Encoding": "gzip"})
    assert (answer.status, answer.headers["Content-Encoding"]) == (200, "gzip")
    cookies = answer.headers.get_all("Set-Cookie") or []
    assert cookies and all("; Secure" in cookie for cookie in cookies)


def test_nobody_gets_in_without_a_login(edge: Edge) -> None:
    paths = ("/tasks", "/metrics", "/flower/", "/flower/api/tasks", "/flower/metrics", "/rabbitmq/api/overview")
    assert {path: edge.get(path).status for path in paths} == dict.fromkeys(paths, 401)
    assert edge.get("/flower/api/tasks").headers["WWW-Authenticate"] == 'Basic realm="flower"'
    assert edge.get("/flower", edge.flower_login).headers["Location"] == "/flower/"
    assert edge.get("/flower/api/tasks", edge.flower_login).status == 200


def test_a_client_is_known_by_its_address_whatever_it_says_of_it(edge: Edge) -> None:
    """Or it could guess passwords as often as it likes."""
    with edge.ask("/login") as page:
        token = re.search(r'name="_xsrf" value="([^"]+)"', page.read().decode())
        cookie = "; ".join(one.partition(";")[0] for one in page.headers.get_all("Set-Cookie") or [])
    assert token
    lies = {"X-Forwarded-For": "192.0.2.1", "X-Real-IP": "192.0.2.2", "X-Forwarded-Proto": "http", "X-Scheme": "http"}
    headers = {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded", **lies}
    for password, status in (("a guess", 401), (edge.secrets["monitor-viewer"], 303)):
        form = urlencode({"_xsrf": token[1], "password": password})
        with edge.ask("/login", "POST", form, headers) as answer:
            assert answer.status == status
            login = [one for one in answer.headers.get_all("Set-Cookie") or [] if "HttpOnly" in one]
    # Nor can it make its login one for HTTP.
    assert login and all("; Secure" in one for one in login)
    logged = eventually(
        lambda: re.findall(r"a wrong password from (\S+)", edge.stack.invoke("logs", "monitor").stdout), PATIENCE
    )
    inside = {one["IPv4Address"].partition("/")[0] for one in network(edge.stack)["Containers"].values()}
    assert inside
    assert not {*inside, *lies.values()} & set(logged)


def test_events_come_through_as_they_happen(edge: Edge) -> None:
    headers = {"Authorization": f"Bearer {edge.secrets['monitor-token']}", "Accept-Encoding": "gzip"}
    with edge.ask("/events?type=task-succeeded", headers=headers) as stream:
        assert (stream.status, stream.headers["Content-Encoding"]) == (200, None)
        task = edge.stack.invoke("call", "add", "2", "3", "--wait", "--json").stdout
        sent = json.loads(task)["id"].encode()
        assert next(line for line in stream if sent in line).startswith(b"data: ")


# --- in a browser


@pytest.mark.browser
def test_flower_refuses_a_wrong_password(edge: Edge, browser: Browser) -> None:
    looks = Looks(browser, edge, password="a guess")
    try:
        assert looks.go("/flower/").status == 401
    finally:
        looks.context.close()


@pytest.mark.browser
def test_flowers_pages(edge: Edge, flower: Looks) -> None:
    stack = edge.stack
    failed = stack.invoke("call", "fail", '"no stamps left"').stdout.strip()
    for number in range(4):
        stack.invoke("call", "add", str(number), "40", "--wait")
    told = f"/flower/api/task/info/{failed}"
    eventually(lambda: json.loads(edge.get(told, edge.flower_login).body)["state"] == "FAILURE", PATIENCE)
    node = stack.workers()[0]["node"]

    assert flower.go("/flower/").status == 200
    assert "Online" in flower.shows("#workers-table tbody tr", node, "Online")
    flower.picture("flower-workers")

    flower.follow("Tasks")
    assert "FAILURE" in flower.shows("#tasks-table tbody tr", failed, "app.tasks.fail")
    flower.picture("flower-tasks")

    flower.follow(failed)
    assert "no stamps left" in flower.shows(".detail-row", "Traceback", "RuntimeError")
    assert flower.page.locator(".task-uuid-value code").inner_text() == failed
    flower.picture("flower-task")

    flower.follow("Broker")
    # Flower gives the broker a second or two to answer, and shows an empty table where it takes longer.
    rows = flower.page.locator("#queue-table tbody tr", has_text="default")
    flower.reloads_until(lambda: rows.count() > 0, "Flower shows the broker's queues")
    flower.picture("flower-broker")


@pytest.mark.browser
def test_flowers_button_terminates_a_running_task(edge: Edge, flower: Looks) -> None:
    stack = edge.stack
    task = stack.invoke("call", "sleep", "200").stdout.strip()
    eventually(lambda: stack.json("task", task)["state"] == "STARTED", PATIENCE)
    # By its link, as it stands in mails: the browser has not been asked for a password elsewhere yet.
    flower.go(f"/flower/task/{task}")
    button = flower.page.get_by_role("button", name="Terminate")
    flower.reloads_until(button.is_visible, "Flower knows that it runs")
    flower.picture("flower-running-task")
    with flower.page.expect_response(f"**/api/task/revoke/{task}") as answered:
        button.click()
    assert answered.value.status == 200
    eventually(lambda: stack.json("task", task)["state"] == "REVOKED", PATIENCE)
    flower.reloads_until(lambda: flower.page.get_by_text("REVOKED", exact=True).is_visible(), "Flower knows it too")
    # For good: it is in the list that workers read before they take a task.
    assert task in {one["id"] for one in stack.json("revoked")["revoked"]}


@pytest.mark.browser
def test_the_brokers_own_pages(edge: Edge, flower: Looks) -> None:
    flower.go("/rabbitmq/")
    flower.page.locator("input[name=username]").fill("admin")
    flower.page.locator("input[name=password]").fill(edge.secrets["admin"])
    flower.page.get_by_role("button", name="Login").click()
    flower.shows("body", "User admin")
    flower.page.get_by_role("link", name="Queues and Streams").click()
    flower.shows("table.list tbody tr", "celery.events", "stream")
    flower.picture("rabbitmq-queues")


@pytest.mark.browser
def test_the_monitors_page_is_live(edge: Edge, flower: Looks) -> None:
    flower.go("/live")
    flower.page.get_by_label("Password").fill(edge.secrets["monitor-operator"])
    flower.page.get_by_role("button", name="Log in").click()
    flower.page.get_by_role("button", name="Pause").wait_for()

    def told() -> bool:
        # Whether it listens already can't be seen: tasks are sent until one of them is told.
        task = edge.stack.invoke("call", "add", "2", "3", "--wait", "--json").stdout
        return flower.page.locator(f'#tail a[href="task/{json.loads(task)["id"]}"]').count() > 0

    eventually(told, 2 * PATIENCE, "the page tells of a task")
    flower.picture("monitor-live")
