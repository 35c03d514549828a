"""What is asked to find a task: each source once for all tasks, and none that can't change the answer."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from time import time
from typing import TYPE_CHECKING, Any, TypeAlias

import amqp

from deploy import monitor_api
from deploy.commands import log
from deploy.commands.control import by_node, connected, nodes
from deploy.commands.overlays import learn
from deploy.dead_letters import QUEUE as DEAD_LETTERS
from deploy.dead_letters import Letter, Letters, connect
from deploy.errors import ExitCode, WarrenError
from deploy.output import note
from deploy.session import Session

if TYPE_CHECKING:
    from app.revokes.log import Record

__all__ = ["FINAL", "Depth", "Facts", "Held", "Row", "gather", "revokes_of"]

Row: TypeAlias = dict[str, Any]

FINAL = frozenset({"SUCCESS", "FAILURE", "REVOKED", "REJECTED"})

# Seconds that workers get to answer; they take hundredths.
WORKER_PATIENCE = 1.0
# Seconds that another reader of dead_letters gets to finish before the answer does without them.
LETTERS_PATIENCE = 2.0
# Seconds for which a stream of revokes that seems empty is watched: what is there arrives in thousandths.
EMPTY_WAIT = 0.2
# Tasks before a waiting one that are counted; of more, an operator needs no exact number.
COUNTED = 500

UUIDS = re.compile(rb"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")


@dataclass(frozen=True)
class Depth:
    """A queue as the broker has it now."""

    ready: int
    consumers: int


@dataclass(frozen=True)
class Held:
    """A task that a worker says it has."""

    worker: str
    state: str
    """active, reserved (taken, not begun) or scheduled (held back by the worker until its time)."""
    begun: float | None
    queue: str | None


@dataclass
class Facts:
    """What the sources told. Times are in seconds since 1970."""

    now: float
    time_limit: int
    retention: str
    queue_names: tuple[str, ...] = ()
    tasks: dict[str, Row] = field(default_factory=dict)
    workers: dict[str, Row] = field(default_factory=dict)
    """What the monitor heard of each worker."""
    nodes: list[str] | None = None
    """The workers that are connected; None where that could not be asked."""
    silent: list[str] = field(default_factory=list)
    held: dict[str, Held] = field(default_factory=dict)
    active: dict[str, list[Row]] = field(default_factory=dict)
    """What runs on workers that have a task reserved."""
    consumed: dict[str, list[str]] = field(default_factory=dict)
    """The queues of each worker, where it matters."""
    queues: dict[str, Depth] = field(default_factory=dict)
    letters: dict[str, Letter] = field(default_factory=dict)
    revokes: dict[str, Record] = field(default_factory=dict)
    time_limits: dict[str, int] = field(default_factory=dict)
    """The time limit of each queue; of others it is ``time_limit``."""
    pools: dict[str, str] = field(default_factory=dict)
    """The pools beside the default one, by their queues."""
    paused: dict[str, Record] = field(default_factory=dict)
    """The queues that are paused."""
    before: dict[str, tuple[int, bool]] = field(default_factory=dict)
    """Of waiting tasks: how many are before them, and whether there are more than were counted."""
    uncertain: list[str] = field(default_factory=list)


def gather(s: Session, ids: Sequence[str]) -> Facts:
    """What the sources tell of tasks.

    Raises:
        WarrenError: neither the monitor nor the broker can be asked.
    """
    facts = Facts(time(), s.settings.longest_time_limit, s.settings.events_max_age)
    ask_history(s, ids, facts)
    undecided = [id_ for id_ in ids if not settled(facts.tasks.get(id_))]
    know_queues(s, {str(facts.tasks[id_].get("queue") or "") for id_ in undecided if id_ in facts.tasks}, facts)
    if not undecided:
        return facts
    # What has ended is not with a worker, unless it was sent again.
    open_ = [id_ for id_ in undecided if not ended(facts.tasks.get(id_))]
    try:
        ask_broker(s, undecided, facts)
        if perhaps := [id_ for id_ in undecided if may_be_dead(facts.tasks.get(id_))]:
            read_letters(s, perhaps, facts)
        if open_:
            ask_workers(s, open_, facts)
            for id_ in open_ if len(ids) == 1 else ():
                count_before(s, id_, facts)
    except WarrenError as error:
        if error.code is not ExitCode.BROKER or not facts.tasks:
            raise
        # Only what the monitor knew is left to tell.
        facts.uncertain.append(str(error).partition(";")[0])
    return facts


def know_queues(s: Session, named: set[str], facts: Facts) -> None:
    """The queues to ask for, with their pools and limits: those ``named``, and all that the settings and the cluster know."""
    named -= {""}
    if named - {*s.settings.every_queue}:
        learn(s)
    settings = s.settings
    facts.queue_names = tuple(dict.fromkeys([*settings.every_queue, *sorted(named)]))
    facts.time_limit = settings.longest_time_limit
    facts.time_limits = {queue: settings.time_limit_of(queue) for queue in settings.every_queue}
    facts.pools = {queue: pool.name for pool in settings.pools for queue in pool.queues}


def settled(task: Row | None) -> bool:
    """Whether nothing but the history has to be asked."""
    return task is not None and (task["state"] == "SUCCESS" or (task["state"] == "FAILURE" and not may_be_dead(task)))


def ended(task: Row | None) -> bool:
    return task is not None and task["state"] in FINAL and not sent_again(task)


def sent_again(task: Row) -> str | None:
    """When a task that had ended was sent once more, from `dead_letters` for example."""
    finished = task.get("finished")
    times = [step["time"] for step in task.get("steps") or [] if step["state"] == "PENDING" and step["time"]]
    # The first "sent" may be late by the difference of two clocks.
    later = [one for one in times[1:] if finished and one > finished]
    return later[-1] if later and task["state"] != "SUCCESS" else None


def ask_history(s: Session, ids: Sequence[str], facts: Facts) -> None:
    """The tasks as the monitor has them, or else as the event log tells them."""
    missing = list(ids)
    try:
        facts.tasks = {id_: task for id_ in ids if (task := monitor_api.task(s.endpoints, s.secrets, id_))}
        missing = [id_ for id_ in ids if id_ not in facts.tasks]
        going_on = [id_ for id_, task in facts.tasks.items() if task["state"] not in FINAL]
        # The end of a task is the end, whatever the monitor has not read yet.
        why = monitor_api.behind(s.endpoints) if missing or going_on else None
        if why:
            missing += going_on
            why = f"the monitor is not up to date ({why})"
        elif missing:
            why = "the monitor does not know " + (
                "this task" if len(missing) == 1 else f"{len(missing)} of these tasks"
            )
        if going_on and not why:
            answer = monitor_api.get(s.endpoints, s.secrets, "/workers")
            facts.workers = {worker["name"]: worker for worker in answer["workers"]}
    except WarrenError as error:
        if error.code is not ExitCode.MONITOR:
            raise
        why = str(error).partition(";")[0]
    if missing:
        note(f"{why}; reading the event log instead")
        try:
            facts.tasks |= from_log(s, missing)
        except WarrenError:
            # What the monitor had read before the broker went away is still the newest that is known.
            if not facts.tasks:
                raise


def from_log(s: Session, ids: Sequence[str]) -> dict[str, Row]:
    """Those of the tasks that the event log tells of, read once for all."""
    from app.eventlog import Unavailable, find, replay_raw, salvage

    s.runner.show(f"read the stream celery.events for {' '.join(ids)}  # as user ops")
    wanted = set(ids)
    events: dict[str, list[Row]] = {}
    with connected(s, "ops"):
        try:
            if len(ids) == 1:
                events = {ids[0]: told} if (told := find(s.broker_url("ops"), ids[0])) else {}
                return {id_: log.folded(id_, told) for id_, told in events.items()}
            for offset, body in replay_raw(s.broker_url("ops"), "first"):
                if mentions(body, wanted):
                    for event in salvage(offset, body):
                        if event.get("uuid") in wanted:
                            events.setdefault(event["uuid"], []).append(event)
        except Unavailable as error:
            raise log.as_known(s, error) from error
    return {id_: log.folded(id_, told) for id_, told in events.items()}


def mentions(body: bytes, wanted: set[str]) -> bool:
    """Whether one of the ids may be in ``body``: what is not worth decoding is most of a log."""
    if len(wanted) <= 3:
        # As the sender's json module writes it.
        return any(json.dumps(one)[1:-1].encode() in body for one in wanted)
    found = {match.decode() for match in UUIDS.findall(body)}
    return not wanted.isdisjoint(found) or any(len(one) != 36 and one.encode() in body for one in wanted)


def ask_broker(s: Session, ids: Sequence[str], facts: Facts) -> None:
    """The queues as they are now, and the revokes."""
    from app.eventlog import Unavailable

    names = dict.fromkeys([*facts.queue_names, DEAD_LETTERS])
    with connected(s, "ops"), connect(s, "ops") as connection:
        facts.queues = depths(connection, names)
    try:
        facts.revokes, facts.paused = read_stream(s, set(ids))
    except Unavailable as error:
        facts.uncertain.append(f"revokes could not be read: {error}")


def may_be_dead(task: Row | None) -> bool:
    """Whether a task may be in `dead_letters`: tasks that fail or are revoked are acknowledged, unknown ones are rejected."""
    if task is None or task["state"] not in {"FAILURE", "REVOKED"} or sent_again(task):
        return True
    return task["state"] == "FAILURE" and "NotRegistered" in str(task.get("exception"))


def read_letters(s: Session, ids: Sequence[str], facts: Facts) -> None:
    if facts.queues.get(DEAD_LETTERS, Depth(1, 0)) == Depth(0, 0):
        return
    try:
        with connected(s, "ops"), Letters(s, LETTERS_PATIENCE) as letters:
            wanted = set(ids)
            # The last one of each: the queue is in the order in which they came.
            facts.letters = {letter.id: letter for letter in letters if letter.id in wanted}
    except WarrenError as error:
        facts.uncertain.append(f"dead_letters could not be read: {error}")


def depths(connection: Any, names: Iterable[str]) -> dict[str, Depth]:
    """The queues of ``names`` that there are. RabbitMQ's management API would tell of a few seconds ago."""
    found = {}
    for name in names:
        channel = connection.channel()
        with contextlib.suppress(amqp.NotFound):
            answer = channel.queue_declare(name, passive=True)
            found[name] = Depth(int(answer.message_count), int(answer.consumer_count))
            channel.close()
    return found


