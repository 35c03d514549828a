"""What each event makes of a task, in whatever order and however often they come."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from app.events.decoder import Event as Heard
from app.monitor.history.shape import full
from app.monitor.history.task import CODES, PENDING, STATES, STEP_LIMIT, Task, apply, as_id, id_text
from tests.support.events import BASE, Event, event, heard, life

ID = "3f0c9d1e-0000-4000-8000-000000000001"
ONE, TWO = "celery@one", "celery@two"
HOSTS = {None: 0, "gen1@client": 3, ONE: 1, TWO: 2}
WORDS = {1: ONE, 2: TWO, 3: "gen1@client"}


def fold(events: list[Heard]) -> Task:
    task = Task(1, as_id(ID), PENDING)
    for one in events:
        apply(task, one, CODES[one.type], HOSTS[one.hostname])
    return task


def made(*events: Event) -> Task:
    return fold(heard(*events))


def sent(at: float, **fields: Any) -> Event:
    return event("sent", at, ID, "gen1@client", **fields)


RETRIED = [
    sent(1, args="(1,)"),
    event("received", 2, ID, ONE, args="(1,)", retries=0),
    event("started", 3, ID, ONE),
    event("retried", 4, ID, ONE, exception="Busy()", traceback="T"),
    event("sent", 4.5, ID, ONE, retries=1, eta="2023-11-14T22:13:25+00:00"),
    event("received", 5.5, ID, ONE, retries=1),
    event("started", 6, ID, ONE),
    event("succeeded", 7, ID, ONE, runtime=0.5, result="r"),
]
AGAIN = [event("received", 5, ID, TWO), event("started", 6, ID, TWO)]
BEGUN = [sent(1), event("received", 2, ID, ONE), event("started", 3, ID, ONE)]

LIVES = {
    "succeeds": (life(ID), "SUCCESS"),
    "fails": (life(ID, end="failed"), "FAILURE"),
    "is revoked": ([*BEGUN[:2], event("revoked", 3, ID, ONE, expired=True)], "REVOKED"),
    "is rejected": ([*BEGUN, event("rejected", 4, ID, ONE, requeue=False)], "REJECTED"),
    "is retried": (RETRIED, "SUCCESS"),
    "is delivered again": ([*BEGUN, *AGAIN, event("succeeded", 7, ID, TWO, runtime=0.5)], "SUCCESS"),
    "is requeued": (
        [*BEGUN, event("rejected", 4, ID, ONE, requeue=True), *AGAIN, event("failed", 7, ID, TWO, exception="x")],
        "FAILURE",
    ),
    "is cut off": ([*BEGUN, event("cancelled", 4, ID, ONE), *AGAIN, event("succeeded", 7, ID, TWO)], "SUCCESS"),
    "succeeds and runs again in vain": (
        [*BEGUN[1:], event("succeeded", 4, ID, ONE, result="1"), *AGAIN, event("failed", 7, ID, TWO, exception="x")],
        "SUCCESS",
    ),
    "runs on": (BEGUN, "STARTED"),
    "waits for its retry": (RETRIED[:4], "RETRY"),
}
# What is of use only while a task waits.
PASSING = {"due"}


def facts(task: Task) -> dict[str, Any]:
    return {name: getattr(task, name) for name in Task.__struct_fields__ if name not in PASSING}


@pytest.mark.parametrize("which", LIVES)
def test_the_order_of_events_does_not_matter(which: str) -> None:
    events, state = LIVES[which]
    parsed = heard(*events)
    expected = facts(fold(parsed))
    assert STATES[expected["state"]] == state
    orders = list(itertools.permutations(parsed))
    # All of the 40,320 orders of eight events take three seconds; a part of them, always the same, will do.
    if len(orders) > 800:
        orders = random.Random(4).sample(orders, 800)
    for order in orders:
        assert facts(fold(list(order))) == expected, [(one.type, one.timestamp) for one in order]


@pytest.mark.parametrize("which", LIVES)
def test_what_is_repeated_changes_nothing(which: str) -> None:
    parsed = heard(*LIVES[which][0])
    task = fold(parsed)
    expected = facts(task)
    for one in (*parsed, *reversed(parsed)):
        assert apply(task, one, CODES[one.type], HOSTS[one.hostname]) is False
    assert facts(task) == expected


def test_times_of_a_task_that_succeeds() -> None:
    task = made(*life(ID, wait=1.5, runtime=2.0))
    assert [task.sent, task.received, task.started, task.finished] == [BASE, BASE + 1.5, BASE + 1.75, BASE + 3.75]
    assert (task.wait, task.runtime, task.attempts, task.retries) == (1.5, 2.0, 1, 0)
    assert (task.worker, task.sender, task.time) == (1, 3, BASE + 3.75)


def test_a_late_start_does_not_undo_the_end() -> None:
    events = life(ID)
    task = made(events[0], events[1], events[3], events[2])
    assert (STATES[task.state], task.started) == ("SUCCESS", BASE + 1.25)


def test_the_runtime_of_a_failure_is_measured() -> None:
    assert made(*life(ID, end="failed", runtime=3)).runtime == 3.0
    assert made(*life(ID, end="failed")[:2], life(ID, end="failed")[3]).runtime is None


def test_a_retry_is_another_attempt_with_a_wait_of_its_own() -> None:
    task = made(*RETRIED)
    assert (task.attempts, task.retries, task.wait) == (2, 1, 0.5)
    # Why it was retried is worth knowing after it went well, too.
    assert (STATES[task.state], task.exception, task.traceback) == ("SUCCESS", "Busy()", "T")
    assert (task.sent, task.sender) == (BASE + 1, 3)


def test_a_task_that_asks_for_another_try_need_not_have_failed() -> None:
    # So Celery tells of a retry without an exception.
    told = full(made(*life(ID, end="started"), event("retried", 4, ID, ONE, exception="None")), lambda _: None)
    assert (told["state"], told["exception"], told["steps"][-1]["note"]) == ("RETRY", None, None)


def test_waiting_begins_with_the_eta() -> None:
    eta = "2023-11-14T22:13:30+00:00"
    task = made(sent(1, eta=eta), event("received", 10.5, ID, ONE, eta=eta))
    assert (task.due, task.wait) == (BASE + 10, 0.5)
    # Workers may take it earlier, and keep it until then.
    assert made(sent(1, eta=eta), event("received", 2, ID, ONE, eta=eta)).wait == 0.0


@pytest.mark.parametrize("eta", ["soon", "", "9999-12-31T23:59:59+00:00", "0001-01-01", "2023-11-14T22:13:30"])
def test_an_eta_of_any_form(eta: str) -> None:
    task = made(sent(1, eta=eta), event("received", 2, ID, ONE))
    assert task.wait is not None
    assert task.wait >= 0
    assert task.eta == eta


def test_a_sender_whose_clock_is_ahead() -> None:
    task = made(sent(5), event("received", 2, ID, ONE))
    assert task.wait == 0.0


def test_a_worker_that_is_faster_than_the_senders_report() -> None:
    task = made(sent(2.003), event("received", 2, ID, ONE), event("started", 2.001, ID, ONE))
    assert task.wait == 0.0
    # Whoever gets it when that worker dies, it had been taken at once.
    assert made(sent(2.003), event("received", 2, ID, ONE), event("received", 60, ID, TWO)).wait == 0.0


def test_what_is_shown_begins_with_sending() -> None:
    # And the steps of a retry come after those of the attempt before.
    late = sent(2.003)
    events = [event("received", 2, ID, ONE), event("started", 2.001, ID, ONE), late]
    events += [event("sent", 4.003, ID, ONE, retries=1), event("retried", 4.001, ID, ONE)]
    events += [event("received", 4.002, ID, ONE, retries=1)]
    shown = full(made(*events), lambda key: WORDS.get(key or 0))
    assert [step["state"] for step in shown["steps"]] == [
        *("PENDING", "RECEIVED", "STARTED", "RETRY", "PENDING", "RECEIVED")
    ]
    times = [step["time"] for step in shown["steps"]]
    assert times == sorted(times)
    assert full(made(*events[:3]), lambda _: None)["sent"] == "2023-11-14T22:13:22.000Z"


def test_a_retry_is_told_apart_from_another_delivery() -> None:
    # Sent by the task itself, before the worker tells of the retry.
    events = [sent(1), event("received", 2, ID, ONE), event("started", 2.5, ID, ONE)]
    events += [event("sent", 2.9, ID, ONE, retries=1), event("retried", 3, ID, ONE)]
    assert made(*events).wait == 1.0
    assert made(*events, event("received", 7.9, ID, ONE, retries=1)).wait == 5.0
    shown = full(made(*events), lambda key: WORDS.get(key or 0))["steps"]
    assert [(one["state"], one["note"]) for one in shown if one["note"]] == [("PENDING", "retry 1")]


def test_a_cut_off_task_waits_again() -> None:
    task = made(*BEGUN, event("cancelled", 4, ID, ONE))
    assert (STATES[task.state], task.due, task.finished) == ("PENDING", BASE + 4, None)


def test_a_task_sent_again_after_its_failure_is_open_again() -> None:
    task = made(*BEGUN, event("failed", 4, ID, ONE, exception="x"), AGAIN[0])
    assert (STATES[task.state], task.worker, task.finished, task.runtime) == ("RECEIVED", 2, None, None)
    # But one that succeeded stays so: that is what its caller got.
    task = made(*life(ID), event("received", 100, ID, TWO), event("started", 101, ID, TWO))
    assert (STATES[task.state], task.worker, task.attempts) == ("SUCCESS", 1, 2)


def test_the_first_success_counts() -> None:
    two = [event("succeeded", 4, ID, ONE, result="first"), event("succeeded", 6, ID, TWO, result="second")]
    assert made(*two).result == made(*reversed(two)).result == "first"


def test_attention_goes_when_the_task_moves_on() -> None:
    task = made(sent(1))
    task.attention, task.attention_since = 1, BASE + 5
    apply(task, heard(BEGUN[1])[0], CODES["task-received"], 1)
    assert [task.attention, task.attention_since] == [0, None]
    task.attention = 3
    # What is late moves nothing.
    apply(task, heard(event("received", 1.5, ID, ONE))[0], CODES["task-received"], 1)
    assert task.attention == 3


def test_of_very_many_steps_the_first_and_last_are_kept() -> None:
    task = Task(1, ID, PENDING)
    for number in range(1000):
        (one,) = heard(event("received", number, ID, ONE))
        apply(task, one, CODES[one.type], 1)
    assert len(task.steps) == 2 * STEP_LIMIT
    assert [step[1] - BASE for step in (task.steps[0], task.steps[-1])] == [0, 999]
    assert task.attempts == 1000


def test_steps_tell_the_story() -> None:
    task = made(
        *BEGUN,
        event("rejected", 4, ID, ONE, requeue=True),
        *AGAIN,
        event("revoked", 7, ID, TWO, terminated=True, signum="15", expired=False),
    )
    shown = [(one["state"], one["worker"], one["note"]) for one in full(task, lambda key: WORDS.get(key or 0))["steps"]]
    assert shown == [
        ("PENDING", None, None),
        ("RECEIVED", ONE, None),
        ("STARTED", ONE, None),
        ("REJECTED", ONE, "requeued"),
        ("RECEIVED", TWO, "attempt 2"),
        ("STARTED", TWO, None),
        ("REVOKED", TWO, "terminated by signal 15"),
    ]


def test_parents_and_roots() -> None:
    root, parent = "a" * 36, ID.replace("1e", "2e")
    task = made(sent(1, root_id=root, parent_id=parent))
    assert (task.root, id_text(task.parent or "")) == (root, parent)
    # Of most tasks that is the task itself.
    assert made(sent(1, root_id=ID, parent_id=None)).root is None


@pytest.mark.parametrize(
    "text",
    [
        ID,
        ID.upper(),
        "x" * 500,
        "order 7",
        "",
        "a" * 36,
        ID.replace("-", ""),
        "3f0c9d1e 0000 4000 8000 000000000001",
        "3f0c9d1e-0000-4000-8000-00000000000\u0661",
        "3f0c9d1e-00004-000-8000-000000000001",
        "\x00",
    ],
)
def test_every_id_comes_back_as_it_was(text: str) -> None:
    assert id_text(as_id(text)) == text
    assert isinstance(as_id(text), bytes) is (text == ID)
