"""Queues: what waits in them, how long already, what is held for later; emptying, pausing and resuming them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from app.eventlog import Unavailable
from app.monitor.history.clock import read_time, rfc3339
from deploy import management, monitor_api
from deploy.commands import looks
from deploy.commands.log import as_known
from deploy.commands.overlays import has_queue
from deploy.commands.stack import NUMBERS, cells, confirm, delays, pool_named, queue_row, shown
from deploy.dead_letters import QUEUE as DEAD_LETTERS
from deploy.errors import ExitCode, WarrenError
from deploy.output import note, print_json, say, table
from deploy.session import Session

if TYPE_CHECKING:
    from amqp import Channel

    from app.revokes.log import Record

__all__ = ["pause", "purge", "queues", "resume", "schedule"]

# Tasks that are looked at for the age of the oldest one: a page of the monitor's API, which takes some hundredths of a second.
LOOKED_AT = 1000
# Seconds. What the monitor adds to the broker's numbers is worth no more.
MONITOR_PATIENCE = 2.0
# Seconds that `queues` reads the stream of revokes for the pauses among them: some 40,000 messages.
PAUSED_PATIENCE = 1.0
# Seconds in which workers follow a pause. It takes them hundredths; on a machine with too much to do, some seconds.
FOLLOW_PATIENCE = 10.0
# Seconds between two questions whether they have.
FOLLOW_INTERVAL = 0.05
# Tasks that `schedule` reads from the monitor.
SCHEDULE_LIMIT = 20_000


def queues(s: Session, every: bool, as_json: bool) -> None:
    s.endpoints.soon("rabbitmq", "monitor")
    rows = [queue_row(queue) for queue in management.queues(s.endpoints, s.secrets) if every or shown(queue)]
    oldest = ages(s, rows)
    held = paused_now(s)
    for row in rows:
        row["oldest_seconds"] = oldest.get(row["queue"])
        if row["queue"] in held:
            row["state"] = "paused"
    if as_json:
        print_json(rows)
        return
    headings = ("queue", "ready", "unacked", "consumers", "in/s", "out/s", "oldest", "type", "state")
    lines = []
    for row in rows:
        *numbers, kind, state, age = cells(row)
        lines.append([*numbers, looks.duration(age), kind, state])
    table(headings, lines, right=(*NUMBERS, "oldest"))


# --- how long the oldest waits


def ages(s: Session, rows: list[dict[str, Any]]) -> dict[str, float]:
    """For how many seconds the oldest task of each queue waits, where something waits and the monitor can tell.

    The broker does not know: of quorum queues it has no time of their first message.
    """
    found: dict[str, float] = {}
    for row in rows:
        if of_tasks(row) and row["ready"]:
            try:
                since = waiting_since(s, row["queue"], row["ready"])
            except WarrenError as error:
                note(f"{str(error).partition(';')[0]}; how long the oldest task waits is not known")
                return found
            if since is not None:
                found[row["queue"]] = max(0.0, round(time.time() - since, 1))
    return found


def of_tasks(row: dict[str, Any]) -> bool:
    """Whether it is a queue that workers take tasks from, also where the settings don't name it."""
    return row["type"] == "quorum" and row["queue"] != DEAD_LETTERS and not delays(row["queue"])


def waiting_since(s: Session, queue: str, ready: int) -> float | None:
    """Since when the first of ``ready`` messages of a queue waits: they are the ones that came last.

    What was purged is without an end in the history too, and longer there than all that waits.
    """
    newest = ready <= LOOKED_AT
    values: dict[str, str | int | None] = {
        "state": "PENDING,RETRY",
        "queue": queue,
        "limit": LOOKED_AT,
        "sort": "-time" if newest else "time",
    }
    page = monitor_api.get(s.endpoints, s.secrets, "/tasks", values, patience=MONITOR_PATIENCE)
    now = time.time()
    begun = sorted(when for when in (waits_since(task) for task in page["tasks"]) if when is not None and when <= now)
    if not begun:
        return None
    return begun[max(0, len(begun) - ready)] if newest else begun[0]


def waits_since(task: dict[str, Any]) -> float | None:
    """Since, or from, when a task waits in its queue; before that the broker holds it elsewhere."""
    times = [read_time(task.get(key)) for key in ("time", "eta")]
    return max((aware(when).timestamp() for when in times if when), default=None)


