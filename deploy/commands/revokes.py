"""`revoke` and `revoked`: what is not to run, said so that it holds, and what became of it."""

from __future__ import annotations

import signal as signals
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from app.monitor.history.clock import read_time
from deploy import monitor_api
from deploy.commands import control, history, log, looks
from deploy.commands.control import ask, by_node, connected, nodes, refuse_under_alarm, task_id
from deploy.commands.stack import confirm
from deploy.errors import ExitCode, WarrenError
from deploy.output import note, print_json, say
from deploy.session import Session

if TYPE_CHECKING:
    from celery import Celery

    from deploy.where import Answer, Facts

__all__ = ["revoke", "revoked"]

# Tasks of one --name; of more, it is the queue that is to be purged.
MOST = 20_000
# Tasks that are listed before the question, and told of one by one after it.
SHOWN = 50
# Seconds in which a task that was told to end does, or is told once more and gets them again.
END_PATIENCE = 2.0
# Seconds by which the clock of a worker may be behind.
CLOCKS = 1.0

Did: TypeAlias = Literal["waiting", "scheduled", "reserved", "running", "ended", "discarded", "finished", "unknown"]

WHAT = {
    "waiting": "wait and will be discarded",
    "scheduled": "are scheduled and will be discarded when they are due",
    "reserved": "are with a worker that will discard them",
    "running": "still run",
    "ended": "ran and were ended",
    "discarded": "were discarded",
    "finished": "had ended before",
    "unknown": "are not known; they will be discarded if they come",
}


@dataclass(frozen=True)
class Outcome:
    """What a revoke did to one task."""

    id: str
    did: Did
    line: str
    worker: str | None = None


def revoke(
    s: Session,
    ids: list[str],
    terminate: bool = False,
    signal: str = "",
    name: str = "",
    older_than: str = "",
    queue: str = "",
    yes: bool = False,
    as_json: bool = False,
) -> None:
    ids = list(dict.fromkeys(task_id(one) for one in ids))
    if bool(ids) == bool(name or older_than or queue):
        raise WarrenError(
            "which task? Give one or more ids: invoke revoke ID..., "
            "or which waiting ones: invoke revoke --name app.tasks.add --older-than 1h"
            if not ids
            else "ids, or --name, --older-than and --queue: not both",
            ExitCode.USAGE,
        )
    signal = signal_name(signal, terminate)
    if not ids:
        found = matching(s, name, older_than, queue, terminate)
        if not found:
            if as_json:
                print_json({"terminate": terminate, "workers": 0, "silent": [], "tasks": []})
            note("no task that has not ended matches")
            return
        ids = [task["id"] for task in found]
        if not yes and not s.runner.dry:
            offer(s, found, terminate)
    ending = f"terminate {signal}" if terminate else "revoke"
    if not s.acts(f"celery -A app control {ending} {' '.join(ids)}  # as user ops; kept in celery.revoked"):
        return
    work = Work(s, ids, terminate, signal)
    work.tell()
    outcomes = work.outcomes()
    if as_json:
        about = {"terminate": terminate, "workers": len(work.known), "silent": work.silent}
        print_json({**about, "tasks": [asdict(one) for one in outcomes]})
    else:
        show(outcomes)
    work.complain(outcomes)


def signal_name(signal: str, terminate: bool) -> str:
    if signal and not terminate:
        raise WarrenError("--signal says how to end running tasks; it goes with --terminate", ExitCode.USAGE)
    signal = (signal or "SIGTERM").upper()
    signal = signal if signal.startswith("SIG") else f"SIG{signal}"
    if signal not in {one.name for one in signals.Signals}:
        raise WarrenError(f"there is no signal {signal!r}; SIGTERM asks a task to end, SIGKILL ends it", ExitCode.USAGE)
    return signal


def matching(s: Session, name: str, older_than: str, queue: str, terminate: bool) -> list[dict[str, Any]]:
    """The tasks of the history that have not ended, the oldest first; those that run only where they are to be ended."""
    states = "PENDING,RECEIVED,RETRY" + (",STARTED" if terminate else "")
    found, more = history.search(s, history.query(state=states, name=name, until=older_than, queue=queue), MOST)
    if more:
        raise WarrenError(
            f"more than {MOST} tasks match, or the search took too long; narrow it with --name, --older-than or --queue",
            ExitCode.USAGE,
        )
    return found[::-1]


def offer(s: Session, tasks: list[dict[str, Any]], terminate: bool) -> None:
    """Lists what is to be revoked, and asks."""
    console = looks.console()
    for line in looks.listing(tasks[:SHOWN], looks.terminal_width()):
        console.print(line)
    if len(tasks) > SHOWN:
        note(f"... and {len(tasks) - SHOWN} more")
    count = f"{len(tasks)} task{'' if len(tasks) == 1 else 's'}"
    confirm(s, f"`revoke` keeps {count} from running{', and ends those that run' if terminate else ''}")


