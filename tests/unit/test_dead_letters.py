"""deploy/dead_letters and its command: what a letter is, how it is sent again, and what is asked for wrongly."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.commands.dead_letters import Choice, dead_letters, refuse_misuse
from deploy.dead_letters.letter import Letter, letter_of
from deploy.dead_letters.sending import fresh
from deploy.dead_letters.words import as_json, in_words, line_of
from deploy.errors import ExitCode, WarrenError
from deploy.session import Session
from tests.unit.conftest import FakeRunner

ID = "5b6c9e0a-8f2d-4a51-9c0e-3d1f7a2b4c6d"
DIED = datetime(2026, 11, 22, 13, 0, 5)  # noqa: DTZ001 - as py-amqp gives it
NOW = datetime(2026, 11, 22, 14, 0, tzinfo=UTC).timestamp()
DEATHS = [
    {"reason": "delivery_limit", "queue": "mail", "count": 2, "time": DIED, "routing-keys": ["mail"]},
    {"reason": "rejected", "queue": "default", "count": 1, "time": DIED},
]
HEADERS = {
    **{"id": ID, "task": "shop.pay", "retries": 1, "argsrepr": "(1,)", "kwargsrepr": "{}", "expires": None},
    **{"x-death": DEATHS, "x-first-death-queue": "default", "x-last-death-reason": "delivery_limit"},
    **{"x-delivery-count": 7, "x-acquired-count": 9},
}
BODY = json.dumps([[4242], {"mended": "no"}, {"chord": None}]).encode()


def letter(headers: Any = HEADERS, body: Any = BODY, **properties: Any) -> Letter:
    told = {"content_type": "application/json", **properties}
    if headers is not None:
        told["application_headers"] = headers
    info = {"delivery_tag": 7, "routing_key": "x.elsewhere"}
    return letter_of(SimpleNamespace(properties=told, body=body, delivery_info=info))


def test_why_and_from_where() -> None:
    one = letter()
    assert (one.tag, one.id, one.name, one.reason, one.queue, one.count) == (
        *(7, ID, "shop.pay"),
        *("delivery_limit", "mail", 2),
    )
    assert one.time == datetime(2026, 11, 22, 13, 0, 5, tzinfo=UTC)
    assert one.arguments == ([4242], {"mended": "no"})


def test_one_that_no_queue_took() -> None:
    one = letter({"id": ID, "task": "shop.pay"})
    assert (one.reason, one.queue, one.count, one.time) == ("unroutable", "elsewhere", 1, None)


@pytest.mark.parametrize("body", [b"", b"{", b"42", b"null", b"\xff", b"[1,2]", b"[" * 100_000, b'{"a": 1}'])
def test_bodies_that_are_no_tasks(body: bytes) -> None:
    for headers in (None, {}, {"id": None}, HEADERS):
        one = letter(headers, body)
        assert one.arguments is None
        assert one.id == ID if headers == HEADERS else one.id.startswith("no-id-")
        assert json.loads(json.dumps(as_json(one)))["id"] == one.id
        assert all(line.strip("\n").isprintable() for line in in_words(one))


def test_the_same_message_without_id_has_the_same_name() -> None:
    assert letter({}, b"x").id == letter({}, b"x").id != letter({}, b"y").id


def test_celerys_first_protocol() -> None:
    one = letter({}, json.dumps({"id": ID, "task": "shop.pay", "args": [1], "kwargs": {"a": 2}}).encode())
    assert (one.id, one.name, one.arguments) == (ID, "shop.pay", ([1], {"a": 2}))


def test_a_fresh_start() -> None:
    assert fresh(letter({**HEADERS, "CC": ["other"]}), NOW) == {
        **{"id": ID, "task": "shop.pay", "retries": 1, "argsrepr": "(1,)", "kwargsrepr": "{}", "expires": None}
    }


@pytest.mark.parametrize(("expires", "left"), [
    ("2026-11-22T13:00:00+00:00", None),
    ("2026-11-22T15:00:00+00:00", "2026-11-22T15:00:00+00:00"),
    ("soon", "soon"),
])  # fmt: skip
def test_what_has_expired_is_not_sent_to_expire_again(expires: str, left: str | None) -> None:
    assert fresh(letter({**HEADERS, "expires": expires}), NOW)["expires"] == left


def test_all_of_it_as_json() -> None:
    told = json.loads(json.dumps(as_json(letter(priority=3))))
    assert (told["time"], told["reason"], told["args"]) == ("2026-11-22T13:00:05.000Z", "delivery_limit", [4242])
    assert told["headers"]["x-death"][0]["time"] == "2026-11-22 13:00:05"
    assert (told["properties"]["priority"], told["body"]) == (3, BODY.decode())
    assert as_json(letter(body=b"\xff\x00"))["body_base64"] == "/wA="
    assert set(as_json(letter(), full=False)) == {"id", "name", "time", "reason", "queue", "count"}


def test_hostile_texts() -> None:
    hostile = "a\x1b]0;owned\x07\r[red]b\nc"
    one = letter({"id": hostile, "task": hostile, hostile: hostile, "argsrepr": hostile}, hostile.encode())
    assert all(line.strip("\n").isprintable() for line in in_words(one))
    assert all(cell.isprintable() for cell in line_of(as_json(one, full=False)))


def test_which_letters_are_meant() -> None:
    one = letter()
    assert Choice().has(one)
    assert Choice((ID,), "delivery_limit", "shop.*").has(one)
    assert not Choice(("other",)).has(one)
    assert not Choice(reason="expired").has(one)
    assert not Choice(name="mail.*").has(one)


@pytest.mark.parametrize(
    ("words", "options", "line"),
    [
        (["look"], {}, "'look' is nothing to do with dead letters; choose from list, show, requeue, drop, export"),
        (["list", ID], {}, "list takes no ids: invoke dead-letters list --reason rejected"),
        (["show"], {}, "which letter: invoke dead-letters show ID"),
        (["requeue"], {}, "which letters? Ids, or --all: invoke dead-letters requeue ID..."),
        (["drop", ID], {"every": True}, "either ids or --all: invoke dead-letters drop ID..."),
        (["export"], {}, "into which file (- is standard output): invoke dead-letters export letters.jsonl"),
        (["drop", ID], {"queue": "mail"}, "--queue goes with requeue: invoke dead-letters drop ID..."),
        (["list"], {"every": True}, "--all goes with requeue and drop: invoke dead-letters list --reason rejected"),
        (
            ["list"],
            {"reason": "bored"},
            "--reason is one of rejected, delivery_limit, expired, maxlen, unroutable, not",
        ),
    ],
)
def test_what_is_asked_wrongly(words: list[str], options: dict[str, Any], line: str) -> None:
    with pytest.raises(WarrenError) as caught:
        # Nothing is asked of a broker before.
        dead_letters(Session(FakeRunner()), words, **options)  # type: ignore[arg-type]
    assert (str(caught.value).startswith(line), caught.value.code) == (True, ExitCode.USAGE), caught.value


def test_what_is_asked_rightly() -> None:
    for action, rest, every in (
        ("list", [], False),
        ("show", [ID], False),
        ("requeue", [], True),
        ("drop", [ID], False),
    ):
        refuse_misuse(action, rest, every, "")
