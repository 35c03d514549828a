"""The pages as they come from the server, without a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from app.monitor.web import charts, show
from app.monitor.web.base import HERE
from app.monitor.web.recent import Recent
from tests.support.monitor_site import OPERATOR, VIEWER, Browser, Site, serve, task

HOSTILE = "</pre></code>\"'`><script>alert(1)</script><img src=x onerror=alert(1)>{{ 1/0 }}"
ACTIONS: dict[str, Any] = {
    "monitor_ops_url": "amqp://ops@127.0.0.1:1/x",
    "monitor_producer_url": "amqp://producer@127.0.0.1:1/x",
}

TASKS = [
    task("one"),
    task("two", "FAILURE", root="one", parent="one"),
    task("three", "STARTED", attention="orphaned", root="one", parent="two"),
    task(
        f"id {HOSTILE}/?#%",
        "FAILURE",
        name=f"x.{HOSTILE}",
        args=f"('{HOSTILE}',)",
        kwargs=HOSTILE,
        exception=HOSTILE,
        traceback=HOSTILE,
        worker=HOSTILE,
        queue=HOSTILE,
        sender=HOSTILE,
        result=HOSTILE,
        steps=[{"state": "FAILURE", "time": None, "worker": HOSTILE, "note": HOSTILE}],
    ),
    *(task(f"more-{number}") for number in range(100)),
]


class Elements(HTMLParser):
    """All elements of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def of(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.found if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with serve(TASKS, **ACTIONS) as made:
        yield made


@pytest.fixture(scope="module")
def operator(site: Site) -> Browser:
    browser = site.browser()
    browser.log_in(OPERATOR)
    return browser


@pytest.fixture(scope="module")
def viewer(site: Site) -> Browser:
    browser = site.browser()
    browser.log_in(VIEWER)
    return browser


def ids(elements: Elements) -> list[str]:
    return [link["data-id"] for link in elements.of("a") if "data-id" in link]


def test_the_search(site: Site, viewer: Browser) -> None:
    answer = viewer.get("/")
    assert answer.status == 200
    elements = Elements(answer.text)
    assert len(ids(elements)) == 50
    assert "Needs attention 1 orphaned" in elements.text
    assert "SUCCESS 2" in elements.text
    (older,) = [link["href"] for link in elements.of("a") if link.get("rel") == "next"]
    assert older == "./?cursor=50"
    assert ids(Elements(viewer.get("/?cursor=50").text))[0] == "more-46"


def test_a_search_works_without_a_script(site: Site, viewer: Browser) -> None:
    elements = Elements(viewer.get("/?text=&state=FAILURE&name=&worker=&queue=&since=").text)
    assert ids(elements) == ["two", f"id {HOSTILE}/?#%"]
    assert {"selected": None} in elements.of("option")
    site.reader.searches.clear()
    viewer.get("/?name=add&worker=w1")
    wanted = site.reader.searches[0]
    # What is typed in part finds what it is a part of.
    assert (wanted.name, wanted.worker) == ("*add*", "w1@host")
    site.reader.searches.clear()
    viewer.get("/?name=app.tasks.add&worker=other")
    assert (site.reader.searches[0].name, site.reader.searches[0].worker) == ("app.tasks.add", "other")


def test_a_wrong_search_is_told_in_the_page(viewer: Browser) -> None:
    answer = viewer.get("/?state=FAILED&text=abc")
    assert answer.status == 400
    elements = Elements(answer.text)
    assert "state: there is no 'FAILED'; did you mean FAILURE?" in elements.text
    # What was typed is still there.
    assert "abc" in [one.get("value") for one in elements.of("input")]
    part = viewer.get("/?since=yesterday", X_Part="1")
    assert (part.status, list(part.json)) == (400, ["error"])
    # Other sites add parameters to links.
    assert viewer.get("/?utm_source=mail").status == 200


def test_a_part_is_only_what_changes(viewer: Browser) -> None:
    text = viewer.get("/?state=FAILURE", X_Part="1").text
    assert "<form" not in text
    assert re.findall(r'^<\w+ id="(\w+)"', text, re.MULTILINE) or 'id="results"' in text
    assert {"health", "overview", "results"} <= {one.get("id") for _, one in Elements(text).found}


def test_a_part_without_a_login_is_401(site: Site) -> None:
    assert site.browser().get("/", X_Part="1").status == 401


def test_links_keep_the_rest_of_the_search(viewer: Browser) -> None:
    elements = Elements(viewer.get("/?text=o&since=6h&sort=-runtime").text)
    links = {link["href"] for link in elements.of("a") if link["href"].startswith("./?")}
    assert "./?state=FAILURE&since=6h&text=o&sort=-runtime" in links
    assert "./?since=6h&text=o&sort=runtime" in links
    assert "./?text=o&sort=-runtime" in links


def test_every_link_is_relative(operator: Browser) -> None:
    for path in ("/", "/task/two", "/live", "/workers", "/login", "/none"):
        elements = Elements(operator.get(path).text)
        for _, attributes in elements.found:
            for name in ("href", "src", "action"):
                value = attributes.get(name)
                assert value is None or not value.startswith(("/", "http:", "https:", "//")), (path, value)


def test_one_task(operator: Browser) -> None:
    elements = Elements(operator.get("/task/two").text)
    assert "Failed after 2.00 s on w1@host" in elements.text
    assert "Traceback (most recent call last):" in elements.text
    assert "+0.50 s" in elements.text
    family = [link["href"] for link in elements.of("a") if link["href"] in {"one", "two", "three"}]
    assert {"one", "two", "three"} == set(family)
    actions = {form["action"] for form in elements.of("form")}
    assert actions == {"../logout", "../tasks/two/retry"}
    running = {form["action"] for form in Elements(operator.get("/task/three").text).of("form")}
    assert running == {"../logout", "../tasks/three/revoke", "../tasks/three/retry"}


def test_viewers_see_no_buttons(viewer: Browser) -> None:
    for id in ("two", "three"):
        elements = Elements(viewer.get(f"/task/{id}").text)
        assert [form["action"] for form in elements.of("form")] == ["../logout"]


def test_no_such_task(viewer: Browser) -> None:
    answer = viewer.get("/task/none")
    assert (answer.status, "knows no such task" in answer.text) == (404, True)


def test_what_is_hostile_stays_text(operator: Browser) -> None:
    path = show.path(TASKS[3]["id"])
    for page in ("/", "/?state=FAILURE", f"/task/{path}", f"/?text={path}&name={path}&worker={path}&root={path}"):
        answer = operator.get(page)
        elements = Elements(answer.text)
        assert answer.status == 200
        assert "<img src=x" not in answer.text
        assert [script.get("src") for script in elements.of("script")] != []
        for tag, attributes in elements.found:
            assert tag not in {"iframe", "object", "embed", "base", "style"}
            assert not [name for name in attributes if name.startswith("on") or name == "style"], (page, attributes)
            for name in ("href", "src", "action"):
                assert not (attributes.get(name) or "").lower().startswith(("javascript:", "data:")), (page, attributes)
        assert all(script["src"].startswith(("./static/", "../static/")) for script in elements.of("script"))
    answer = operator.get(f"/task/{path}")
    assert HOSTILE in Elements(answer.text).text


def test_templates_escape_everything() -> None:
    for template in (HERE / "templates").iterdir():
        text = template.read_text()
        assert not re.search(r"\{%\s*(raw|autoescape|module)", text), template.name
        assert not re.search(r"\son\w+=|\sstyle=|<style|javascript:", text), template.name
        # An unquoted attribute ends at a space.
        assert not re.search(r"\s[\w-]+=\{\{", text), template.name


def test_scripts_make_no_html_of_text() -> None:
    for script in (HERE / "static").glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script.read_text()
        )


