"""What follows from the facts: the answer, with the newest fact first where sources contradict each other."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from app.monitor.history.clock import rfc3339
from app.monitor.history.task import moment
from deploy.commands.looks import duration, one_line, trouble
from deploy.dead_letters import Letter
from deploy.where.answer import Answer
from deploy.where.facts import FINAL, Facts, Held, Row, sent_again

if TYPE_CHECKING:
    from app.revokes.log import Record

__all__ = ["decide"]

# Seconds in which an event is on its way from a worker to the history.
ON_ITS_WAY = 3.0
# Seconds by which a dead letter, whose time is in whole ones, may seem older than the event of what made it one.
ROUNDING = 2.0
# Seconds beyond its time limit at which a task that still runs is no matter of a late kill any more.
LIMIT_MARGIN = 30.0
# Characters of results and exceptions in the line; all of them are below it.
TEXT = 120


def decide(id_: str, facts: Facts) -> Answer:
    """Where the task is."""
    answer = replace(One(id_, facts).answer(), uncertain=tuple(facts.uncertain))
    if facts.uncertain and not answer.ended:
        return replace(answer, line=f"{answer.line} (not certain: {'; '.join(facts.uncertain)})")
    return answer


class One:
    """One task and what is known of it."""

    def __init__(self, id_: str, facts: Facts) -> None:
        self.id = id_
        self.facts = facts
        self.now = facts.now
        self.task: Row = facts.tasks.get(id_) or {}
        self.held = facts.held.get(id_)
        self.letter = facts.letters.get(id_)
        self.revoke = facts.revokes.get(id_)
        self.state = str(self.task.get("state", ""))
        self.again = sent_again(self.task) if self.task else None
        if self.again:
            self.state = "PENDING"
        self.queue = self.task.get("queue") or (self.held.queue if self.held else None)
        self.worker = self.task.get("worker") if self.state != "PENDING" else None
        # A retry is received anew too; what is beyond that was delivered more than once.
        self.attempt = max(1, int(self.task.get("attempts") or 0) - int(self.task.get("retries") or 0))

    def answer(self) -> Answer:
        if self.state != "SUCCESS":
            if self.held and self.held.state != "ready":
                return self.with_worker(self.held)
            if self.letter and self.is_newest(self.letter):
                return self.dead(self.letter)
        if self.state in FINAL:
            ends = {"SUCCESS": self.succeeded, "FAILURE": self.failed, "REVOKED": self.discarded}
            return ends.get(self.state, self.rejected)()
        return self.revoked(self.revoke) if self.revoke else self.going_on()

    def going_on(self) -> Answer:
        if not self.task:
            return self.unknown()
        if self.state in {"RECEIVED", "STARTED"}:
            return self.taken()
        return self.in_broker()

    def make(self, kind: Any, line: str, **fields: Any) -> Answer:
        since = fields.pop("since", None)
        return Answer(
            id=self.id,
            kind=kind,
            line=line,
            name=self.task.get("name") or (self.letter.name if self.letter else None),
            queue=fields.pop("queue", self.queue),
            attempt=fields.pop("attempt", self.task.get("attempts") or None),
            since=rfc3339(since) if isinstance(since, float) else since,
            **fields,
        )

    # --- with a worker

    def with_worker(self, held: Held) -> Answer:
        if held.state == "scheduled":
            due = moment(self.task.get("eta"))
            when = f"for {at(due, self.now)} (in {span(due - self.now)})" if due > self.now else "for later"
            return self.make(
                "scheduled", f"scheduled {when}, held by {held.worker}", worker=held.worker, until=rfc3339(due or None)
            )
        if held.state == "reserved":
            return self.reserved(held)
        begun = held.begun or seconds(self.task.get("started")) or self.now
        return self.runs(held.worker, begun)

    def reserved(self, held: Held) -> Answer:
        since = seconds(self.task.get("received"))
        line = f"reserved by {held.worker}{self.since_words(since)}"
        others = [one for one in self.facts.active.get(held.worker, []) if one.get("id") != self.id]
        if others:
            other = others[0]
            ran = f" for {span(self.now - other['time_start'])}" if other.get("time_start") else ""
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            line += f", which is busy with {one_line(other.get('name'))} {one_line(other.get('id'))}{ran}{more}"
        return self.make("reserved", line + self.died_before(held.worker), since=since, worker=held.worker)

    def runs(self, worker: str, begun: float, doubt: str = "") -> Answer:
        ran = max(0.0, self.now - begun)
        limit = self.facts.time_limits.get(self.queue or "", self.facts.time_limit)
        line = f"running on {worker} for {span(ran)} of at most {limit} s"
        kind = "running"
        died = self.died_before(worker)
        if self.task.get("attention") == "stalled" or ran > limit + LIMIT_MARGIN:
            kind = "stalled"
            why = "longer than it may" if ran > limit + LIMIT_MARGIN else "far longer than it usually does"
            line = f"stalled: it has been running on {worker} for {span(ran)}, {why} (at most {limit} s)"
        elif died:
            kind = "redelivered"
        line += died
        if self.revoke:
            line += f"; revoked {self.by()} while it ran: only `invoke revoke {self.id} --terminate` ends it"
        return self.make(kind, line + doubt, since=begun, worker=worker, by=self.revoke.by if self.revoke else None)

    def died_before(self, worker: str) -> str:
        """Words on the worker that had the task before this one and did not end it."""
        if self.attempt < 2:
            return ""
        before = [step for step in self.task.get("steps") or [] if step.get("worker") and step["state"] in TAKEN]
        others = [step for step in before if step["worker"] != worker]
        cut = [step for step in self.task.get("steps") or [] if step["state"] in {"CANCELLED", "REJECTED"}]
        line = f"; redelivered, attempt {self.attempt}"
        if cut:
            return f"{line}: on {cut[-1]['worker']} it was cut off at {at(seconds(cut[-1]['time']), self.now)}"
        if others:
            last = others[-1]
            heard = self.facts.workers.get(last["worker"], {}).get("heartbeat") or last["time"]
            return f"{line}: {last['worker']} died, last heard of at {at(seconds(heard), self.now)}"
        return line

    def taken(self) -> Answer:
        """Events say that a worker has it; that worker does not."""
        worker = str(self.worker or "its worker")
        facts = self.facts
        began = seconds(self.task.get("started")) if self.state == "STARTED" else None
        last = seconds(self.task.get("time")) or self.now
        if facts.nodes is None:
            if self.task.get("attention") == "orphaned":
                return self.orphaned(worker)
            return self.as_told(worker, began, last, "")
        if worker in facts.silent:
            return self.as_told(worker, began, last, f"; by its events, since {worker} does not answer")
        if worker in facts.nodes and self.now - last < ON_ITS_WAY and self.task.get("attention") != "orphaned":
            return self.as_told(worker, began, last, "")
        return self.orphaned(worker)

    def as_told(self, worker: str, began: float | None, last: float, doubt: str) -> Answer:
        if began is not None:
            return self.runs(worker, began, doubt)
        line = f"reserved by {worker}{self.since_words(last)}{self.died_before(worker)}{doubt}"
        return self.make("reserved", line, since=last, worker=worker)

    def orphaned(self, worker: str) -> Answer:
        heard = self.facts.workers.get(worker, {})
        again = worker in (self.facts.nodes or [])
        time = seconds(heard.get("heartbeat")) if not again else None
        died = f"{worker} has been restarted since" if again else f"{worker} died"
        if time:
            died += f", last heard of at {at(time, self.now)}"
        doing = "while it ran this" if self.state == "STARTED" else "with this task reserved"
        line = f"orphaned: {died}, {doing}; the broker gives it to the next worker{self.takers()}"
        since = time or seconds(self.task.get("attention_since")) or seconds(self.task.get("time"))
        return self.make("orphaned", line, since=since, worker=worker, consumers=self.consumers())

    # --- in the broker

    def in_broker(self) -> Answer:
        due = moment(self.task.get("eta"))
        steps = [step for step in self.task.get("steps") or [] if step["state"] in WAITS]
        told = [seconds(step["time"]) or 0.0 for step in steps] + [seconds(self.task.get("sent")) or 0.0]
        retry = f"retry {self.task['retries']}" if self.task.get("retries") else ""
        if self.state == "RETRY":
            failed = one_line(self.task.get("exception") or "a failure")[:TEXT]
            retry = f"retry {int(self.task.get('retries') or 0) + (not retry)} after {failed}"
        if due > self.now and not self.again:
            line = f"{retry + ' is ' if retry else ''}scheduled for {at(due, self.now)} (in {span(due - self.now)})"
            return self.make("scheduled", f"{line}, held by the broker", since=max(told), until=rfc3339(due))
        since = max([*told, due if not self.again else 0.0])
        expires = moment(self.task.get("expires"))
        if 0 < expires < self.now and not self.again:
            where = f"still waits in queue {self.queue}" if self.depth_ready() else "is in no queue any more"
            line = f"expired at {at(expires, self.now)} before a worker took it, and {where}"
            return self.make("expired", line + (" to be discarded" if self.depth_ready() else ""), since=expires)
        return self.waiting(since, retry)

    def waiting(self, since: float, retry: str) -> Answer:
        name = one_line(self.queue or "its queue")
        line = f"waiting in queue {name}{self.since_words(since)}"
        if retry:
            line = f"{retry} is {line}"
        if self.again:
            line += ", sent again after it had ended"
        elif self.attempt > 1 or (self.task.get("attempts") and not self.task.get("retries")):
            line += f" for attempt {int(self.task['attempts']) + 1}{self.cut_off()}"
        depth = self.facts.queues.get(self.queue or "")
        if depth is None and self.queue and self.facts.queues:
            line = f"sent to queue {name}{self.since_words(since)}, which the broker does not have: see WARREN_QUEUES"
            return self.make("unknown", line, since=since)
        if depth is not None and not depth.ready and self.now - since > ON_ITS_WAY:
            return self.vanished(since)
        before, more = self.facts.before.get(self.id, (None, False))
        if before is not None and depth is not None:
            line += f", {position(before, more, depth.ready)}"
        return self.make("waiting", line + self.takers(), since=since, before=before, consumers=self.consumers())

    def vanished(self, since: float) -> Answer:
        facts = self.facts
        line = f"not found: sent to queue {one_line(self.queue)}{self.since_words(since)}, which is empty, and no worker has it"
        if facts.silent:
            line += f"; one that does not answer may: {', '.join(facts.silent)}"
        else:
            line += "; was the queue purged? (`invoke history --text ID` shows what happened around it)"
        return self.make("unknown", line.replace("--text ID", f"--text {self.id}"), since=since)

    def cut_off(self) -> str:
        cut = [step for step in self.task.get("steps") or [] if step["state"] in {"CANCELLED", "REJECTED"}]
        return f" (on {cut[-1]['worker']} it was cut off)" if cut and cut[-1].get("worker") else ""

    def depth_ready(self) -> bool:
        depth = self.facts.queues.get(self.queue or "")
        return depth is None or depth.ready > 0

    def consumers(self) -> int | None:
        depth = self.facts.queues.get(self.queue or "")
        return depth.consumers if depth else None

    def takers(self) -> str:
        """Words on who takes tasks from the queue, or why nobody does."""
        count = self.consumers()
        if count is None:
            return ""
        if count:
            return f"; {count} worker{'s take' if count > 1 else ' takes'} tasks from {self.queue}"
        if pause := self.facts.paused.get(self.queue or ""):
            when = f"at {at(pause.at, self.now)}{f' by {one_line(pause.by)}' if pause.by else ''}"
            return (
                f"; {self.queue} was paused {when}: `invoke resume {self.queue}` lets workers take tasks from it again"
            )
        up = len(self.facts.nodes or [])
        pool = self.facts.pools.get(self.queue or "")
        start = f"(`invoke scale-workers 1{f' --pool {pool}' if pool else ''}` starts one)"
        if not up:
            return f"; no worker takes tasks from {self.queue}: none is up {start}"
        others = sorted({name for found in self.facts.consumed.values() for name in found})
        what = f"it takes tasks from {', '.join(others)}" if others else "it takes tasks from no queue"
        if up > 1:
            what = what.replace("it takes", "they take")
        none = f"; no worker takes tasks from {self.queue}: {up} {'are' if up > 1 else 'is'} up, but {what}"
        return f"{none} {start}" if pool else none

    # --- ended

    def succeeded(self) -> Answer:
        task = self.task
        took = f" after {duration(task['runtime'])}" if task.get("runtime") is not None else ""
        result = clipped(task.get("result"))
        line = f"done at {at(seconds(task.get('finished')), self.now)} on {one_line(task.get('worker'))}{took}"
        return self.make(
            "succeeded",
            f"{line}: {result}" if result else line,
            since=task.get("finished"),
            worker=task.get("worker"),
            reason=task.get("result"),
            ended=True,
        )

    def failed(self) -> Answer:
        task = self.task
        line = f"failed at {at(seconds(task.get('finished')), self.now)} on {one_line(task.get('worker'))}"
        if task.get("retries"):
            line += f" after {task['retries']} retr{'ies' if task['retries'] > 1 else 'y'}"
        said = clipped(task.get("exception"))
        return self.make(
            "failed",
            f"{line}: {said}" if said else line,
            since=task.get("finished"),
            worker=task.get("worker"),
            reason=task.get("exception"),
            ended=True,
        )

    def rejected(self) -> Answer:
        task = self.task
        line = f"rejected at {at(seconds(task.get('finished')), self.now)} by {one_line(task.get('worker'))}"
        said = trouble(task)
        if not any("dead_letters" in one for one in self.facts.uncertain):
            line += "; it is no longer in dead_letters: it was requeued or dropped"
        return self.make(
            "failed", f"{line} ({said[:TEXT]})" if said else line,
            since=task.get("finished"), worker=task.get("worker"), ended=True,
        )  # fmt: skip

    def discarded(self) -> Answer:
        """A worker has said that it did not run it, or ended it."""
        task = self.task
        finished = seconds(task.get("finished"))
        notes = [step.get("note") or "" for step in task.get("steps") or [] if step["state"] == "REVOKED"]
        note = notes[-1] if notes else ""
        worker = one_line(task.get("worker"))
        if note == "expired":
            expires = moment(task.get("expires")) or finished
            line = f"expired at {at(expires, self.now)}; {worker} discarded it at {at(finished, self.now)}"
            return self.make("expired", line, since=rfc3339(expires), worker=task.get("worker"), ended=True)
        did = f"ended it ({note})" if note else "discarded it"
        line = f"revoked{' ' + self.by() if self.revoke else ''}; {worker} {did} at {at(finished, self.now)}"
        return self.make(
            "revoked", line,
            since=self.revoke.at if self.revoke else finished,
            worker=task.get("worker"), by=self.revoke.by if self.revoke else None, ended=True,
        )  # fmt: skip

    def revoked(self, revoke: Record) -> Answer:
        """Revoked, and no worker has come across it yet."""
        line = f"revoked {self.by()}"
        if not self.task:
            line += "; nothing else is known of it: if it is sent, the worker that gets it discards it"
        elif (due := moment(self.task.get("eta"))) > self.now:
            line += f"; the broker holds it until {at(due, self.now)}, then the worker that gets it discards it"
        elif self.state in {"RECEIVED", "STARTED"} and self.worker:
            line += f"; {self.worker} had it last, and the next worker that gets it discards it"
        elif self.depth_ready():
            line += f"; it still waits in queue {self.queue}, and the worker that gets it discards it{self.takers()}"
        else:
            line += f"; queue {self.queue} is empty, and no worker has said that it discarded it"
        return self.make("revoked", line, since=revoke.at, by=revoke.by, consumers=self.consumers())

    def by(self) -> str:
        if self.revoke is None:
            return "by somebody"
        who = f" by {one_line(self.revoke.by)}" if self.revoke.by else ""
        return f"at {at(self.revoke.at, self.now)}{who}"

    # --- elsewhere

    def is_newest(self, letter: Letter) -> bool:
        """Whether the letter is not of an earlier life: one that was requeued by a command that was killed half-way."""
        finished = seconds(self.task.get("finished"))
        if self.again or letter.time is None or finished is None:
            return not self.again
        return letter.time.timestamp() >= finished - ROUNDING

    def dead(self, letter: Letter) -> Answer:
        since = letter.time.timestamp() if letter.time else None
        why = {
            "delivery_limit": f"each of its workers died, or gave it back, until the delivery limit of {letter.queue}",
            "expired": f"it expired in {letter.queue} before a worker took it",
            "maxlen": f"{letter.queue} was full",
            "rejected": "a worker rejected it",
            "unroutable": f"there is no queue {letter.queue} for it",
        }.get(letter.reason, letter.reason)
        said = clipped(self.task.get("exception")) if letter.reason == "rejected" else ""
        line = f"in dead_letters{self.since_words(since)}: {one_line(why)}{f', {said}' if said else ''}"
        return self.make(
            "dead", f"{line}; `invoke dead-letters show {self.id}`",
            since=since, queue=letter.queue, reason=letter.reason, worker=self.task.get("worker"),
        )  # fmt: skip

    def unknown(self) -> Answer:
        waiting = sum(depth.ready for name, depth in self.facts.queues.items() if name in self.facts.queue_names)
        line = (
            f"unknown: no event of the last {self.facts.retention} mentions it, and no worker, revoke or dead letter does. "
            "Was it sent through this broker (its sender's CELERY_BROKER_URL), and is the id right?"
        )
        if waiting:
            line += f" If its sender sends no events (task_send_sent_event), it may be one of the {waiting} that wait in queues"
        return self.make("unknown", line)

    def since_words(self, since: float | None) -> str:
        return f" since {at(since, self.now)} ({span(self.now - since)})" if since else ""


TAKEN = {"RECEIVED", "STARTED"}
WAITS = {"PENDING", "CANCELLED", "REJECTED", "RETRY"}


def position(before: int, more: bool, ready: int) -> str:
    if more:
        return f"one of {ready} there" if before >= ready - 1 else f"more than {before} of {ready} before it"
    if not before:
        return "next in line"
    return f"about {before} before it"


def clipped(text: Any) -> str:
    said = one_line(text) if text is not None else ""
    return said if len(said) <= TEXT else f"{said[: TEXT - 1]}…"


def seconds(time: str | None) -> float | None:
    return moment(time) or None


def at(time: float | None, now: float) -> str:
    """A time of day in UTC, with the date unless it is today's."""
    if not time:
        return "an unknown time"
    when, today = datetime.fromtimestamp(time, UTC), datetime.fromtimestamp(now, UTC)
    return f"{when:%H:%M:%S} UTC" if when.date() == today.date() else f"{when:%Y-%m-%d %H:%M:%S} UTC"


def span(seconds: float) -> str:
    return duration(max(0.0, seconds))
