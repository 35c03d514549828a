"""The pages for people. Each works without a script; with it, searches happen as one types."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar
from urllib.parse import urlencode

from msgspec.structs import replace

from app.event_types import TYPES
from app.monitor.history.clock import rfc3339
from app.monitor.history.filter import decode_cursor
from app.monitor.web import charts, show
from app.monitor.web.actions import retry_refusal, revoke_refusal
from app.monitor.web.api import SAID, find, known, unready
from app.monitor.web.base import Base, encode
from app.monitor.web.errors import Refused
from app.monitor.web.parameters import SEARCH, Parameters, search
from app.monitor.web.recent import Recent
from app.monitor.web.sources import ATTENTION, STATES, Filter, Json, Reader

__all__ = ["Live", "Search", "TaskPage", "Workers"]

# Tasks on a page, and of those that need attention above it.
PAGE = 50
MOST_ATTENTION = 3

# Seconds. New names and queues are rare; counts are those of a day, and asked for by every open page.
LISTS_KEPT = 10.0
COUNTS_KEPT = 1.0

# What is wrong with a task that needs attention, and what happens next.
WHY = {
    "unclaimed": "Sent, and no worker has received it. Is a worker up for its queue, and is it free?",
    "stalled": "Its worker lives, but the task runs for much longer than it should.",
    "orphaned": "Its worker fell silent before the task ended. The broker gives it to another worker, if it was not "
    "acknowledged yet.",
}


class PageBase(Base):
    page: ClassVar = True

    def get_template_namespace(self) -> dict[str, Any]:
        shared = self.shared
        trouble = unready(shared.status, shared.alive())
        return {
            **super().get_template_namespace(),
            "root": self.root,
            "who": self.who,
            "show": show,
            "trouble": trouble,
            "why": WHY,
            "urlencode": urlencode,
            "section": type(self).__name__,
        }

    @property
    def part(self) -> bool:
        """Whether the page's own script asks, for what has changed only."""
        return bool(self.request.headers.get("X-Part"))


class View:
    """What one search shows, found in a thread of the history."""

    def __init__(self, of: Parameters, given: dict[str, str]) -> None:
        self.given = given
        self.wanted = search(of, PAGE)
        since, until, points, self.words = charts.window(self.wanted.since, self.wanted.until, given.get("since"))
        self._chart = (since, until, points)
        self.tasks: list[Json] = []
        self.next: str | None = None
        self.attention: list[Json] = []
        self.counts: Json = {"states": {}, "attention": {}}
        self.names: list[str] = []
        self.queues: list[str] = []
        self.workers: list[str] = []
        self.outcomes: charts.Chart | None = None
        self.runtimes: charts.Chart | None = None

    def fill(self, reader: Reader, recent: Recent) -> View:
        """Asks the reader for all that is shown; ``recent`` keeps what other pages ask for, too."""
        self.names = recent.get("names", LISTS_KEPT, reader.names)
        self.queues = recent.get("queues", LISTS_KEPT, reader.queues)
        self.workers = [worker["name"] for worker in reader.workers()]
        wanted = replace(
            self.wanted,
            name=completed(self.wanted.name, self.names),
            worker=one_of(self.wanted.worker, self.workers),
        )
        page = find(reader, wanted)
        self.tasks, self.next = page.tasks, page.next
        if wanted.cursor:
            return self
        self.counts = recent.get("counts", COUNTS_KEPT, reader.counts)
        if any(self.counts["attention"].values()) and not wanted.attention:
            self.attention = find(reader, Filter(attention=("any",), limit=MOST_ATTENTION)).tasks
        since, until, points = self._chart
        name = wanted.name if wanted.name in self.names else None
        age = self.given.get("since", "") if not wanted.until else None
        # A sixtieth of a point is not seen. Other times than the usual ones are asked for once.
        kept = (until - since).total_seconds() / points / 60 if age is not None else 0.0
        found = recent.get(("chart", age, name), kept, lambda: reader.chart(since, until, points, name))
        if found:
            self.outcomes, self.runtimes = charts.outcomes(found, until), charts.runtimes(found, until)
        if name:
            self.words += f", {name}"
        return self

    def link(self, **changes: str | None) -> str:
        """The address of this search with some parameters changed; it begins with the first page."""
        merged = {**self.given, "cursor": None, **changes}
        return "./?" + urlencode({name: merged[name] for name in SEARCH if merged.get(name)})

    @property
    def filtered(self) -> bool:
        return any(name not in {"sort", "limit", "cursor"} for name in self.given)

    @property
    def cut(self) -> bool:
        """Whether the search ended early, at what it may take of time."""
        return self.next is not None and len(self.tasks) < self.wanted.limit

    @property
    def searched_to(self) -> str | None:
        """How far back a search by time has looked."""
        place = decode_cursor(self.next)
        return rfc3339(place.time) if place and place.time else None

    @property
    def summary(self) -> str:
        """The result in words, for those who hear it."""
        count = len(self.tasks)
        if self.cut:
            return f"{count or 'No'} matching task{'s' * (count != 1)} so far; there is more to search"
        if self.next:
            return f"The first {count} tasks; older ones follow"
        return f"{count or 'No'} task{'s' * (count != 1)}"


