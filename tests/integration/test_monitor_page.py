"""The monitor's page in a real browser, over a real history with a hostile task in it."""

from __future__ import annotations

import http.client
import http.server
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, expect

from app import factory
from tests.support.browser import CHANGED, PATIENCE, chromium, go
from tests.support.eventually import eventually
from tests.support.monitor_history import HOSTILE, HOSTILE_ID, Book
from tests.support.monitor_site import OPERATOR, VIEWER, FakeBroker, Site, serve

pytestmark = pytest.mark.browser

ROLES: dict[str, Any] = {"monitor_ops_url": "amqp://ops@broker/x", "monitor_producer_url": "amqp://producer@broker/x"}
PAGES = ("/", "/?state=FAILURE", "/?text=zzzzzz", "/live", "/workers")

# Colours of text on their ground: for each element with text of its own, the contrast as WCAG 2 reckons it.
CONTRASTS = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => {
    const part = (v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const ground = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = parse(getComputedStyle(one).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.body.querySelectorAll("*")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    const box = element.getBoundingClientRect();
    if (!own || box.width < 2 || element.closest("svg, .hidden, [hidden], option, datalist, title")) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`${element.tagName}.${element.className} ${element.textContent.slice(0, 30)}: ${ratio}`);
  }
  return found;
}"""


@pytest.fixture(scope="module", autouse=True)
def empty_queues() -> None:
    """No broker is needed here."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def broker() -> Iterator[FakeBroker]:
    made = FakeBroker()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factory, "client", made.client)
        yield made


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Book]:
    made = Book(tmp_path_factory.mktemp("history"))
    made.event(
        "worker-heartbeat", "", 0, sw_ident="py-celery", sw_ver="5.7.0", active=1, processed=7, loadavg=[1, 2, 3]
    )
    made.event("worker-online", "", 500, hostname="worker-2@warren")
    for number in range(120):
        made.task(ago=1000 + number, sent={"args": f"({number}, 'order-{number}')"})
    made.hostile()
    made.unclaimed()
    yield made
    made.close()


@pytest.fixture(scope="module")
def site(book: Book, broker: FakeBroker) -> Iterator[Site]:
    with serve(make=book.open, **ROLES) as made:
        yield made