def revokes_of(s: Session, ids: set[str]) -> dict[str, Record]:
    """The last revoke of each of the tasks that are revoked by their ids.

    Raises:
        app.eventlog.Unavailable: the stream of revokes can't be read.
    """
    return read_stream(s, ids)[0]


def read_stream(s: Session, ids: set[str]) -> tuple[dict[str, Record], dict[str, Record]]:
    """As :func:`revokes_of`, and the queues that are paused, each by the record that says so.

    Raises:
        app.eventlog.Unavailable: the stream of revokes can't be read.
    """
    from app.eventlog import Log
    from app.revokes.log import STREAM, decode

    s.runner.show(f"read the stream {STREAM}  # as user ops")
    found: dict[str, Record] = {}
    paused: dict[str, Record] = {}
    with Log(s.broker_url("ops"), stream=STREAM) as stream:
        end = stream.end(EMPTY_WAIT)
        if end is None:
            return found, paused
        stream.consume("first")
        while (message := stream.next_raw(WORKER_PATIENCE)) is not None:
            offset, body = message
            if (b'"queue"' in body or mentions(body, ids)) and (record := decode(body)) is not None:
                found |= dict.fromkeys(ids.intersection(record.ids), record)
                if record.queue and record.paused:
                    paused[record.queue] = record
                else:
                    paused.pop(record.queue, None)
            if offset >= end:
                break
    return found, paused