def aware(when: datetime) -> datetime:
    return when if when.tzinfo else when.replace(tzinfo=UTC)


# --- purge


def purge(s: Session, queue: str, yes: bool, as_json: bool) -> None:
    require_task_queue(s, queue)
    with channel(s) as opened:
        # Passive: it asks only. The management API's numbers are some seconds old.
        waiting = int(opened.queue_declare(queue, passive=True).message_count)
        if not s.acts(f"purge the queue {queue} ({tasks_in_words(waiting)})  # as user worker"):
            return
        if waiting and not yes:
            confirm(s, f"`purge {queue}` deletes {tasks_in_words(waiting)} for good: their senders wait for nothing")
        purged = int(opened.queue_purge(queue)) if waiting else 0
    if as_json:
        print_json({"queue": queue, "purged": purged})
        return
    say(f"{queue}: {tasks_in_words(purged)} deleted." if purged else f"{queue} is empty.")
    if purged:
        note(
            "what workers hold already goes on, and so does what is held for later. "
            f"`invoke history --queue {queue} --state PENDING` still lists what is deleted: no event tells of it"
        )


def tasks_in_words(count: int) -> str:
    return f"{count:,} waiting task{'' if count == 1 else 's'}"


def require_task_queue(s: Session, queue: str) -> None:
    if has_queue(s, queue):
        return
    why = {
        "dead_letters": "; for dead_letters there is `invoke dead-letters`",
        "celery.events": "; celery.events is a log, which drops what is old by itself",
        "celery.revoked": "; celery.revoked is a log, which drops what is old by itself",
    }.get(queue, "")
    if queue.startswith("celery_delayed_"):
        why = f"; {queue} holds tasks of all queues for later: see `invoke schedule`, and revoke them"
    raise WarrenError(
        f"there is no task queue {queue!r}; the queues are {', '.join(s.settings.every_queue)} "
        f"({', '.join(s.settings.queue_variables)}){why}",
        ExitCode.UNKNOWN,
    )


@contextmanager
def channel(s: Session) -> Iterator[Channel]:
    """A connection as user worker, who may take messages out of queues of tasks; ops may not."""
    from deploy.commands.control import connected  # imports Kombu

    with (
        connected(s, "worker"),
        s.client("worker", broker_transport_options={}).connection_for_write() as connection,
    ):
        connection.connect()
        yield connection.default_channel


# --- pause and resume


def pause(s: Session, names: list[str], as_json: bool, pool: str = "") -> None:
    turn(s, names, True, as_json, pool)


def resume(s: Session, names: list[str], as_json: bool, pool: str = "") -> None:
    turn(s, names, False, as_json, pool)


def turn(s: Session, names: list[str], paused: bool, as_json: bool, pool: str) -> None:
    """Pauses or resumes queues, and those of a pool; without any shows which are paused."""
    for name in names:
        require_task_queue(s, name)
    again = [*names, *(["--pool", pool] if pool else [])]
    if pool:
        names = list(dict.fromkeys([*names, *pool_named(s, pool).queues]))
    if not names:
        show_paused(paused_now(s, required=True), as_json)
        return
    from app.revokes import log
    from deploy.commands.control import connected, logs_of, refuse_under_alarm

    verb = "pause" if paused else "resume"
    if not s.acts(f"{verb} {' '.join(names)}  # kept in the stream celery.revoked, as user ops"):
        return
    refuse_under_alarm(s)
    with connected(s, "ops"):
        app = s.client("ops")
        for name in names:
            log.append(app, log.make(queue=name, paused=paused))
        workers, consumers, silent = followed(s, names, paused)
    if as_json:
        print_json({"paused": paused, "workers": workers, "silent": silent, "consumers": consumers})
    else:
        for name in names:
            say(f"{name}: {verb}d; {consumed(len(consumers[name]), workers)}")
        if paused:
            note(
                f"it holds until `invoke resume {' '.join(again)}`, also for workers that start later, but not longer than "
                f"WARREN_REVOKES_MAX_AGE={s.settings.revokes_max_age}; what workers hold already goes on"
            )
    late = {node for name in names for node in consumers[name]} if paused else set()
    if who := sorted(late | set(silent)):
        raise WarrenError(
            f"{', '.join(who)} did not follow within {FOLLOW_PATIENCE:g} s; see {logs_of(s, who)}",
            ExitCode.TIMEOUT,
        )