class Watched:
    """A page, and whatever it did that it should not."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.wrong: list[str] = []
        self.url = url
        context.add_init_script(
            "addEventListener('securitypolicyviolation', (e) => console.error(`policy: ${e.violatedDirective}`));"
        )
        self.page: Page = context.new_page()
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", self._dismiss)
        context.on("request", self._check)

    def _dismiss(self, dialog: Dialog) -> None:
        self.wrong.append(dialog.message)
        dialog.dismiss()

    def _hear(self, said: ConsoleMessage) -> None:
        if said.type in {"error", "warning"} and CHANGED not in said.text:
            self.wrong.append(said.text)

    def _check(self, request: Any) -> None:
        if not request.url.startswith(self.url):
            self.wrong.append(f"a request to {request.url}")

    def go(self, path: str) -> Page:
        go(self.page, self.url + path)
        return self.page

    def log_in(self, password: str) -> None:
        self.go("/login")
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Log in").click()
        expect(self.page.get_by_role("button", name="Log out")).to_be_visible()

    def assert_clean(self) -> None:
        assert self.page.evaluate("window.harmed") is None
        assert self.wrong == []


Open = Callable[..., Watched]


@pytest.fixture(scope="module")
def logins() -> dict[str, Any]:
    """Cookies of those who have logged in, by their passwords."""
    return {}


@pytest.fixture
def opened(browser: Browser, site: Site, logins: dict[str, Any]) -> Iterator[Open]:
    """Opens a page; at the end none of them may have done anything wrong."""
    contexts: list[BrowserContext] = []
    watched: list[Watched] = []

    def make(password: str = VIEWER, url: str = "", **options: Any) -> Watched:
        known = logins.get(password) if not url else None
        context = browser.new_context(viewport={"width": 1280, "height": 900}, storage_state=known, **options)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        made = Watched(context, url or site.url)
        watched.append(made)
        if known:
            made.go("/")
        elif password:
            made.log_in(password)
            if not url:
                logins[password] = context.storage_state()
        return made

    yield make
    try:
        for one in watched:
            assert one.wrong == []
    finally:
        for context in contexts:
            context.close()


def rows(page: Page) -> Any:
    return page.locator("#rows a.row")


def test_login(opened: Open) -> None:
    watched = opened("")
    page = watched.go("/?state=FAILURE")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("neither the operator's password nor the viewer's")
    # The browser notes the 401 of a form, which is right.
    watched.wrong.clear()
    page.get_by_label("Password").fill(VIEWER)
    page.get_by_role("button", name="Log in").click()
    expect(rows(page)).to_have_count(1)
    assert page.url.endswith("/?state=FAILURE")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Password")).to_be_visible()
    watched.go("/")
    expect(page.get_by_label("Password")).to_be_visible()


def test_a_hostile_task_stays_text(opened: Open, site: Site) -> None:
    watched = opened(OPERATOR)
    page = watched.page
    for path in (
        *PAGES,
        f"/?name={quote(HOSTILE)}&worker={quote(HOSTILE)}&root={quote(HOSTILE)}&queue={quote(HOSTILE)}",
    ):
        watched.go(path)
        watched.assert_clean()
    watched.go("/?state=FAILURE")
    expect(rows(page)).to_have_count(1)
    expect(rows(page).first).to_contain_text("<script>window.harmed=1</script>")
    rows(page).first.click()
    expect(page.locator("#traceback")).to_contain_text(f"Traceback {HOSTILE}")
    assert page.locator("#args").text_content() == f"('{HOSTILE}',)"
    watched.assert_clean()
    assert page.locator("#task").get_attribute("data-id") == HOSTILE_ID
    watched.go("/workers")
    expect(page.locator("table.workers")).to_contain_text("<img src=x onerror=window.harmed=1>")
    watched.assert_clean()
    # Typed, shown as it is typed, and said aloud.
    watched.go("/")
    page.get_by_role("searchbox", name="Search").fill(HOSTILE)
    expect(rows(page)).to_have_count(1)
    page.get_by_label("Task name").fill(f"y.{HOSTILE}")
    expect(page.locator("#said")).to_have_text("No tasks")
    watched.assert_clean()
    # Live, where a script makes the rows.
    watched.go("/live")
    expect(page.locator("#said")).to_have_text("Waiting for something to happen.")
    site.hub.publish(
        [
            {
                "type": "task-failed",
                "id": HOSTILE_ID,
                "name": HOSTILE,
                "worker": HOSTILE,
                "args": HOSTILE,
                "time": HOSTILE,
            },
            {"type": "worker-online", "worker": HOSTILE, "name": HOSTILE, "time": None},
        ]
    )
    expect(page.locator("#tail li")).to_have_count(2)
    expect(page.locator("#tail")).to_contain_text("<script>window.harmed=1</script>")
    page.locator("#tail a").click()
    expect(page.locator("#task")).to_be_visible()
    watched.assert_clean()


def test_the_policy_holds_where_an_escape_would_be_forgotten(opened: Open) -> None:
    watched = opened()
    page = watched.page
    page.evaluate(
        "document.querySelector('#said').innerHTML = '<img src=x onerror=\"window.harmed=1\"><b style=\"top:0\">'"
    )
    eventually(lambda: page.evaluate("1") and watched.wrong, 60, "the violations are seen")
    assert page.evaluate("window.harmed") is None
    assert any("policy: script-src" in line for line in watched.wrong), watched.wrong
    watched.wrong.clear()


def test_search_as_one_types(opened: Open) -> None:
    watched = opened()
    page = watched.page
    expect(rows(page)).to_have_count(50)
    box = page.get_by_role("searchbox", name="Search")
    box.press_sequentially("order-117")
    expect(rows(page)).to_have_count(1)
    expect(rows(page).first).to_contain_text("(117, 'order-117')")
    expect(page.get_by_role("status").filter(has_text="1 task")).to_have_count(1)
    # The address is that of what is shown, and what is typed stays.
    assert page.url.endswith("/?text=order-117")
    expect(box).to_be_focused()
    page.reload()
    expect(rows(page)).to_have_count(1)
    expect(box).to_have_value("order-117")
    box.fill("")
    expect(rows(page)).to_have_count(50)
    page.get_by_label("Task name").fill("send_rec")
    expect(rows(page)).to_have_count(1)
    page.get_by_role("link", name="Clear", exact=True).click()
    expect(rows(page)).to_have_count(50)
    expect(page.get_by_label("Task name")).to_have_value("")
    page.get_by_label("State", exact=True).select_option("FAILURE")
    expect(rows(page)).to_have_count(1)
    page.go_back()
    expect(rows(page)).to_have_count(50)
    expect(page.get_by_label("State", exact=True)).to_have_value("")


def test_a_search_that_is_not_understood(opened: Open) -> None:
    watched = opened()
    page = watched.go("/?state=FAILED&text=order")
    expect(page.get_by_text("state: there is no 'FAILED'; did you mean FAILURE?")).to_be_visible()
    expect(rows(page)).to_have_count(0)
    expect(page.get_by_role("searchbox", name="Search")).to_have_value("order")
    assert "state=FAILED" in page.url
    page.get_by_label("State", exact=True).select_option("SUCCESS")
    expect(rows(page)).to_have_count(50)
    expect(page.get_by_text("did you mean")).to_have_count(0)
    # The browser notes the 400 of the page.
    watched.wrong.clear()


def test_links_search_too(opened: Open) -> None:
    page = opened().page
    page.get_by_role("link", name="FAILURE 1").click()
    expect(rows(page)).to_have_count(1)
    expect(page.get_by_label("State", exact=True)).to_have_value("FAILURE")
    page.get_by_role("link", name="FAILURE 1").click()
    expect(rows(page)).to_have_count(50)
    page.get_by_role("link", name="1 unclaimed").click()
    expect(rows(page)).to_have_count(1)
    expect(rows(page).first).to_contain_text("send_receipt")
    page.get_by_role("link", name="attention: unclaimed").click()
    expect(rows(page)).to_have_count(50)
    page.get_by_role("link", name="Last 6 hours").click()
    expect(page.get_by_label("Changed", exact=True)).to_have_value("6h")
    page.get_by_role("link", name="Ran", exact=False).click()
    expect(page).to_have_url(re.compile("sort=-runtime"))


def test_a_bar_of_a_chart_leads_to_its_tasks(opened: Open) -> None:
    page = opened().page
    bars = page.locator(".outcomes svg a:has(.b-succeeded)")
    expect(bars.first).to_be_attached()
    bars.first.click()
    expect(page).to_have_url(re.compile("since=.*until="))
    expect(rows(page).first).to_be_visible()


def test_older_tasks_are_added_below(opened: Open) -> None:
    page = opened().page
    page.get_by_role("link", name="Older tasks").click()
    expect(rows(page)).to_have_count(100)
    page.get_by_role("link", name="Older tasks").click()
    expect(page.get_by_text("That is all.")).to_be_visible()
    ids = rows(page).evaluate_all("all => all.map((one) => one.dataset.id)")
    assert len(ids) == len(set(ids)) > 120


def test_keyboard(opened: Open) -> None:
    page = opened().page
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox", name="Search")).to_be_focused()
    page.keyboard.type("j/k")
    expect(page.get_by_role("searchbox", name="Search")).to_have_value("j/k")
    page.keyboard.press("Control+A")
    page.keyboard.type("order-11")
    expect(rows(page)).to_have_count(11)
    page.keyboard.press("ArrowDown")
    expect(rows(page).nth(0)).to_be_focused()
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    expect(rows(page).nth(2)).to_be_focused()
    page.keyboard.press("k")
    expect(rows(page).nth(1)).to_be_focused()
    assert rows(page).nth(1).evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    wanted = rows(page).nth(1).get_attribute("data-id")
    page.keyboard.press("Enter")
    expect(page.locator("#task-id")).to_have_text(wanted or "")


def test_new_tasks_appear_by_themselves(opened: Open, book: Book) -> None:
    page = opened().page
    page.get_by_label("Refresh").select_option("2")
    expect(rows(page)).to_have_count(50)
    id = book.task("shop.orders.brand_new", ago=0)
    expect(page.locator(f"#rows a[data-id='{id}']")).to_be_visible()
    # The choice is kept.
    page.reload()
    expect(page.get_by_label("Refresh")).to_have_value("2")


def test_a_running_task_is_followed_to_its_end(opened: Open, book: Book) -> None:
    watched = opened()
    id = book.task("shop.orders.slow", ago=1, ended=None)
    page = watched.go(f"/task/{id}")
    expect(page.locator("#task")).to_contain_text("Running on worker-1@warren")
    book.event("task-succeeded", id, 0, result="'done'", runtime=3.0)
    expect(page.locator("#task")).to_contain_text("Succeeded after 3.00 s on worker-1@warren")


def test_a_family(opened: Open, book: Book) -> None:
    watched = opened()
    top = book.task("shop.orders.parent")
    child = book.task("shop.orders.child", sent={"root_id": top, "parent_id": top})
    last = book.task("shop.orders.grandchild", sent={"root_id": top, "parent_id": child})
    page = watched.go(f"/task/{child}")
    family = page.locator(".family li")
    expect(family).to_have_count(3)
    assert family.evaluate_all("all => all.map((one) => one.className)") == ["depth-0", "depth-1", "depth-2"]
    family.nth(2).get_by_role("link").click()
    expect(page.locator("#task-id")).to_have_text(last)
    page.get_by_role("link", name="Search among them").click()
    expect(rows(page).filter(has_text="grandchild")).to_have_count(1)


def test_viewers_can_not_act(opened: Open, site: Site) -> None:
    watched = opened(VIEWER)
    page = watched.go(f"/task/{quote(HOSTILE_ID, safe='')}")
    expect(page.locator("#task")).to_be_visible()
    expect(page.locator(".actions")).to_have_count(0)
    field = page.locator("input[name=_xsrf]").first.get_attribute("value")
    status = page.evaluate(
        """async ([field, id]) => (await fetch(`../tasks/${encodeURIComponent(id)}/retry`, {
          method: "POST", headers: {"X-Xsrftoken": field},
        })).status""",
        [field, HOSTILE_ID],
    )
    assert status == 403
    # The browser notes the refusal.
    watched.wrong.clear()


def test_operators_revoke_and_send_again(opened: Open, book: Book, broker: FakeBroker) -> None:
    watched = opened(OPERATOR)
    failed = book.task(ended="task-failed", sent={"args": "(42, 'x')"})
    page = watched.go(f"/task/{failed}")
    button = page.get_by_role("button", name="Send it again")
    expect(button).to_be_hidden()
    page.get_by_text("Send again…").click()
    button.click()
    expect(page.get_by_role("status").filter(has_text="Sent again as")).to_have_count(1)
    assert (broker.sent[-1]["args"], broker.sent[-1]["queue"]) == ((42, "x"), "default")
    running = book.task(ended=None, ago=1)
    book.event("worker-heartbeat", "", 0)
    watched.go(f"/task/{running}")
    page.get_by_text("Terminate…").click()
    page.get_by_role("button", name="Terminate it").click()
    expect(page.get_by_role("status").filter(has_text="Revoked, and ended where it runs: 1 of ")).to_have_count(1)
    assert (broker.revoked[-1]["ids"], broker.revoked[-1]["terminate"]) == ([running], True)
    page.reload()
    expect(page.get_by_text("Revoked, and ended")).to_have_count(0)


def test_live_tail(opened: Open, site: Site) -> None:
    watched = opened()
    page = watched.go("/live")
    tail = page.locator("#tail li")
    said = page.locator("#said")
    expect(said).to_have_text("Waiting for something to happen.")
    number = 0

    def publish(kind: str, name: str = "shop.pay") -> None:
        nonlocal number
        number += 1
        change = {"type": kind, "id": f"id-{number}", "name": name, "state": "X", "worker": "w", "args": f"({number},)"}
        site.hub.publish([{**change, "time": "2026-11-22T13:20:01.123Z"}])

    publish("task-failed")
    publish("task-succeeded")
    expect(tail).to_have_count(2)
    expect(tail.first).to_contain_text("succeeded")
    expect(said).to_have_text("")
    page.get_by_label("succeeded").uncheck()
    eventually(lambda: page.evaluate("1") and joined(site) == [11], 60, "the choice has reached the server")
    publish("task-succeeded")
    publish("task-retried")
    expect(tail).to_have_count(3)
    page.get_by_role("button", name="Pause").click()
    expect(said).to_contain_text("Paused.")
    eventually(lambda: page.evaluate("1") and not site.hub.heard, 60, "it has left")
    publish("task-failed")
    page.get_by_role("button", name="Go on").click()
    eventually(lambda: page.evaluate("1") and site.hub.heard, 60, "it is back")
    publish("task-failed")
    expect(tail).to_have_count(4)
    # Whoever looks at another tab costs nothing.
    page.evaluate(
        "Object.defineProperty(document, 'hidden', {get: () => window.away ?? false, configurable: true});"
        "window.away = true; document.dispatchEvent(new Event('visibilitychange'))"
    )
    eventually(lambda: page.evaluate("1") and not site.hub.heard, 60, "it has left")
    page.evaluate("window.away = false; document.dispatchEvent(new Event('visibilitychange'))")
    eventually(lambda: page.evaluate("1") and site.hub.heard, 60, "it is back")
    publish("task-failed")
    expect(tail).to_have_count(5)


def joined(site: Site) -> list[int]:
    """How many types each reader of /events wants."""
    return [len(wanted.types) for wanted in site.server._shared.broadcast._listeners]  # noqa: SLF001, RUF100


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_every_page_fits_and_can_be_read(opened: Open, book: Book, site: Site, scheme: str, width: int) -> None:
    watched = opened(OPERATOR, color_scheme=scheme)
    page = watched.page
    page.set_viewport_size({"width": width, "height": 760})
    tasks = [
        HOSTILE_ID,
        book.task(ended="task-failed"),
        # Its times are told with their day, which is longer.
        book.task("x." + HOSTILE, ago=2 * 86400, worker=HOSTILE, ended="task-failed"),
    ]
    for path in (*PAGES, *(f"/task/{quote(id, safe='')}" for id in tasks)):
        watched.go(path)
        if path == "/live":
            expect(page.locator("#said")).to_have_text("Waiting for something to happen.")
            site.hub.publish(
                [{"type": "task-failed", "id": "x", "name": HOSTILE, "worker": HOSTILE, "exception": HOSTILE}]
            )
            expect(page.locator("#tail li")).to_have_count(1)
        too_wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert too_wide <= 0, (path, too_wide)
        assert page.evaluate(CONTRASTS) == [], path


def test_without_a_script(opened: Open, book: Book, broker: FakeBroker) -> None:
    watched = opened(OPERATOR, java_script_enabled=False)
    page = watched.page
    page.get_by_role("searchbox", name="Search").fill("order-117")
    page.get_by_role("button", name="Search").click()
    expect(rows(page)).to_have_count(1)
    rows(page).first.click()
    sent = len(broker.sent)
    page.get_by_text("Send again…").click()
    page.get_by_role("button", name="Send it again").click()
    expect(page.get_by_text("Sent again as")).to_be_visible()
    assert len(broker.sent) == sent + 1
    watched.go("/")
    page.get_by_role("link", name="Older tasks").click()
    expect(page.get_by_role("link", name="Newest")).to_be_visible()


def test_a_lost_monitor_is_told_and_found_again(opened: Open, site: Site) -> None:
    watched = opened()
    page = watched.page
    expect(rows(page)).to_have_count(50)
    page.route("**/*", lambda route: route.abort())
    page.get_by_role("searchbox", name="Search").fill("order-11")
    expect(page.locator("#said")).to_contain_text("does not answer")
    page.unroute_all()
    page.get_by_role("searchbox", name="Search").fill("order-117")
    expect(rows(page)).to_have_count(1)
    expect(page.get_by_text("does not answer")).to_have_count(0)
    # The browser notes failed requests.
    watched.wrong.clear()


def test_an_ended_login_leads_to_the_login(opened: Open) -> None:
    watched = opened()
    page = watched.page
    page.context.clear_cookies()
    page.get_by_role("searchbox", name="Search").fill("order-117")
    expect(page.get_by_label("Password")).to_be_visible()
    page.get_by_label("Password").fill(VIEWER)
    page.get_by_role("button", name="Log in").click()
    expect(rows(page)).to_have_count(1)
    watched.wrong.clear()


@contextmanager
def proxy(port: int, prefix: str) -> Iterator[str]:
    """A reverse proxy that serves the monitor below a prefix."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def do_GET(self) -> None:
            if not self.path.startswith(f"{prefix}/"):
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request(self.command, self.path.removeprefix(prefix), body, dict(self.headers))
            answer = connection.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() != "transfer-encoding":
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.read())

        do_POST = do_GET  # noqa: N815 - as the base class names them

        def log_message(self, *_: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{prefix}"
    finally:
        server.shutdown()
        server.server_close()


def test_below_a_prefix(opened: Open, site: Site, book: Book) -> None:
    with proxy(site.server.port, "/warren/monitor") as url:
        watched = opened(OPERATOR, url=url)
        page = watched.page
        page.get_by_role("searchbox", name="Search").fill("order-117")
        expect(rows(page)).to_have_count(1)
        rows(page).first.click()
        page.get_by_text("Send again…").click()
        page.get_by_role("button", name="Send it again").click()
        expect(page.get_by_text("Sent again as")).to_be_visible()
        page.get_by_role("navigation", name="Pages").get_by_role("link", name="Workers").click()
        page.get_by_role("link", name="worker-1@warren").click()
        expect(rows(page).first).to_be_visible()
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Password")).to_be_visible()
        assert page.url.startswith(f"{url}/login")


def test_pages_of_errors(opened: Open, site: Site, tmp_path: Path) -> None:
    watched = opened()
    page = watched.go("/task/none")
    expect(page.get_by_role("heading", name="Not Found")).to_be_visible()
    page.get_by_role("link", name="To the tasks").click()
    expect(rows(page).first).to_be_visible()
    watched.wrong.clear()