def ask_workers(s: Session, ids: Sequence[str], facts: Facts) -> None:
    """Who has the tasks; what keeps whoever has not begun; and who takes tasks from queues that nobody takes from."""
    known = facts.nodes = nodes(s)
    if not known:
        return
    with connected(s, "ops"):
        app = s.client("ops")

        def ask(method: str, of: Sequence[str], **arguments: Any) -> dict[str, Any]:
            s.runner.show(f"celery -A app inspect {method}  # as user ops")
            return by_node(
                app.control.broadcast(
                    method,
                    arguments=arguments,
                    destination=None if of is known else list(of),
                    reply=True,
                    limit=len(of),
                    timeout=WORKER_PATIENCE,
                )
            )

        answers = ask("query_task", known, ids=list(ids))
        facts.silent = sorted(set(known) - set(answers))
        for node, tasks in answers.items():
            for id_, (state, info) in (tasks if isinstance(tasks, dict) else {}).items():
                key = (info.get("delivery_info") or {}).get("routing_key")
                facts.held[id_] = Held(node, state, info.get("time_start"), key and key.rpartition(".")[2])
        busy = sorted({held.worker for held in facts.held.values() if held.state == "reserved"})
        if busy:
            facts.active = ask("active", busy)
        if any(depth.consumers < 1 for name, depth in facts.queues.items() if name in facts.queue_names):
            consumed = ask("active_queues", known)
            facts.consumed = {node: [queue["name"] for queue in found or []] for node, found in consumed.items()}


def count_before(s: Session, id_: str, facts: Facts) -> None:
    """About how many tasks are before a waiting one: those sent earlier to the same queue, no more than are in it."""
    task = facts.tasks.get(id_)
    if task is None or id_ in facts.held or task["state"] != "PENDING" or not task.get("queue"):
        return
    depth = facts.queues.get(task["queue"])
    if depth is None or depth.ready < 1:
        return
    asked = {"state": "PENDING", "queue": task["queue"], "limit": COUNTED}
    try:
        pages = [
            monitor_api.get(s.endpoints, s.secrets, "/tasks", asked | bounds)
            for bounds in ({"sort": "-time", "until": task["time"]}, {"sort": "time", "since": task["time"]})
            if depth.ready > 1
        ]
    except WarrenError:
        # Anywhere in it; nobody else knows.
        facts.before[id_] = (depth.ready - 1, True)
        return
    earlier, after = (
        sum(1 for one in page["tasks"] if one["id"] != id_ and not later(one.get("eta"), facts.now))
        for page in pages or [{"tasks": []}] * 2
    )
    # What a purge took is waiting to the history, but newer than what waits it can't be.
    most = depth.ready - 1 - after
    more = bool(pages and pages[0]["next"]) and earlier < most
    facts.before[id_] = (max(0, min(earlier, most)), more)


def later(eta: str | None, now: float) -> bool:
    from app.monitor.history.task import moment

    return moment(eta) > now
