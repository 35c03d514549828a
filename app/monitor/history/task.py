"""One task of the history, and what each event makes of it.

The order in which events arrive does not matter, nor that some come twice: a state never goes backwards. Times are by
the clocks of those who sent the events. Since these may differ, an end is believed whenever it comes, if the task is with
another worker meanwhile; only the same worker's own clock can tell that it is of an attempt before.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypeAlias

import msgspec

from app.events.decoder import Event

__all__ = ["Id", "Task", "apply", "as_id", "id_text"]

PENDING, RECEIVED, STARTED, RETRY, SUCCESS, FAILURE, REVOKED, REJECTED = range(8)
STATES = ("PENDING", "RECEIVED", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED", "REJECTED")
FINAL = frozenset({SUCCESS, FAILURE, REVOKED, REJECTED})

# Steps that are no state: the attempt was cut off, and the broker gives the task to another worker.
CANCELLED = 8
# Attention is a field of its own; as a step it is this and the field's value.
UNCLAIMED, STALLED, ORPHANED = 1, 2, 3
ATTENTION = ("", "unclaimed", "stalled", "orphaned")
STEPS = (*STATES, "CANCELLED", "UNCLAIMED", "STALLED", "ORPHANED")
ATTENTION_STEP = 8

# Steps of a task with which all goes well: sent, received, started, succeeded.
ONCE = 4
# Of a task that is retried for days the first and last are kept, as many of each.
STEP_LIMIT = 100

# A UUID's bytes, or the text of an id that is none.
Id: TypeAlias = bytes | str
# State, time, worker (a key of `word`; 0 where no worker was part of it), note.
Step: TypeAlias = tuple[int, float, int, str]


def as_id(text: str) -> Id:
    """``text`` as the database has it: 16 bytes instead of 36 characters, if that loses nothing."""
    if len(text) == 36:
        try:
            packed = bytes.fromhex(text.replace("-", ""))
        except ValueError:
            return text
        if len(packed) == 16 and id_text(packed) == text:
            return packed
    return text


def id_text(id_: Id) -> str:
    if isinstance(id_, str):
        return id_
    text = id_.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class Task(msgspec.Struct, gc=False):
    """A row of the table `task`, in its order."""

    key: int
    id: Id
    state: int
    name: int | None = None
    queue: int | None = None
    worker: int | None = None
    time: float = 0.0
    at: float = 0.0
    sent: float | None = None
    received: float | None = None
    started: float | None = None
    finished: float | None = None
    queued: float | None = None
    due: float | None = None
    runtime: float | None = None
    wait: float | None = None
    retries: int = 0
    attempts: int = 0
    attention: int = 0
    attention_since: float | None = None
    eta: str | None = None
    expires: str | None = None
    sender: int | None = None
    args: str | None = None
    kwargs: str | None = None
    result: str | None = None
    exception: str | None = None
    traceback: str | None = None
    root: Id | None = None
    parent: Id | None = None
    steps: list[Step] = []


CODES = {
    "task-sent": PENDING,
    "task-received": RECEIVED,
    "task-started": STARTED,
    "task-retried": RETRY,
    "task-succeeded": SUCCESS,
    "task-failed": FAILURE,
    "task-revoked": REVOKED,
    "task-rejected": REJECTED,
    "task-cancelled": CANCELLED,
}


def apply(task: Task, event: Event, code: int, host: int) -> bool:
    """Makes of ``task`` what it is after ``event``. False if the event was heard before.

    ``code`` is the event's in CODES, ``host`` the key of the worker's name. Name and queue are the caller's to note.
    """
    stamp = event.timestamp
    steps = task.steps
    for step in steps:
        if step[1] == stamp and step[0] == code:
            return False
    if code == PENDING:
        remember(steps, (PENDING, stamp, 0, which(event)))
        send(task, event, host)
    else:
        remember(steps, (code, stamp, host, note(event, code) if code >= RETRY else which(event)))
        if code == RECEIVED:
            receive(task, event)
        if not advance(task, event, code, host):
            look_back(task, event, code)
        elif task.attention:
            task.attention, task.attention_since = 0, None
    task.time = max(task.time, stamp)
    return True


def advance(task: Task, event: Event, code: int, host: int) -> bool:
    """Moves the state on, unless the event is late."""
    stamp, state = event.timestamp, task.state
    requeued = code == CANCELLED or (code == REJECTED and event.requeue)
    if code in FINAL and not requeued:
        if state == SUCCESS:
            # An attempt whose acknowledgement was lost runs again: what it returned first is what its caller got.
            if code != SUCCESS or task.finished is None or stamp >= task.finished:
                return False
        elif code != SUCCESS and task.at > stamp and task.worker == host:
            return False
        finish(task, event, code)
    elif state in FINAL:
        # Only a delivery that came later counts: it was sent again, by `requeue` from dead_letters for example.
        if code != RECEIVED or state == SUCCESS or task.finished is None or stamp <= task.finished:
            return False
        task.finished = task.runtime = None
    elif (stamp, code) < (task.at, state):
        return False
    if code == STARTED:
        task.started = stamp
    elif code == RETRY:
        task.exception, task.traceback = raised(event), event.traceback
        if not sent_again(task):
            # It can't be said since when it waits.
            task.due = None
    if requeued:
        # From now on it waits for the next worker.
        task.due = stamp
    task.state = PENDING if requeued else code
    task.at = stamp
    task.worker = host or task.worker
    return True


def finish(task: Task, event: Event, code: int) -> None:
    stamp = task.finished = event.timestamp
    if code == SUCCESS:
        task.runtime, task.result = event.runtime, event.result
        if len(task.steps) > ONCE or task.started is None or max(task.received or 0.0, task.started) > stamp:
            # There are several attempts, and what another worker did with it after this was in vain.
            task.received = last(task.steps, RECEIVED, stamp)
            task.started = last(task.steps, STARTED, stamp)
        if task.exception is not None and failed_after(task.steps, stamp):
            task.exception = task.traceback = None
    elif code == FAILURE:
        task.exception, task.traceback = raised(event), event.traceback
        if task.started is not None:
            task.runtime = max(0.0, stamp - task.started)


def look_back(task: Task, event: Event, code: int) -> None:
    """Takes from an event that is late what belongs to the past that the task has by now."""
    stamp = event.timestamp
    if task.finished is not None and stamp > task.finished:
        return
    if code == STARTED and (task.started is None or stamp > task.started):
        task.started = stamp
        if task.state == FAILURE and task.finished is not None:
            task.runtime = task.finished - stamp
    elif code in {RETRY, FAILURE} and not failed_after(task.steps, stamp):
        task.exception, task.traceback = raised(event), event.traceback


def last(steps: list[Step], code: int, until: float) -> float | None:
    return max((step[1] for step in steps if step[0] == code and step[1] <= until), default=None)


def failed_after(steps: list[Step], stamp: float) -> bool:
    return any(step[0] in {RETRY, FAILURE} and step[1] > stamp for step in steps)


def send(task: Task, event: Event, host: int) -> None:
    stamp = event.timestamp
    describe(task, event)
    if task.sent is None or stamp < task.sent:
        task.sent = stamp
        task.sender = host or None
    if task.queued is None or stamp > task.queued:
        again = task.queued is not None
        task.queued = stamp
        task.eta, task.expires = event.eta, event.expires
        # The word of the first sending may come after that of a retry.
        task.due = max(stamp, moment(event.eta)) if task.state != RETRY or sent_again(task) else None
        if again and task.attention == UNCLAIMED:
            task.attention, task.attention_since = 0, None
        # The worker's report may have been faster than the sender's.
        measure_wait(task)
    task.retries = max(task.retries, event.retries or 0)


def sent_again(task: Task) -> bool:
    """Whether it was heard of being sent after a worker had it last."""
    return task.queued is not None and task.queued > (task.received or 0.0)


def receive(task: Task, event: Event) -> None:
    stamp = event.timestamp
    describe(task, event)
    task.attempts += 1
    task.retries = max(task.retries, event.retries or 0)
    in_vain = task.state == SUCCESS and task.finished is not None and stamp > task.finished
    if (task.received is None or stamp > task.received) and not in_vain:
        task.received = stamp
    if task.queued is None:
        if task.eta is None:
            task.eta = event.eta
        if task.expires is None:
            task.expires = event.expires
    measure_wait(task)


def measure_wait(task: Task) -> None:
    """From when it could be taken, after it was sent last, to when it was taken first."""
    if task.queued is None or task.received is None:
        return
    # Not what was received after that: the sender tells of it once the broker has it, and a worker may be faster.
    of = next((step[3] for step in reversed(task.steps) if step[0] == PENDING), "")
    taken = min((step[1] for step in task.steps if step[0] == RECEIVED and step[3] == of), default=None)
    if taken is not None:
        task.wait = max(0.0, taken - max(task.queued, moment(task.eta)))


def describe(task: Task, event: Event) -> None:
    """Takes over what "sent" and "received" both tell."""
    if task.args is None:
        task.args = event.args
    if task.kwargs is None:
        task.kwargs = event.kwargs
    if task.root is None and event.root_id is not None and event.root_id != event.uuid:
        task.root = as_id(event.root_id)
    if task.parent is None and event.parent_id is not None:
        task.parent = as_id(event.parent_id)


def which(event: Event) -> str:
    """What tells the attempts of a task apart, as a step's note."""
    return f"retry {event.retries}" if event.retries else ""


def note(event: Event, code: int) -> str:
    """What a step tells beside state, time and worker."""
    if code == REVOKED:
        if event.expired:
            return "expired"
        return f"terminated by signal {event.signum}" if event.terminated and event.signum else ""
    if code == REJECTED:
        return "requeued" if event.requeue else ""
    return (raised(event) or "")[:200]


def raised(event: Event) -> str | None:
    """The exception that an attempt ended with; a task that asks for another try need not have had one."""
    return None if event.exception == "None" else event.exception


def remember(steps: list[Step], step: Step) -> None:
    if not steps or step[1] >= steps[-1][1]:
        steps.append(step)
    else:
        place = len(steps)
        while place and steps[place - 1][1] > step[1]:
            place -= 1
        steps.insert(place, step)
    if len(steps) > 2 * STEP_LIMIT:
        del steps[STEP_LIMIT]


def moment(eta: str | None) -> float:
    """``eta`` in seconds since 1970; 0 if there is none or it is no time."""
    if eta is None:
        return 0.0
    try:
        when = datetime.fromisoformat(eta)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return 0.0
