"""deploy/where: what follows from what the sources tell, also where they contradict each other."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from app.events.decoder import Event
from app.monitor.history import shape
from app.monitor.history.task import CODES, PENDING, Task, apply
from app.revokes.log import Record
from deploy.dead_letters import Letter
from deploy.where.answer import Answer
from deploy.where.decide import decide
from deploy.where.facts import Depth, Facts, Held, may_be_dead, mentions, sent_again, settled

ID = "5b6c9e0a-8f2d-4a51-9c0e-3d1f7a2b4c6d"
OTHER = "00000000-8f2d-4a51-9c0e-3d1f7a2b4c6d"
NOW = datetime(2026, 11, 22, 14, 0, tzinfo=UTC).timestamp()


def at(ago: float) -> str:
    return datetime.fromtimestamp(NOW - ago, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def step(state: str, ago: float, worker: str | None = None, note: str | None = None) -> dict[str, Any]:
    return {"state": state, "time": at(ago), "worker": worker, "note": note}


def task(state: str, *steps: dict[str, Any], **changes: Any) -> dict[str, Any]:
    workers = [one["worker"] for one in steps if one["worker"]]
    times = {one["state"]: one["time"] for one in steps}
    return {
        **{"id": ID, "name": "shop.pay", "state": state, "attention": None, "attention_since": None},
        **{"queue": "default", "worker": workers[-1] if workers else None, "retries": 0},
        **{"attempts": sum(1 for one in steps if one["state"] == "RECEIVED"), "time": steps[-1]["time"]},
        **{"sent": times.get("PENDING"), "received": times.get("RECEIVED"), "started": times.get("STARTED")},
        **{"finished": times.get(state) if state in {"SUCCESS", "FAILURE", "REVOKED", "REJECTED"} else None},
        **{"eta": None, "expires": None, "runtime": None, "result": None, "exception": None, "steps": list(steps)},
        **changes,
    }


SENT = step("PENDING", 100)
WAITING = task("PENDING", SENT)
RUNNING = task("STARTED", SENT, step("RECEIVED", 20, "w1@a"), step("STARTED", 12, "w1@a"))


def facts(found: dict[str, Any] | None = None, **changes: Any) -> Facts:
    told = {"queues": {"default": Depth(3, 1), "dead_letters": Depth(0, 0)}, "nodes": ["w1@a"], **changes}
    return Facts(NOW, 300, "7D", ("default",), {ID: found} if found else {}, **told)


def answer(found: dict[str, Any] | None = None, **changes: Any) -> Answer:
    return decide(ID, facts(found, **changes))


def letter(reason: str = "rejected", ago: float = 5, **changes: Any) -> Letter:
    values: dict[str, Any] = {
        **{"tag": 1, "id": ID, "name": "shop.pay", "reason": reason, "queue": "default", "count": 1},
        **{"time": datetime.fromtimestamp(int(NOW - ago), UTC), "headers": {}, "properties": {}, "body": b""},
    }
    return Letter(**{**values, **changes})


REVOKE = {"revokes": {ID: Record(at=NOW - 50, by="me@here", ids=(ID,))}}
AGAIN = task(
    "REJECTED", SENT, step("RECEIVED", 90, "w1@a"), step("REJECTED", 80, "w1@a"), step("PENDING", 10)
)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "words", "found", "changes"),
    [
        ("waiting", "waiting in queue default since 13:58:20 UTC (1m 40s), about 2 before it; 1 worker takes tasks from"
         " default", WAITING, {"before": {ID: (2, False)}}),
        ("waiting", "next in line", WAITING, {"before": {ID: (0, False)}}),
        ("waiting", "more than 500 of 900 before it", WAITING,
         {"before": {ID: (500, True)}, "queues": {"default": Depth(900, 2)}}),
        ("waiting", "one of 3 there", WAITING, {"before": {ID: (2, True)}}),
        ("waiting", "no worker takes tasks from default: none is up", WAITING,
         {"nodes": [], "queues": {"default": Depth(1, 0)}}),
        ("waiting", "2 are up, but they take tasks from mail", WAITING,
         {"nodes": ["a", "b"], "queues": {"default": Depth(1, 0)}, "consumed": {"a": ["mail"], "b": ["mail"]}}),
        ("waiting", "1 is up, but it takes tasks from no queue", WAITING,
         {"queues": {"default": Depth(1, 0)}, "consumed": {"w1@a": []}}),
        ("waiting", "default was paused at 13:59:10 UTC by me@here: `invoke resume default`", WAITING,
         {"queues": {"default": Depth(1, 0)},
          "paused": {"default": Record(at=NOW - 50, by="me@here", queue="default", paused=True)}}),
        ("waiting", "sent again after it had ended", AGAIN, {}),
        ("waiting", "for attempt 2 (on w1@a it was cut off)",
         task("PENDING", SENT, step("RECEIVED", 20, "w1@a"), step("CANCELLED", 10, "w1@a")), {}),
        # Just sent: events are faster than the broker's counts.
        ("waiting", "waiting in queue default", task("PENDING", step("PENDING", 1)), {"queues": {"default": Depth(0, 1)}}),
        ("unknown", "not found: sent to queue default", WAITING, {"queues": {"default": Depth(0, 1)}}),
        ("unknown", "one that does not answer may: w1@a", WAITING,
         {"queues": {"default": Depth(0, 1)}, "silent": ["w1@a"]}),
        ("unknown", "which the broker does not have: see WARREN_QUEUES", task("PENDING", SENT, queue="old"), {}),
        ("scheduled", "scheduled for 14:10:00 UTC (in 10m 00s), held by the broker",
         task("PENDING", SENT, eta=at(-600)), {}),
        ("scheduled", "retry 1 after E() is scheduled for 14:10:00 UTC",
         task("RETRY", SENT, step("RETRY", 50, "w1@a"), eta=at(-600), retries=1, exception="E()"), {}),
        ("scheduled", "scheduled for 14:10:00 UTC (in 10m 00s), held by w1@a", task("RECEIVED", SENT,
         step("RECEIVED", 50, "w1@a"), eta=at(-600)), {"held": {ID: Held("w1@a", "scheduled", None, "default")}}),
        # Due: it waits in its queue like all others.
        ("waiting", "since 13:59:00 UTC", task("PENDING", SENT, eta=at(60)), {}),
        ("reserved", "reserved by w1@a since 13:59:40 UTC (20.0 s), which is busy with shop.ship other for 12.0 s",
         task("RECEIVED", SENT, step("RECEIVED", 20, "w1@a")),
         {"held": {ID: Held("w1@a", "reserved", None, "default")},
          "active": {"w1@a": [{"name": "shop.ship", "id": "other", "time_start": NOW - 12}]}}),
        ("running", "running on w1@a for 12.0 s of at most 300 s", RUNNING,
         {"held": {ID: Held("w1@a", "active", NOW - 12, "default")}}),
        # The worker knows already what no event has told yet.
        ("running", "running on w1@a for 1.0 s", WAITING, {"held": {ID: Held("w1@a", "active", NOW - 1, "default")}}),
        ("running", "by its events, since w1@a does not answer", RUNNING, {"silent": ["w1@a"]}),
        ("running", "running on w1@a", RUNNING, {"nodes": None}),
        ("running", "revoked at 13:59:10 UTC by me@here while it ran: only `invoke revoke", RUNNING,
         {"held": {ID: Held("w1@a", "active", NOW - 12, "default")}, **REVOKE}),
        ("running", "running on w1@a", task("STARTED", SENT, step("RECEIVED", 2, "w1@a"), step("STARTED", 1, "w1@a")), {}),
        ("stalled", "far longer than it usually does", {**RUNNING, "attention": "stalled"},
         {"held": {ID: Held("w1@a", "active", NOW - 12, "default")}}),
        ("stalled", "for 6m 40s, longer than it may (at most 300 s)", RUNNING,
         {"held": {ID: Held("w1@a", "active", NOW - 400, "default")}}),
        ("orphaned", "w1@a died, last heard of at 13:59:55 UTC, while it ran this; the broker gives it to the next worker",
         RUNNING, {"nodes": ["w2@b"], "workers": {"w1@a": {"heartbeat": at(5)}}}),
        ("orphaned", "w1@a has been restarted since", RUNNING, {"nodes": ["w1@a"]}),
        ("orphaned", "w1@a died", {**RUNNING, "attention": "orphaned"}, {"nodes": None}),
        ("orphaned", "with this task reserved", task("RECEIVED", SENT, step("RECEIVED", 20, "w1@a")), {"nodes": []}),
        ("redelivered", "running on w2@b for 3.0 s of at most 300 s; redelivered, attempt 2: w1@a died, last heard of at",
         task("STARTED", SENT, step("RECEIVED", 20, "w1@a"), step("STARTED", 19, "w1@a"), step("RECEIVED", 4, "w2@b"),
              step("STARTED", 3, "w2@b")), {"held": {ID: Held("w2@b", "active", NOW - 3, "default")}}),
        ("dead", "in dead_letters since 13:59:55 UTC (5.0 s): a worker rejected it", WAITING,
         {"letters": {ID: letter()}}),
        ("dead", "a worker rejected it, NotRegistered('shop.pay')", task("FAILURE", SENT, step("FAILURE", 5, "w1@a"),
         exception="NotRegistered('shop.pay')"), {"letters": {ID: letter()}}),
        ("dead", "until the delivery limit of default", WAITING, {"letters": {ID: letter("delivery_limit")}}),
        ("dead", "it expired in default before a worker took it", WAITING, {"letters": {ID: letter("expired")}}),
        ("dead", "in dead_letters: there is no queue elsewhere for it", WAITING,
         {"letters": {ID: letter("unroutable", time=None, queue="elsewhere")}}),
        ("dead", "in dead_letters", None, {"letters": {ID: letter()}}),
        # Requeued by a command that was killed before it dropped the letter: what came of it since is newer.
        ("failed", "failed at 13:59:59 UTC", task("FAILURE", SENT, step("FAILURE", 1, "w1@a")),
         {"letters": {ID: letter(ago=60)}}),
        ("running", "running", RUNNING,
         {"letters": {ID: letter()}, "held": {ID: Held("w1@a", "active", NOW - 12, "default")}}),
        ("waiting", "waiting", AGAIN, {"letters": {ID: letter(ago=80)}}),
        ("revoked", "revoked at 13:59:10 UTC by me@here; it still waits in queue default, and the worker that gets it"
         " discards it", WAITING, REVOKE),
        ("revoked", "the broker holds it until 14:10:00 UTC, then", task("PENDING", SENT, eta=at(-600)), REVOKE),
        ("revoked", "nothing else is known of it: if it is sent", None, REVOKE),
        ("revoked", "by me@here; w1@a discarded it at 13:59:50 UTC", task("REVOKED", SENT, step("REVOKED", 10, "w1@a")),
         REVOKE),
        ("revoked", "revoked; w1@a ended it (terminated by signal 15) at 13:59:50 UTC",
         task("REVOKED", SENT, step("REVOKED", 10, "w1@a", "terminated by signal 15")), {}),
        ("expired", "expired at 13:59:00 UTC; w1@a discarded it at 13:59:50 UTC",
         task("REVOKED", SENT, step("REVOKED", 10, "w1@a", "expired"), expires=at(60)), {}),
        ("expired", "expired at 13:59:00 UTC before a worker took it, and still waits in queue default to be discarded",
         task("PENDING", SENT, expires=at(60)), {}),
        ("succeeded", "done at 13:59:58 UTC on w1@a after 2.0 s: 42",
         task("SUCCESS", SENT, step("SUCCESS", 2, "w1@a"), runtime=2.0, result="42"), {}),
        ("failed", "failed at 13:59:58 UTC on w1@a after 2 retries: E()",
         task("FAILURE", SENT, step("FAILURE", 2, "w1@a"), retries=2, exception="E()"), {}),
        ("failed", "rejected at 13:59:58 UTC by w1@a; it is no longer in dead_letters",
         task("REJECTED", SENT, step("REJECTED", 2, "w1@a")), {}),
        ("unknown", "no event of the last 7D mentions it", None, {}),
        ("unknown", "one of the 3 that wait in queues", None, {}),
    ],
)  # fmt: skip
def test_answers(kind: str, words: str, found: dict[str, Any] | None, changes: dict[str, Any]) -> None:
    told = answer(found, **changes)
    assert (told.kind, words in told.line) == (kind, True), told


def test_what_could_not_be_asked_is_said() -> None:
    told = answer(WAITING, queues={}, nodes=None, uncertain=["no broker"])
    assert (told.kind, told.uncertain) == ("waiting", ("no broker",))
    assert told.line.endswith("(not certain: no broker)")
    done = answer(task("SUCCESS", SENT, step("SUCCESS", 2, "w1@a")), uncertain=["no broker"])
    assert "certain" not in done.line


def test_nothing_that_a_terminal_acts_on_is_in_a_line() -> None:
    hostile = "a\x1b]0;owned\x07\r\nb"
    found = task("FAILURE", SENT, step("FAILURE", 2, hostile), exception=hostile, queue=hostile, name=hostile)
    for told in (answer(found), answer({**WAITING, "queue": hostile}), answer(WAITING, letters={ID: letter(hostile)})):
        assert told.line.isprintable()


def test_the_answer_as_json() -> None:
    told = answer(WAITING, before={ID: (2, False)}).as_json()
    assert (told["kind"], told["before"], told["consumers"], told["queue"]) == ("waiting", 2, 1, "default")
    assert (told["since"], told["uncertain"]) == (at(100), [])


def test_a_task_that_was_sent_again_says_so_in_its_timeline() -> None:
    row = Task(key=1, id=ID, state=PENDING)
    times = {"task-sent": 1.0, "task-received": 0.9, "task-started": 2.0, "task-rejected": 3.0}
    told = [Event(type=type, timestamp=time, uuid=ID, requeue=False) for type, time in times.items()]
    for event in [*told, Event(type="task-sent", timestamp=60.0, uuid=ID)]:
        apply(row, event, CODES[event.type], 0)
    found = shape.full(row, lambda key: None)
    assert [(one["state"], one["time"][17:23]) for one in found["steps"]] == [
        *(("PENDING", "00.900"), ("RECEIVED", "00.900"), ("STARTED", "02.000"), ("REJECTED", "03.000")),
        ("PENDING", "00.000"),
    ]
    assert sent_again(found) == "1970-01-01T00:01:00.000Z"


def test_which_tasks_need_no_more_than_the_history() -> None:
    failed = task("FAILURE", SENT, step("FAILURE", 2, "w1@a"), exception="E()")
    assert settled(task("SUCCESS", SENT, step("SUCCESS", 2, "w1@a")))
    assert settled(failed)
    assert not settled({**failed, "exception": "NotRegistered('x')"})
    assert not settled(AGAIN)
    assert not settled(None)
    assert may_be_dead(WAITING)
    assert sent_again(AGAIN) == at(10)
    assert sent_again(failed) is None


@pytest.mark.parametrize("wanted", [{ID}, {ID, "order-7"}, {ID, OTHER, "order-7", "x"}])
def test_messages_that_mention_one_of_the_ids(wanted: set[str]) -> None:
    assert mentions(f'{{"uuid": "{ID}"}}'.encode(), wanted)
    assert not mentions(b'{"uuid": "11111111-8f2d-4a51-9c0e-3d1f7a2b4c6d"}', wanted)
    if "order-7" in wanted:
        assert mentions(b'{"uuid": "order-7"}', wanted)


# --- pools


def test_the_limit_and_the_way_to_a_worker_are_those_of_the_queues_pool() -> None:
    limits = {"default": 300, "video": 3600}
    ran = answer(RUNNING | {"queue": "video"}, held={ID: Held("w1@a", "active", NOW - 12, "video")}, time_limits=limits)
    assert "of at most 3600 s" in ran.line
    known = {"queues": {"default": Depth(0, 1), "video": Depth(3, 0)}, "pools": {"video": "heavy"}}
    waits = WAITING | {"queue": "video"}
    none_up = answer(waits, **known, nodes=[])
    assert none_up.line.endswith("none is up (`invoke scale-workers 1 --pool heavy` starts one)")
    others = answer(waits, **known, consumed={"w1@a": ["default"]})
    assert others.line.endswith(
        "1 is up, but it takes tasks from default (`invoke scale-workers 1 --pool heavy` starts one)"
    )