class Work:
    """One revoke: told, and seen to have happened."""

    def __init__(self, s: Session, ids: list[str], terminate: bool, signal: str) -> None:
        self.s = s
        self.ids = ids
        self.terminate = terminate
        self.signal = signal
        self.began = time.time()
        self.known: list[str] = []
        self.silent: list[str] = []
        self.ran: dict[str, str] = {}
        """The tasks that workers were told to end, each with its worker."""
        self.left: dict[str, str] = {}
        """Those of them that run all the same."""

    def tell(self) -> None:
        """Revokes. From here on it holds, whatever else fails.

        Raises:
            WarrenError: the broker does not keep it (exit code 5); nothing was revoked then.
        """
        try:
            with connected(self.s, "ops"):
                self.known = nodes(self.s)
                app = self.s.client("ops")
                replies = self.once(app)
                if self.terminate:
                    self.see_to_it(app)
        except WarrenError:
            # Says more than that nothing answers.
            refuse_under_alarm(self.s)
            raise
        self.silent = sorted(set(self.known) - set(replies))

    def once(self, app: Celery) -> dict[str, Any]:
        replies = app.control.revoke(
            self.ids,
            terminate=self.terminate,
            signal=self.signal,
            reply=bool(self.known),
            limit=len(self.known),
            timeout=control.REPLY_PATIENCE,
        )
        answers = by_node(replies)
        if self.terminate:
            for node, answer in answers.items():
                # Celery answers in words: "terminate: ID, ID".
                said = str(answer.get("ok", "")) if isinstance(answer, dict) else ""
                self.ran |= {id_: node for id_ in self.ids if said.startswith("terminate: ") and id_ in said}
        return answers

    def see_to_it(self, app: Celery) -> None:
        """Waits until what ran has ended; says it once more to what has not."""
        for attempt in (1, 2):
            limit = time.monotonic() + END_PATIENCE
            while self.known:
                self.left = self.running(app)
                if not self.left:
                    return
                if time.monotonic() > limit:
                    break
                time.sleep(0.1)
            if attempt == 1 and self.known:
                self.once(app)

    def running(self, app: Celery) -> dict[str, str]:
        answers = ask(self.s, app, "query_task", limit=len(self.known), ids=self.ids)
        return {
            id_: node
            for node, tasks in answers.items()
            for id_, (state, _) in (tasks if isinstance(tasks, dict) else {}).items()
            if state == "active"
        }

    def outcomes(self) -> list[Outcome]:
        from deploy.where.decide import decide
        from deploy.where.facts import gather

        try:
            facts = gather(self.s, self.ids)
        except WarrenError as error:
            why = str(error).partition(";")[0]
            return [Outcome(id_, "unknown", f"revoked; where it is can't be told: {why}") for id_ in self.ids]
        # Where it is apart from what was just said of it.
        facts.revokes = {id_: one for id_, one in facts.revokes.items() if one.at < self.began}
        return [self.outcome(id_, decide(id_, facts), facts) for id_ in self.ids]

    def outcome(self, id_: str, answer: Answer, facts: Facts) -> Outcome:
        if id_ in self.left:
            line = f"still runs on {self.left[id_]}, which was told twice to end it with {self.signal}"
            if self.signal != "SIGKILL":
                line += f"; `invoke revoke {id_} --terminate --signal SIGKILL` leaves it no choice"
            return Outcome(id_, "running", line, self.left[id_])
        if id_ in self.ran:
            return Outcome(id_, "ended", f"ran on {self.ran[id_]}, ended with {self.signal}", self.ran[id_])
        did, line = self.told(id_, answer, facts)
        return Outcome(id_, did, line, answer.worker)

    def told(self, id_: str, answer: Answer, facts: Facts) -> tuple[Did, str]:
        from deploy.where import RUNNING

        line = answer.line
        if answer.ended:
            finished = read_time((facts.tasks.get(id_) or {}).get("finished"))
            if answer.kind == "revoked" and finished is not None and finished.timestamp() >= self.began - CLOCKS:
                return "discarded", f"discarded by {answer.worker}"
            return "finished", f"had ended before: {line}"
        if answer.kind in RUNNING and answer.kind != "reserved":
            if self.terminate:
                return "running", f"{line}; its worker did not answer, so it may run on"
            return "running", f"{line}: it goes on, only `invoke revoke {id_} --terminate` ends it"
        others: dict[str, tuple[Did, str]] = {
            "reserved": ("reserved", ": that worker will discard it"),
            "scheduled": ("scheduled", f": it will be discarded then{self.beyond(answer)}"),
            "unknown": ("unknown", f". It will be discarded if it comes within {self.s.settings.revokes_max_age}"),
            "dead": ("waiting", ": it will be discarded if it is requeued"),
            "revoked": ("waiting", ""),
        }
        did, more = others.get(answer.kind, ("waiting", ": it will be discarded"))
        return did, line + more

    def beyond(self, answer: Answer) -> str:
        """Words on a task that is due when its revoke is forgotten."""
        due = read_time(answer.until)
        held = self.s.settings.revokes_seconds
        if due is None or due.timestamp() < self.began + held:
            return ""
        return (
            f", BUT revokes are kept for {self.s.settings.revokes_max_age} (WARREN_REVOKES_MAX_AGE) and it is due later: "
            "raise that, or revoke it again before then"
        )

    def complain(self, outcomes: list[Outcome]) -> None:
        """What the exit code is to tell."""
        still = [one for one in outcomes if one.did == "running"]
        if self.terminate and still:
            raise WarrenError(
                f"{len(still)} of {len(outcomes)} tasks still run; see `invoke inspect active`", ExitCode.FAILED
            )
        if not self.silent:
            return
        who = f"{len(self.silent)} of {len(self.known)} workers did not answer ({', '.join(self.silent)})"
        if self.terminate:
            raise WarrenError(f"{who}: whether a task runs there is not known; see `invoke ping`", ExitCode.TIMEOUT)
        note(f"{who}; they read it from the broker before they take another task, or as soon as they can")


