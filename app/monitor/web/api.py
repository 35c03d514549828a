"""The API: searches, one task, workers, counts, charts, health, metrics; and revoke and retry."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import quote

from app.monitor.web import openapi
from app.monitor.web.actions import revoke_refusal
from app.monitor.web.base import Base, encode
from app.monitor.web.charts import whole
from app.monitor.web.errors import Refused
from app.monitor.web.parameters import SEARCH, search
from app.monitor.web.sources import Filter, Json, Page, Reader

__all__ = [
    "SAID",
    "Chart",
    "Counts",
    "Family",
    "Health",
    "Metrics",
    "OpenApi",
    "Ready",
    "Retry",
    "Revoke",
    "Task",
    "Tasks",
    "find",
]

# What a chart shows where nobody says otherwise: an hour, minute by minute.
CHART_SPAN = timedelta(hours=1)
CHART_POINTS = 60
MOST_POINTS = 500

# The cookie with what an action had to say, shown by the next page.
SAID = "warren-said"

logger = logging.getLogger("warren.monitor")


def find(reader: Reader, wanted: Filter) -> Page:
    """The tasks that a search finds.

    Raises:
        Refused: 400, the reader does not take the search.
    """
    try:
        return reader.tasks(wanted)
    except ValueError as error:
        raise Refused(400, str(error)) from None


def known(task: Json | None) -> Json:
    if task is None:
        raise Refused(404, "the history knows no such task; it may be older than what is kept")
    return task


class Tasks(Base):
    parameters: ClassVar = SEARCH

    async def get(self) -> None:
        wanted = search(self.read_parameters())
        self.send_json(await self.ask(lambda reader: encode(find(reader, wanted))))


class Task(Base):
    async def get(self, id: str) -> None:
        self.read_parameters()
        self.send_json(await self.ask(lambda reader: encode(known(reader.task(id)))))


class Family(Base):
    async def get(self, id: str) -> None:
        self.read_parameters()

        def answer(reader: Reader) -> bytes:
            task = known(reader.task(id))
            return encode({"tasks": reader.family(task["root"] or task["id"])})

        self.send_json(await self.ask(answer))


class Counts(Base):
    async def get(self) -> None:
        self.read_parameters()
        self.send_json(await self.ask(lambda reader: encode(reader.counts())))


class Chart(Base):
    parameters: ClassVar = ("since", "until", "points", "name")

    async def get(self) -> None:
        of = self.read_parameters()
        until = of.time("until") or datetime.now(UTC)
        since = of.time("since") or until - CHART_SPAN
        if since >= until:
            raise Refused(400, "since must be before until")
        since, until = whole(since), whole(until)
        points = of.number("points", 1, MOST_POINTS, CHART_POINTS)
        name = of.text("name")

        def answer(reader: Reader) -> bytes:
            try:
                return encode({"points": reader.chart(since, until, points, name)})
            except ValueError as error:
                raise Refused(400, str(error)) from None

        self.send_json(await self.ask(answer))


class Metrics(Base):
    async def get(self) -> None:
        self.read_parameters()
        text = await self.shared.queries.run(self.shared.metrics)
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.finish(text)


class Health(Base):
    """Whether the loop turns, which an answer proves, and the log is followed."""

    public = True

    async def get(self) -> None:
        if not self.shared.alive():
            raise Refused(503, "the thread that follows the event log has ended")
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish("ok\n")


class Ready(Base):
    """Whether the history shows what happens now."""

    public = True

    async def get(self) -> None:
        reason = unready(self.shared.status, self.shared.alive())
        if reason:
            raise Refused(503, reason)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish("ready\n")


def unready(status: Any, alive: bool) -> str | None:
    """In words why the history does not show what happens now, or None if it does."""
    if not alive:
        return "the thread that follows the event log has ended"
    if status.error:
        return str(status.error)
    if not status.connected:
        return "not connected to the broker"
    if not status.caught_up:
        return f"{status.lag_events:,} events behind the log ({status.lag_seconds:.0f} s)"
    return None


class OpenApi(Base):
    async def get(self) -> None:
        self.read_parameters()
        self.send_json(encode(openapi.document()))


class Action(Base):
    """Something that is done to a task; for programs by JSON, for the page by a form."""

    def prepare(self) -> None:
        super().prepare()
        if not self._finished and self.who is not None and not self.who.operates:
            raise Refused(403, "you are logged in as a viewer; operators revoke and retry")

    def read_body(self, fields: dict[str, type]) -> Json:
        """The fields of the JSON object that was sent; an empty body is an empty object.

        Raises:
            Refused: 400.
        """
        if not self.request.body.strip():
            return {}
        try:
            body = json.loads(self.request.body)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise Refused(400, "the body must be a JSON object")
        for name, value in body.items():
            if name not in fields:
                raise Refused(400, f"there is no field {name[:100]!r}; known are {', '.join(fields) or 'none'}")
            if not isinstance(value, fields[name]):
                raise Refused(400, f"{name} must be true or false")
        return body

    @property
    def by_form(self) -> bool:
        kind = self.request.headers.get("Content-Type", "")
        return kind.startswith(("application/x-www-form-urlencoded", "multipart/form-data"))

    async def act(self, id: str) -> tuple[Json, str]:
        """Does it; the answer for programs, and the same in words for people."""
        raise NotImplementedError

    async def post(self, id: str) -> None:
        self.read_parameters()
        try:
            answer, text = await self.act(id)
        except Refused as refused:
            self.record(id, refused.text)
            if not self.by_form:
                raise
            self.tell(id, f"!{refused.text}")
            return
        self.record(id, text)
        if self.by_form:
            self.tell(id, text)
        else:
            self.send_json(encode(answer))

    def record(self, id: str, outcome: str) -> None:
        """A line in the log: who did what to which task, and how it ended."""
        role = self.who.role if self.who else "nobody"
        what = type(self).__name__.lower()
        logger.info("%s of task %s by %s at %s: %s", what, printable(id), role, self.address, printable(outcome))

    def tell(self, id: str, text: str) -> None:
        """Leads a browser back to the task's page, which shows ``text`` once."""
        self.set_signed_cookie(SAID, text, expires_days=None, httponly=True, samesite="Strict")
        self.redirect(f"../../task/{quote(id, safe='')}", status=303)