def test_inputs_have_labels(operator: Browser) -> None:
    for path in ("/", "/live", "/task/three", "/login"):
        elements = Elements(operator.get(path).text)
        labelled = {label.get("for") for label in elements.of("label")}
        for field in elements.of("input") + elements.of("select"):
            if field.get("type") in {"hidden", "checkbox"} or "hidden" in field:
                continue
            assert field["id"] in labelled, (path, field)
        seen = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
        assert len(seen) == len(set(seen)), path


def test_workers_for_people_and_programs(site: Site, viewer: Browser) -> None:
    assert "w1@host" in Elements(viewer.get("/workers").text).text
    assert site.get("/workers").json["workers"][0]["pid"] == 42
    assert site.get("/workers?x=1").status == 400


def test_the_header_says_what_is_wrong(viewer: Browser, site: Site) -> None:
    assert "Up to date" in viewer.get("/").text
    site.status.connected = False
    try:
        assert "not connected to the broker" in viewer.get("/").text
    finally:
        site.status.connected = True


def test_an_empty_history() -> None:
    with serve() as site:
        browser = site.browser()
        browser.log_in(VIEWER)
        assert "No task yet" in browser.get("/").text
        assert "No task matches" in browser.get("/?text=x").text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "\N{EN DASH}"),
        (0, "0 ms"),
        (0.0034, "3 ms"),
        (0.42, "0.42 s"),
        (12.34, "12.3 s"),
        (59.97, "1 min"),
        (125, "2 min 5 s"),
        (3599.9, "1 h"),
        (3780, "1 h 3 min"),
        (187_200, "2 d 4 h"),
        (-1.5, "-1.50 s"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert show.duration(seconds) == text


def test_trees_of_any_shape() -> None:
    family = [
        task("child", root="top", parent="top"),
        task("top", root="top"),
        task("grandchild", root="top", parent="child"),
        task("lost", root="top", parent="gone"),
        task("a", root="top", parent="b"),
        task("b", root="top", parent="a"),
        task("self", root="top", parent="self"),
    ]
    shown = [(depth, one["id"]) for depth, one in show.tree(family)]
    assert shown[:3] == [(0, "top"), (1, "child"), (2, "grandchild")]
    assert sorted(id for _, id in shown) == sorted(one["id"] for one in family)
    chain = [task(str(number), parent=str(number - 1)) for number in range(500)]
    assert max(depth for depth, _ in show.tree(chain)) == 8


def test_who_sent_comes_before_who_received() -> None:
    def step(state: str, second: float) -> dict[str, Any]:
        return {"state": state, "time": f"2026-11-22T13:20:{second:06.3f}Z", "worker": None, "note": None}

    quick = task("x", steps=[step("RECEIVED", 1), step("PENDING", 1.002), step("STARTED", 1.5)])
    assert [(one["state"], one["after"]) for one in show.steps(quick)] == [
        ("PENDING", None),
        ("RECEIVED", 0.0),
        ("STARTED", 0.5),
    ]
    again = task("x", steps=[step("RECEIVED", 1), step("PENDING", 9)])
    assert [one["state"] for one in show.steps(again)] == ["RECEIVED", "PENDING"]


def point(number: int, **counts: Any) -> dict[str, Any]:
    none = {"succeeded": 0, "failed": 0, "retried": 0, "revoked": 0, "runtime_mean": None, "runtime_max": None}
    return {"time": f"2026-11-22T13:{number:02}:00.000Z", **none, **counts}


def test_charts() -> None:
    points = [point(0), point(1, succeeded=1000, failed=1, runtime_mean=0.5, runtime_max=2.0), point(2, succeeded=500)]
    until = datetime(2026, 11, 22, 13, 3, tzinfo=UTC)
    outcomes = charts.outcomes(points, until)
    assert [len(bar.parts) for bar in outcomes.bars] == [0, 2, 1]
    assert outcomes.top == "1,001"
    # One failure among thousands is seen.
    (kind, y, height), _ = outcomes.bars[1].parts
    assert (kind, y + height, height >= charts.LEAST) == ("failed", 100, True)
    assert outcomes.bars[1].title == "Nov 22 13:01 to 13:02 UTC: 1,000 succeeded, 1 failed"
    assert outcomes.bars[2].until == "2026-11-22T13:03:00.000Z"
    assert all(0 <= y <= 100 for bar in outcomes.bars for _, y, _ in bar.parts)
    runtimes = charts.runtimes(points, until)
    assert runtimes.bars[1].parts == [("max", 0.0, 100.0), ("mean", 75.0, 25.0)]
    assert runtimes.words == "mean 0.50 s, longest 2.00 s"
    nothing = charts.runtimes([point(0)], until)
    assert (nothing.words, nothing.bars[0].parts) == ("nothing ran", [])


def test_what_charts_show() -> None:
    now = datetime.now(UTC)
    assert charts.window(None, None, None)[2:] == (60, "Last hour")
    # Whole minutes: with a part of one more, each of the 60 points would be two minutes long.
    assert all(moment.second == moment.microsecond == 0 for moment in charts.window(None, None, "1h")[:2])
    since, until, points, words = charts.window(now - timedelta(days=7), None, "7d")
    assert (until - since, points, words) == (timedelta(days=7), 84, "Last 7 days")
    since, until, points, words = charts.window(now - timedelta(minutes=3), now - timedelta(minutes=1), "x")
    assert (until - since, points, words) == (timedelta(minutes=2), 2, "Chosen time")
    since, until, _, _ = charts.window(now, now - timedelta(days=1), "x")
    assert since < until


def test_the_files_are_small() -> None:
    # No build step and no library: what is written here is what is sent.
    sizes = {file.name: file.stat().st_size for file in Path(HERE / "static").iterdir()}
    assert sum(sizes.values()) < 60_000, sizes


def test_recent_answers() -> None:
    now = [0.0]
    made: list[str] = []
    recent = Recent(lambda: now[0])

    def ask(what: str, seconds: float = 10) -> str:
        return recent.get(what, seconds, lambda: made.append(what) or f"{what} {len(made)}")

    assert [ask("a"), ask("a"), ask("b")] == ["a 1", "a 1", "b 2"]
    now[0] = 10
    assert ask("a") == "a 3"
    assert ask("a", 0) == "a 4"
    for number in range(100):
        ask(str(number))
    assert len(recent._kept) == 64  # noqa: SLF001, RUF100
