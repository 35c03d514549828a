"""The event log on the terminal: what is in it, and what comes."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from app.event_types import CONCLUDED, HEARTBEAT, LOGGED, WORKER_TYPES
from app.eventlog import Entry, Event, Start, Unavailable, read, replay, replay_raw, salvage
from app.monitor.lines import as_json, as_text, printable, record, time_of
from app.monitor.names import Names
from deploy.commands.log import as_known
from deploy.errors import ExitCode, WarrenError
from deploy.output import note, say
from deploy.session import Session

__all__ = ["TYPES", "Wanted", "events", "types_of"]

TYPES = (*LOGGED, *WORKER_TYPES, HEARTBEAT)

# Events that are told where nothing says which.
TAIL = 100
# Messages from the log's end that are read first for its last events. Where workers are idle it holds hardly anything but
# heartbeats, so there may be few in it; then the next look goes further back ...
FIRST_LOOK = 1000
FURTHER = 8
# ... until this many. It takes two seconds, and is a day and a half of ten idle workers' heartbeats.
LAST_LOOK = 512_000
# Seconds between attempts to reach a broker that went away.
PAUSE = 1.0


@dataclass
class Wanted:
    """Which events are told, and as what."""

    types: frozenset[str]
    name: str = ""
    id: str = ""
    since: float | None = None
    until: float | None = None
    as_json: bool = False
    names: Names = field(default_factory=Names)

    def lines(self, entry: Entry) -> Iterator[str]:
        for event in entry.events:
            # Also of those that are not told: an end does not say what its task is called.
            self.names.learn(event)
            if not self.takes(event):
                continue
            told = record(event, self.names)
            if self.as_json:
                yield as_json(told or other(event, self.names))
            else:
                yield as_text(told) if told else in_words(other(event, self.names))

    def takes(self, event: Event) -> bool:
        stamp = event.get("timestamp")
        return (
            event["type"] in self.types
            and (not self.id or event.get("uuid") == self.id)
            and (not self.name or fnmatchcase(self.names.of(event), self.name))
            and (self.since is None or (isinstance(stamp, int | float) and stamp >= self.since))
            and (self.until is None or (isinstance(stamp, int | float) and stamp <= self.until))
        )


def other(event: Event, names: Names) -> dict[str, Any]:
    """What is told of events that change no task's state."""
    told: dict[str, Any] = {"event": event["type"]}
    if isinstance(event.get("uuid"), str):
        told |= {"task": names.of(event), "id": event["uuid"]}
    told |= {key: event[key] for key in ("active", "processed", "sw_ver") if isinstance(event.get(key), int | str)}
    return {**told, "worker": str(event.get("hostname")), "time": time_of(event)}


def in_words(told: dict[str, Any]) -> str:
    words = "".join(f" {key}={printable(str(value))}" for key, value in told.items() if key not in {"event", "time"})
    return f"Event: {told['event']}{words} {told['time']}"


def types_of(text: str, heartbeats: bool) -> frozenset[str]:
    """The types in a list such as ``failed,task-retried,worker-online``; all where it is empty.

    Raises:
        WarrenError: there is no such type (exit code 2).
    """
    asked = [one.strip() for one in text.split(",") if one.strip()]
    found = set()
    for one in asked:
        for known in (one, f"task-{one}", f"worker-{one}"):
            if known in TYPES:
                found.add(known)
                break
        else:
            if {one, f"task-{one}"} & set(CONCLUDED):
                raise WarrenError(
                    f"{one} is no event of the log but what the monitor concludes from it; see `invoke history --attention`",
                    ExitCode.USAGE,
                )
            short = ", ".join(one.removeprefix("task-") for one in TYPES)
            raise WarrenError(f"there is no event {one!r} in the log; choose from {short}", ExitCode.USAGE)
    if not found:
        found = set(TYPES) - {HEARTBEAT}
    if heartbeats:
        found.add(HEARTBEAT)
    return frozenset(found)


def moment(name: str, text: str) -> datetime | None:
    if not text:
        return None
    from app.monitor.history.clock import parse_time

    try:
        return parse_time(text)
    except ValueError as error:
        raise WarrenError(f"{name}: {error}", ExitCode.USAGE) from None


