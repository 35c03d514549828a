"""Parameters of requests, read strictly: what a search did not understand must not look as if it had found nothing."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime

from app.monitor.history.clock import parse_time
from app.monitor.web.errors import Refused
from app.monitor.web.sources import ATTENTION, SORTS, STATES, Filter

__all__ = ["SEARCH", "Parameters", "search"]

# The parameters of a search, which the API and the page have in common.
SEARCH = (
    *("state", "attention", "name", "worker", "queue", "since", "until", "text", "root"),
    *("sort", "limit", "cursor"),
)

# No task is older or newer. Reckoning with the first and last times that Python knows fails.
FIRST = datetime(1970, 1, 1, tzinfo=UTC)
LAST = datetime(2200, 1, 1, tzinfo=UTC)

# What Celery's users call states that have other names.
SYNONYMS = {
    **{"FAILED": "FAILURE", "ERROR": "FAILURE", "SUCCEEDED": "SUCCESS", "SENT": "PENDING", "RUNNING": "STARTED"},
    **{"RETRIED": "RETRY", "CANCELLED": "REVOKED"},
}


def nearest(word: str, known: Iterable[str]) -> str:
    """A question with the nearest known word, or the list of them."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]}?"
    return f"known are {', '.join(known)}" if known else "there are none here"


class Parameters:
    """The parameters of one request; an empty one counts as not given, as forms send them.

    Raises:
        Refused: 400, with a line that names the parameter.
    """

    def __init__(self, given: Mapping[str, list[str]], known: Collection[str], *, strict: bool = True) -> None:
        if strict:
            for name in given:
                if name not in known:
                    raise Refused(400, f"there is no parameter {name[:100]!r}; {nearest(name, known)}")
        self._given = {name: [value for value in values if value] for name, values in given.items() if name in known}

    def text(self, name: str) -> str | None:
        values = self._given.get(name)
        if not values:
            return None
        if len(values) > 1:
            raise Refused(400, f"{name} is given {len(values)} times; give it once")
        return values[0]

    def words(self, name: str) -> list[str]:
        """The parts of a list, which may be separated by commas, given several times, or both."""
        return [word.strip() for value in self._given.get(name, []) for word in value.split(",") if word.strip()]

    def choices(self, name: str, known: Collection[str]) -> tuple[str, ...]:
        found = dict.fromkeys(self.words(name))
        for word in found:
            if word not in known:
                raise Refused(400, f"{name}: there is no {word[:100]!r}; {nearest(word, known)}")
        return tuple(found)

    def choice(self, name: str, known: Collection[str], default: str) -> str:
        value = self.text(name) or default
        if value not in known:
            raise Refused(400, f"{name} must be one of {', '.join(known)}, not {value[:100]!r}")
        return value

    def number(self, name: str, least: int, most: int, default: int) -> int:
        text = self.text(name)
        if text is None:
            return default
        # Nine digits: Python takes long for numbers of thousands.
        if not (text.isascii() and text.isdigit() and len(text) <= 9 and least <= int(text) <= most):
            raise Refused(400, f"{name} must be {least} to {most}")
        return int(text)

    def time(self, name: str) -> datetime | None:
        text = self.text(name)
        if text is None:
            return None
        try:
            # A plus sign that was not escaped arrives as a space: 13:20:00+01:00.
            moment = parse_time(text[:100].replace(" ", "+") if "T" in text else text[:100])
        except ValueError as error:
            raise Refused(400, f"{name}: {error}") from None
        return min(max(moment, FIRST), LAST)

    def states(self) -> tuple[str, ...]:
        words = [word.upper() for word in self.words("state")]
        for word in words:
            if word not in STATES:
                hint = f"did you mean {SYNONYMS[word]}?" if word in SYNONYMS else nearest(word, STATES)
                raise Refused(400, f"state: there is no {word[:100]!r}; {hint}")
        return tuple(dict.fromkeys(words))


def search(of: Parameters, limit: int = 50) -> Filter:
    """The search that the parameters describe; ``limit`` is the size of a page where they name none."""
    return Filter(
        states=of.states(),
        attention=of.choices("attention", (*ATTENTION, "any")),
        name=of.text("name"),
        worker=of.text("worker"),
        queue=of.text("queue"),
        since=of.time("since"),
        until=of.time("until"),
        text=of.text("text"),
        root=of.text("root"),
        sort=of.choice("sort", SORTS, "-time"),
        limit=of.number("limit", 1, 1000, limit),
        cursor=of.text("cursor"),
    )