def show(outcomes: list[Outcome]) -> None:
    if len(outcomes) <= SHOWN:
        for one in outcomes:
            say(f"{one.id}: {one.line}")
        return
    say(f"{len(outcomes)} tasks are revoked.")
    for did, words in WHAT.items():
        if count := sum(one.did == did for one in outcomes):
            say(f"{count:6} {words}")
    for one in outcomes:
        if one.did == "running":
            say(f"{one.id}: {one.line}")


# --- what was revoked


def revoked(s: Session, since: str, limit: int, as_json: bool) -> None:
    rows = kept(s, since)
    shown = rows[:limit]
    tasks = known(s, [row["id"] for row in shown if row["id"]])
    for row in shown:
        task = tasks.get(row["id"] or "", {})
        row |= {"name": task.get("name"), "state": task.get("state")}
    if as_json:
        print_json({"revoked": shown, "more": len(rows) > limit})
        return
    if not shown:
        note(f"nothing was revoked in the last {since or s.settings.revokes_max_age}")
        return
    today = all(row["at"][:10] == f"{datetime.now(UTC):%Y-%m-%d}" for row in shown)
    cells = [
        (
            (looks.moment(row["at"], today), "dim"),
            (looks.one_line(row["id"] or row["stamp"]), ""),
            (looks.one_line(row["name"] or ""), ""),
            (row["state"] or "", looks.STYLES.get(row["state"] or "", "")),
            (looks.one_line(row["by"]), ""),
        )
        for row in shown
    ]
    columns = [
        looks.Column(heading, [row[number] for row in cells])
        for number, heading in enumerate(("UTC", "task, or stamp", "name", "state", "revoked by"))
    ]
    console = looks.console()
    console.print(looks.line([(one.heading, "dim", one.width, False) for one in columns], None))
    for number in range(len(shown)):
        console.print(looks.line([(*one.cells[number], one.width, False) for one in columns], None))
    if len(rows) > limit:
        note(f"there are {len(rows) - limit} more: --limit {len(rows)}, or --since")


def kept(s: Session, since: str) -> list[dict[str, Any]]:
    """What the broker has in its stream of revokes, the newest first; each task once."""
    from app.eventlog import Unavailable
    from app.monitor.history.clock import parse_time, rfc3339
    from app.revokes.log import read

    try:
        start = parse_time(since) if since else None
    except ValueError as error:
        raise WarrenError(f"--since: {error}", ExitCode.USAGE) from error
    s.runner.show("read the stream celery.revoked  # as user ops")
    found: dict[str, dict[str, Any]] = {}
    try:
        for record in read(s.broker_url("ops"), start):
            what = [(id_, None) for id_ in record.ids]
            stamps = [(None, f"{header}={one}") for header, values in record.headers.items() for one in values]
            for id_, stamp in [*what, *stamps]:
                key = id_ or stamp or ""
                found.pop(key, None)
                found[key] = {"at": rfc3339(record.at), "id": id_, "stamp": stamp, "by": record.by}
    except Unavailable as error:
        raise log.as_known(s, error) from error
    return list(found.values())[::-1]


def known(s: Session, ids: list[str]) -> dict[str, dict[str, Any]]:
    """What the monitor tells of tasks; without it, nothing."""
    try:
        return {id_: task for id_ in ids if (task := monitor_api.task(s.endpoints, s.secrets, id_))}
    except WarrenError as error:
        if error.code is not ExitCode.MONITOR:
            raise
        note(f"{str(error).partition(';')[0]}; names and states are left out")
        return {}
