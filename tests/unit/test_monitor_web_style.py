"""app/monitor/web/style.py: one sheet of several files."""

from __future__ import annotations

from app.monitor.web.style import HERE, PARTS, sheet
from tests.support.monitor_site import serve


def test_each_file_is_sent_once_in_its_order() -> None:
    assert sorted(PARTS) == sorted(path.stem for path in HERE.iterdir())
    text = sheet().decode()
    places = [text.index((HERE / f"{part}.css").read_text()) for part in PARTS]
    assert places == sorted(places)


def test_it_is_asked_for_again_and_sent_when_it_changed() -> None:
    with serve([]) as site:
        first = site.ask("GET", "/static/page.css")
        assert (first.status, first.headers["Content-Type"], first.headers["Cache-Control"]) == (
            200,
            "text/css",
            "no-cache",
        )
        again = site.ask("GET", "/static/page.css", **{"If-None-Match": first.headers["Etag"]})
        assert again.status == 304