def events(
    s: Session,
    *,
    since: str,
    until: str,
    follow: bool,
    types: str,
    name: str,
    id_: str,
    tail: int | None,
    heartbeats: bool,
    as_json: bool,
) -> None:
    begin, end = moment("--since", since), moment("--until", until)
    if follow and end:
        raise WarrenError("--follow has no end; leave --until out", ExitCode.USAGE)
    wanted = Wanted(
        types_of(types, heartbeats),
        name,
        id_,
        begin.timestamp() if begin else None,
        end.timestamp() if end else None,
        as_json,
    )
    s.runner.show("read the stream celery.events  # as user ops")
    url = s.broker_url("ops")
    try:
        # Ctrl-C is how one leaves what one follows.
        with suppress(KeyboardInterrupt) if follow else nullcontext():
            last = past(url, wanted, begin, TAIL if tail is None and not (begin or end or id_) else tail)
            if follow:
                coming(lambda: s.broker_url("ops"), wanted, (begin or "first") if last is None else last + 1)
    except Unavailable as error:
        raise as_known(s, error) from error


def past(url: str, wanted: Wanted, begin: datetime | None, tail: int | None) -> int | None:
    """Tells what is in the log, the last ``tail`` events if that is a number, and returns its last offset."""
    if tail is None:
        return tell(logged(url, begin or "first", wanted), wanted, say)
    if begin is not None:
        kept: deque[str] = deque(maxlen=tail)
        last = tell(logged(url, begin, wanted), wanted, kept.append)
    else:
        kept, last = last_events(url, wanted, tail)
    for line in kept:
        say(line)
    return last


def logged(url: str, start: Start, wanted: Wanted) -> Iterator[Entry]:
    """The log from ``start`` to its end. Where one task is wanted, messages that do not hold its id stay undecoded."""
    if not wanted.id:
        yield from replay(url, start)
        return
    # As the sender's json module writes it.
    needle = json.dumps(wanted.id)[1:-1].encode()
    for offset, body in replay_raw(url, start):
        yield Entry(offset, salvage(offset, body) if needle in body else [], b"")


def tell(entries: Iterable[Entry], wanted: Wanted, out: Callable[[str], None]) -> int | None:
    last = None
    for entry in entries:
        last = entry.offset
        for line in wanted.lines(entry):
            out(line)
    return last


def last_events(url: str, wanted: Wanted, tail: int) -> tuple[deque[str], int | None]:
    """The last events that are wanted. A log can't be read backwards: each look begins further from its end."""
    end = log_end(url)
    look = FIRST_LOOK
    while True:
        kept: deque[str] = deque(maxlen=tail)
        if end is None:
            return kept, None
        start = max(0, end + 1 - look)
        wanted.names = Names()
        first: list[int] = []
        last = tell(watched(logged(url, start, wanted), first), wanted, kept.append)
        # A log that has dropped its oldest part begins later than asked for.
        all_read = start == 0 or (first and first[0] > start)
        if len(kept) >= tail or all_read:
            return kept, last
        if look >= LAST_LOOK:
            note(f"these are all among the log's last {look:,} messages; --since looks further back")
            return kept, last
        look *= FURTHER


def watched(entries: Iterable[Entry], first: list[int]) -> Iterator[Entry]:
    """``entries``, the first one's offset put into ``first``."""
    for entry in entries:
        if not first:
            first.append(entry.offset)
        yield entry


def log_end(url: str) -> int | None:
    from app.eventlog import Log

    with Log(url) as log:
        return log.end()


def coming(address: Callable[[], str], wanted: Wanted, start: Start) -> None:
    """Tells what comes, for ever. A broker that goes away is waited for, and nothing of what it logged is left out.

    ``address`` says where it is now: where it comes back as another pod, another port of this host leads to it.
    """
    away = False
    while True:
        try:
            for entry in read(address(), start):
                if away:
                    note("the log is there again")
                    away = False
                start = entry.offset + 1
                for line in wanted.lines(entry):
                    say(line)
        except (Unavailable, WarrenError) as error:
            if isinstance(error, Unavailable) and error.lasting:
                raise
            if not away:
                note(f"{error}; waiting for it")
            away = True
            time.sleep(PAUSE)
