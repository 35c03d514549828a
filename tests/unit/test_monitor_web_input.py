"""Whatever is asked, a history answers or says what is wrong with the question."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from urllib.parse import quote

import pytest

from app.monitor.web.server import PAGES, ROUTES
from tests.support.monitor_history import HOSTILE, HOSTILE_ID, Book
from tests.support.monitor_site import TOKEN, Site, serve

VALUES = (
    *(
        "0001-01-01",
        "9999-12-31T23:59:59.999",
        "0s",
        "999999999w",
        "-1",
        "1e9",
        "NaN",
        "\x00",
        "\ud800\udfff",
        "%",
        "_",
    ),
    *(
        '"',
        "'",
        "*",
        "?",
        "[",
        "*" * 60,
        "a" * 5000,
        "💥",
        HOSTILE,
        "0.0_0_0",
        "-1_-1_-1",
        "1e400_1_1",
        "x,y",
        ",",
        " ",
    ),
    *("SUCCESS,FAILURE", "any", "-runtime", "1000", "task-failed", "AND", "NEAR(a b)", "a OR b*", "\u0130\u0131"),
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    book = Book(tmp_path_factory.mktemp("history"))
    book.hostile()
    book.task()
    with serve(make=book.open) as made:
        yield made
    book.close()


@pytest.mark.parametrize("path", [path for path, handler in (ROUTES | PAGES).items() if handler.parameters])
def test_every_value_of_every_parameter(site: Site, path: str) -> None:
    parameters = (ROUTES | PAGES)[path].parameters
    for name, value in product(parameters, VALUES):
        # A stream of events has no end.
        method = "HEAD" if path == "/events" else "GET"
        address = f"{path}?{name}={quote(value.encode('utf-8', 'surrogatepass'))}"
        answer = site.ask(method, address, Authorization=f"Bearer {TOKEN}")
        assert answer.status in {200, 302, 400}, (address, answer.text)
        if answer.status == 400 and method == "GET" and path in ROUTES:
            assert "\n" not in answer.json["error"]


@pytest.mark.parametrize("path", ["/tasks/{}", "/tasks/{}/family", "/task/{}"])
def test_every_id(site: Site, path: str) -> None:
    for value in VALUES:
        answer = site.get(path.format(quote(value.encode("utf-8", "surrogatepass"), safe="")))
        assert answer.status in {200, 400, 404}, (value, answer.text)
    assert site.get(path.format(quote(HOSTILE_ID, safe=""))).status == 200


def test_two_times_that_make_no_span(site: Site) -> None:
    times = ("0001-01-01", "9999-12-31T23:59:59", "2026-11-22", "1h", "999999999w")
    for path, since, until in product(("/chart", "/tasks", "/"), times, times):
        assert site.get(f"{path}?since={since}&until={until}").status in {200, 400}, (path, since, until)
