"""Who gets in, as what, and what another site can't do."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from app.environment import Mistake
from app.monitor.web.access import BURST, REFILL, Attempts
from app.monitor.web.login import after
from app.monitor.web.server import PAGES, ROUTES
from tests.support.monitor_site import OPERATOR, TOKEN, VIEWER, Site, serve, task

PUBLIC = {"/healthz", "/readyz", "/login", "/logout"}


@pytest.fixture
def site() -> Iterator[Site]:
    with serve([task("one"), task("two", "FAILURE")]) as made:
        yield made


def test_without_login_nothing_is_shown(site: Site) -> None:
    for path, handler in (ROUTES | PAGES).items():
        address = path.replace("{id}", "one")
        for method in handler.methods():
            answer = site.ask(method, address)
            if path in PUBLIC:
                assert answer.status in {200, 403, 405}, path
            else:
                assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer"), path
    assert site.reader.opened == 0


def test_browsers_are_led_to_the_login_and_back(site: Site) -> None:
    browser = site.browser()
    for path, login in {
        "/": "./login",
        "/?state=FAILURE&text=a%20b": "./login?next=%3Fstate%3DFAILURE%26text%3Da%2520b",
        "/task/one": "../login?next=task%2Fone",
        "/live": "./login?next=live",
        "/workers": "./login?next=workers",
    }.items():
        answer = browser.get(path)
        assert (answer.status, answer.headers["Location"]) == (302, login)
    done = browser.log_in(VIEWER, next="task/one")
    assert (done.status, done.headers["Location"]) == (303, "./task/one")
    assert browser.get("/task/one").status == 200


@pytest.mark.parametrize(
    "wanted",
    [
        "//evil.org",
        "https://evil.org",
        "/\\evil.org",
        "javascript:alert(1)",
        "task/../../x",
        "live\r\nX: y",
        "x",
        "\\e",
    ],
)
def test_a_login_leads_nowhere_else(wanted: str) -> None:
    assert after(wanted) == "./"


@pytest.mark.parametrize("wanted", ["", "live", "?state=FAILURE&text=a%20b", "task/a%2Fb", "workers?x=1"])
def test_a_login_leads_to_our_pages(wanted: str) -> None:
    assert after(wanted) == f"./{wanted}"


def test_the_token(site: Site) -> None:
    assert site.get("/tasks").status == 200
    assert site.ask("GET", "/tasks", Authorization=f"bearer {TOKEN}").status == 200
    for wrong in ("", "x", TOKEN[:-1], f"{TOKEN}x", TOKEN.upper(), "\xe9"):
        assert site.ask("GET", "/tasks", Authorization=f"Bearer {wrong}").status == 401, wrong
    assert site.ask("GET", f"/tasks?token={TOKEN}").status == 401
    assert site.ask("GET", "/tasks", Authorization=f"Basic {TOKEN}").status == 401


def test_empty_secrets_let_nobody_in() -> None:
    with serve(monitor_token="", monitor_operator_password="", monitor_viewer_password="") as site:
        assert site.get("/tasks", token="").status == 401
        assert site.get("/tasks").status == 401
        assert "no password is set" in site.browser().get("/login").text
    with serve(monitor_operator_password="") as site:
        browser = site.browser()
        field = browser.form("/login") if "_xsrf" in browser.get("/login").text else ""
        assert browser.post("/login", _xsrf=field, password="").status == 401
        assert browser.log_in(OPERATOR).status == 401
        assert browser.log_in(VIEWER).status == 303


def test_the_cookie(site: Site) -> None:
    browser = site.browser()
    assert browser.log_in("wrong").status == 401
    assert "neither the operator" in browser.log_in("wrong").text
    done = browser.log_in(OPERATOR)
    (cookie,) = [line for line in done.headers.get_all("Set-Cookie") or [] if "-form" not in line]
    attributes = {part.strip().partition("=")[0].lower() for part in cookie.split(";")[1:]}
    assert attributes == {"expires", "httponly", "path", "samesite"}
    assert "SameSite=Strict" in cookie
    assert OPERATOR not in cookie
    assert browser.get("/").status == 200
    # Whoever changes a letter of it is nobody.
    name = next(name for name in browser.cookies if "-form" not in name)
    browser.cookies[name] = browser.cookies[name][:-1] + ("0" if browser.cookies[name][-1] != "0" else "1")
    assert browser.get("/").status == 302


def test_the_cookie_is_secure_behind_https(site: Site) -> None:
    browser = site.browser()
    field = browser.form("/login")
    answer = browser._send(  # noqa: SLF001, RUF100
        "POST",
        "/login",
        f"_xsrf={field}&password={VIEWER}",
        {"Content-Type": "application/x-www-form-urlencoded", "X-Forwarded-Proto": "https"},
    )
    assert "; Secure" in str(answer.headers.get_all("Set-Cookie"))


def test_a_new_password_ends_old_logins(site: Site) -> None:
    browser = site.browser()
    browser.log_in(OPERATOR)
    with serve([], monitor_operator_password="a new one") as other:
        stranger = other.browser()
        stranger.cookies = browser.cookies
        assert stranger.get("/").status == 302


def test_logout(site: Site) -> None:
    browser = site.browser()
    browser.log_in(VIEWER)
    assert browser.get("/logout").status == 405
    assert browser.post("/logout").status == 403
    assert browser.get("/").status == 200
    answer = browser.post("/logout", _xsrf=browser.form("/"))
    assert (answer.status, answer.headers["Location"]) == (303, "login")
    assert browser.get("/").status == 302


def test_other_sites_can_not_post(site: Site) -> None:
    browser = site.browser()
    assert browser.post("/login", password=OPERATOR).status == 403
    browser.log_in(OPERATOR)
    assert browser.post("/tasks/two/retry").status == 403
    assert browser.post("/tasks/two/retry", _xsrf="2|aa|bb|1").status == 403
    answer = site.ask("POST", "/tasks/two/retry", Cookie="; ".join(f"{k}={v}" for k, v in browser.cookies.items()))
    assert (answer.status, "reload it" in answer.json["error"]) == (403, True)


def test_viewers_may_not_act(site: Site) -> None:
    browser = site.browser()
    browser.log_in(VIEWER)
    field = browser.form("/task/two")
    for action in ("retry", "revoke"):
        answer = browser.post(f"/tasks/two/{action}", _xsrf=field)
        assert (answer.status, "viewer" in answer.text) == (403, True)


def test_wrong_answers_are_limited(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    browser = site.browser()
    field = browser.form("/login")
    statuses = [browser.post("/login", _xsrf=field, password="wrong").status for _ in range(BURST + 2)]
    assert statuses == [401] * BURST + [429] * 2
    # The right one as well: otherwise it could be found.
    late = browser.post("/login", _xsrf=field, password=OPERATOR)
    assert (late.status, late.headers["Retry-After"]) == (429, "5")
    # Programs with the token are not held up by it.
    assert site.get("/tasks").status == 200
    assert [site.get("/tasks", token="x").status for _ in range(BURST + 1)] == [401] * BURST + [429]
    # Nor by another program's wrong one: behind a published port all come from one address.
    assert site.get("/tasks").status == 200
    assert "wrong" not in caplog.text.replace("a wrong password from 127.0.0.1", "")


@pytest.mark.parametrize(("proxy", "status"), [("on", 401), ("off", 429)])
def test_behind_a_proxy_and_only_there_each_visitor_has_an_address(proxy: str, status: int) -> None:
    with serve(monitor_behind_proxy=proxy) as site:
        for _ in range(BURST + 1):
            last = site.get("/tasks", token="x", **{"X-Forwarded-For": "192.0.2.1"})
        assert last.status == 429
        assert site.get("/tasks", token="x", **{"X-Forwarded-For": "192.0.2.2"}).status == status


@pytest.mark.parametrize("proxy", ["on", "off"])
def test_a_visitor_can_not_choose_the_address_that_counts(proxy: str) -> None:
    with serve(monitor_behind_proxy=proxy) as site:
        for number in range(BURST + 1):
            lies = {"X-Real-Ip": f"192.0.2.{number}", "X-Forwarded-For": f"192.0.2.{number}, 198.51.100.7"}
            last = site.get("/tasks", token="x", **lies)
        assert last.status == 429


def test_a_proxy_that_names_no_address_is_one_itself() -> None:
    with serve(monitor_behind_proxy="on") as site:
        for named in ({}, {"X-Forwarded-For": "192.0.2.1, unknown"}, {"X-Forwarded-For": "192.0.2.1,"}):
            for _ in range(BURST // 3):
                assert site.get("/tasks", token="x", **named).status == 401
        assert [site.get("/tasks", token="x").status for _ in range(2)] == [401, 429]


HTTP = {"X-Forwarded-Proto": "http"}


def test_who_came_by_http_is_led_to_https_before_anything_else() -> None:
    with serve(monitor_url_prefix="/at/monitor", https_only=True) as site:
        for method, path in (
            *(("GET", path) for path in ("/", "/tasks?x=1&y=%2F", "/login", "/static/page.css", "/no/such")),
            *(
                ("GET", "/at/monitor/task/one"),
                ("HEAD", "/at/monitor"),
                ("POST", "/login"),
                ("POST", "//evil.example/x"),
            ),
        ):
            answer = site.ask(method, path, Host="Tasks.example.org:8080", **HTTP)
            assert (answer.status, answer.body) == (308, b""), path
            assert answer.headers["Location"] == f"https://tasks.example.org{path}"
            assert (answer.headers["Cache-Control"], answer.headers["Set-Cookie"]) == ("no-store", None)
        for named in ("HTTP", "http, http"):
            assert site.ask("GET", "/login", **{"X-Forwarded-Proto": named}).status == 308
        # Whole addresses are for proxies. It is none, and leads to no host but the one that is asked.
        whole = site.ask("GET", "http://evil.example/x", Host="tasks.example.org", **HTTP)
        assert (whole.status, whole.headers["Location"]) == (308, "https://tasks.example.org/")
        for host in ("a@evil.example", "evil.example/", "evil.example?", "evil.example#", "evil.example\\"):
            assert site.ask("GET", "/", Host=host, **HTTP).status == 400
        # The platform and Prometheus name no scheme, and a proxy that has TLS names that.
        # Of proxies in a row one is enough: where the first has TLS, to lead there would go in circles.
        has_tls = ({"X-Forwarded-Proto": named} for named in ("https", "https, http", "http,HTTPS"))
        for headers in ({}, *has_tls, {"X-Scheme": "http"}):
            assert site.ask("GET", "/healthz", **headers).status == site.get("/metrics", **headers).status == 200
    # Where nobody says that there is HTTPS, all is as it was.
    with serve() as site:
        assert site.get("/tasks", **HTTP).status == 200


def test_attempts_come_back_and_are_bounded() -> None:
    now = [0.0]
    attempts = Attempts(lambda: now[0])
    for _ in range(BURST):
        assert attempts.wait("a") == 0
        attempts.failed("a")
    assert attempts.wait("a") == REFILL
    assert attempts.wait("b") == 0
    now[0] += REFILL
    assert attempts.wait("a") == 0
    now[0] += 1_000_000
    for _ in range(BURST):
        assert attempts.wait("a") == 0
        attempts.failed("a")
    assert attempts.wait("a") == REFILL
    for number in range(20_000):
        attempts.failed(f"address {number}")
    assert len(attempts._left) == 10_000  # noqa: SLF001, RUF100


def test_every_answer_has_the_security_headers(site: Site) -> None:
    browser = site.browser()
    browser.log_in(OPERATOR)
    for path in (
        "/",
        "/task/one",
        "/task/none",
        "/live",
        "/workers",
        "/login",
        "/nothing",
        "/tasks",
        "/tasks?x=1",
        "/static/page.css",
        "/static/none",
        "/healthz",
    ):
        headers = browser.get(path).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'; "), path
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Server"] is None
        if not path.startswith("/static"):
            assert headers["Cache-Control"] == "no-store", path


def test_no_secret_is_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        browser = site.browser()
        browser.log_in("almost-the-password")
        browser.log_in(OPERATOR)
        browser.get("/")
        site.get("/tasks")
        site.get("/tasks", token="almost-the-token")
    assert "operator logged in from 127.0.0.1" in caplog.text
    for secret in (TOKEN, OPERATOR, "almost-the-password", "almost-the-token", *browser.cookies.values()):
        assert secret not in caplog.text


def test_it_also_answers_below_a_prefix() -> None:
    with serve([task("one")], monitor_url_prefix="/at/monitor/") as site:
        assert site.ask("GET", "/at/monitor?x=1").headers["Location"] == "/at/monitor/?x=1"
        browser = site.browser()
        for path, login in {
            "/at/monitor/": "./login",
            "/at/monitor/task/one?x=1": "../login?next=task%2Fone%3Fx%3D1",
        }.items():
            assert (answer := browser.get(path)).headers["Location"] == login, answer
        for path in ("/at/monitor/healthz", "/healthz", "/at/monitor/static/page.css", "/static/page.css"):
            assert site.ask("GET", path).status == 200, path
        # As the platform and its commands ask.
        assert site.get("/at/monitor/tasks/one").status == site.get("/tasks/one").status == 200
        assert site.get("/at/monitored/tasks").status == site.get("/elsewhere/tasks").status == 404


@pytest.mark.parametrize("prefix", ["tasks", "/live/", "/static/x"])
def test_a_prefix_hides_none_of_its_own_addresses(prefix: str) -> None:
    with pytest.raises(Mistake, match="has addresses of its own"), serve(monitor_url_prefix=prefix):
        pass