def consumed(count: int, workers: int) -> str:
    if not workers:
        return "no worker is up; it holds for those that start"
    return f"{count or 'none'} of {workers} worker{'' if workers == 1 else 's'} consume{'s' if count < 2 else ''} it"


def followed(s: Session, names: list[str], paused: bool) -> tuple[int, dict[str, list[str]], list[str]]:
    """The number of workers, who of them consumes each queue, and who did not answer, as soon as all have followed.

    Workers that are made for other queues never consume these; where all are resumed, one that does is enough.
    """
    from deploy.commands.control import nodes
    from deploy.commands.workers import Workers

    if not nodes(s):
        return 0, {name: [] for name in names}, []
    asked = Workers(s)
    end = time.monotonic() + FOLLOW_PATIENCE
    while True:
        answers = asked.ask("active_queues")
        consumers = {
            name: [node for node, of in answers.items() if name in {queue["name"] for queue in of}] for name in names
        }
        if all(bool(consumers[name]) is not paused for name in names) or time.monotonic() > end or not answers:
            return len(asked.known), consumers, asked.silent
        time.sleep(FOLLOW_INTERVAL)


def paused_now(s: Session, required: bool = False) -> dict[str, Record]:
    """The queues that are paused; none, and a note, where that can't be read soon, unless it is ``required``."""
    from app.revokes import log

    try:
        return log.paused(s.broker_url("ops"), math.inf if required else PAUSED_PATIENCE)
    except Unavailable as error:
        if required:
            raise as_known(s, error) from error
        note(f"{error}; which queues are paused is not known")
        return {}


def show_paused(held: dict[str, Record], as_json: bool) -> None:
    if as_json:
        print_json(
            [{"queue": name, "since": rfc3339(record.at), "by": record.by} for name, record in sorted(held.items())]
        )
    elif held:
        rows = [
            (name, f"{datetime.fromtimestamp(one.at, UTC):%Y-%m-%d %H:%M:%S}", one.by) for name, one in held.items()
        ]
        table(("queue", "paused since (UTC)", "by"), sorted(rows))
    else:
        note("no queue is paused; `invoke pause QUEUE` pauses one")


# --- what is held for later


def schedule(s: Session, limit: int, as_json: bool) -> None:
    from deploy.commands import history

    query = history.query(state="PENDING,RETRY")
    found, more = history.search(s, query, SCHEDULE_LIMIT)
    now = datetime.now(UTC)
    waiting = sorted(
        (task for task in found if (when := read_time(task.get("eta"))) and aware(when) > now),
        key=lambda task: aware(read_time(task["eta"]) or now),
    )
    held = sum(
        queue.get("messages", 0)
        for queue in management.queues(s.endpoints, s.secrets)
        if queue["name"].startswith("celery_delayed_")
    )
    revoked = revoked_of(s, waiting)
    if as_json:
        tasks = [{**task, "revoked": task["id"] in revoked} for task in waiting[:limit]]
        print_json({"tasks": tasks, "count": len(waiting), "in_broker": held, "more": more})
        return
    if waiting:
        rows = [
            (
                looks.moment(aware(read_time(task["eta"]) or now).astimezone(UTC).isoformat(), today=False),
                "in " + looks.duration((aware(read_time(task["eta"]) or now) - now).total_seconds()),
                looks.one_line(task["name"]),
                task["id"],
                task["queue"],
                "revoked" if task["id"] in revoked else task["state"],
            )
            for task in waiting[:limit]
        ]
        table(("UTC", "in", "name", "id", "queue", "state"), rows, right=("in",))
    if len(waiting) > limit:
        note(f"there are {len(waiting) - limit:,} more: --limit {limit * 5}")
    note(
        f"{len(waiting):,} known to the monitor, {held:,} held by the broker (it counts every few seconds"
        f"{'; the search was cut short' if more else ''})"
    )


def revoked_of(s: Session, tasks: list[dict[str, Any]]) -> set[str]:
    """The ids of those that a worker will throw away when their time has come."""
    from app.revokes import log

    wanted = {task["id"] for task in tasks}
    if not wanted:
        return set()
    try:
        return wanted.intersection(one for record in log.read(s.broker_url("ops")) for one in record.ids)
    except Unavailable:
        return set()