class Revoke(Action):
    async def act(self, id: str) -> tuple[Json, str]:
        if self.by_form:
            terminate = self.get_body_argument("terminate", "") == "true"
        else:
            terminate = bool(self.read_body({"terminate": bool}).get("terminate", False))

        def look(reader: Reader) -> tuple[Json, list[str]]:
            alive = [worker["name"] for worker in reader.workers() if worker["alive"]]
            return known(reader.task(id)), alive

        task, workers = await self.ask(look)
        if refusal := revoke_refusal(task):
            raise Refused(409, refusal)
        by = f"{self.who.role if self.who else ''}@{self.address}"
        answer = await self.shared.actions.revoke(id, terminate, workers, by)
        return answer, revoked(answer)


def revoked(answer: Json) -> str:
    """What became of a revoke, for people."""
    answered, silent = answer["answered"], answer["silent"]
    if not answered and not silent:
        return "Revoked. No worker is up; those that start will refuse it"
    did = "Revoked, and ended where it runs" if answer["terminate"] else "Revoked"
    text = f"{did}: {len(answered)} of {len(answered) + len(silent)} workers know"
    if silent:
        may = " It may still run there." if answer["terminate"] else ""
        text += f". Silent, but will read of it when they are back: {', '.join(silent[:5])}.{may}"
    return text


class Retry(Action):
    async def act(self, id: str) -> tuple[Json, str]:
        if not self.by_form:
            self.read_body({})
        task = await self.ask(lambda reader: known(reader.task(id)))
        answer = await self.shared.actions.retry(task)
        return answer, f"Sent again as {answer['id']}"


def printable(text: str) -> str:
    """``text`` without what would begin a new line in a log or steer a terminal."""
    return "".join(one if one.isprintable() else "?" for one in text[:500])