def completed(name: str | None, known: list[str]) -> str | None:
    """A name that is being typed finds those that have it inside."""
    if name is None or "*" in name or name in known:
        return name
    return f"*{name}*"


def one_of(worker: str | None, known: list[str]) -> str | None:
    """The one worker that has the text in its name, or else the text."""
    found = [one for one in known if worker and worker in one]
    return found[0] if len(found) == 1 else worker


class Search(PageBase):
    parameters: ClassVar = SEARCH

    async def get(self) -> None:
        of = self.read_parameters(strict=False)
        given = {name: ",".join(of.words(name)) if name in {"state", "attention"} else of.text(name) for name in SEARCH}
        error, status = "", 200
        try:
            view = View(of, {name: value for name, value in given.items() if value})
            view = await self.ask(partial(view.fill, recent=self.shared.recent))
        except Refused as refused:
            # In the page, where it can be mended.
            if self.part or refused.status_code != 400:
                raise
            error, status = refused.text, 400
            view = await self.ask(partial(View(Parameters({}, SEARCH), {}).fill, recent=self.shared.recent))
            view.given = {name: value for name, value in given.items() if value}
            view.tasks, view.next = [], None
        self.set_status(status)
        self.render(
            "search-part.html" if self.part else "search.html",
            view=view,
            error=error,
            states=STATES,
            attention=ATTENTION,
            ranges=charts.RANGES,
            sorts=SORT_WORDS,
        )


SORT_WORDS = {
    "-time": "newest first",
    "time": "oldest first",
    "-runtime": "longest first",
    "runtime": "shortest first",
    "-wait": "longest wait first",
    "wait": "shortest wait first",
}


class TaskPage(PageBase):
    depth: ClassVar = 1

    async def get(self, id: str) -> None:
        def look(reader: Reader) -> tuple[Json, list[Json]]:
            task = known(reader.task(id))
            family = reader.family(task["root"] or task["id"])
            return task, family if len(family) > 1 else [task, *task["children"]]

        task, family = await self.ask(look)
        actions = self.shared.actions
        may = self.who is not None and self.who.operates
        self.render(
            "task-part.html" if self.part else "task.html",
            task=task,
            family=show.tree(family) if len(family) > 1 else [],
            said=self.said(),
            may=may,
            revoke=None if actions.can_revoke else "This monitor may not revoke: MONITOR_OPS_URL is not set.",
            no_revoke=revoke_refusal(task),
            no_retry=retry_refusal(task)
            if actions.can_retry
            else "This monitor may not send tasks: MONITOR_PRODUCER_URL is not set.",
        )

    def said(self) -> str:
        """What the last action had to say, once; what went wrong begins with an exclamation mark."""
        text = self.get_signed_cookie(SAID, max_age_days=1)
        if text is None or self.part:
            return ""
        self.clear_cookie(SAID)
        return text.decode("utf-8", "replace")


class Live(PageBase):
    async def get(self) -> None:
        self.render("live.html", types=TYPES)


class Workers(PageBase):
    """The workers: as JSON for programs, as a page for browsers."""

    async def get(self) -> None:
        self.read_parameters(strict=not self.wants_page)
        if not self.wants_page:
            self.send_json(await self.ask(lambda reader: encode({"workers": reader.workers()})))
            return
        workers = await self.ask(lambda reader: reader.workers())
        workers.sort(key=lambda worker: (not worker["alive"], worker["name"]))
        self.render("workers-part.html" if self.part else "workers.html", workers=workers)
