"""deploy/definitions.py: what the broker loads at its start, held against what kombu declares and who may do what."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from kombu import Connection
from kombu.transport import native_delayed_delivery as kombu_delays

from app.config import DELAYED_EXCHANGE, TASKS_EXCHANGE, platform_settings, task_queues
from deploy.definitions import FOLDER, VHOST, definitions, delayed_delivery
from deploy.secrets import KEDA, NAMES, ROLES, Secrets
from deploy.settings import Settings

UUID = "5b6c9e0a-8f2d-4a51-9c0e-3d1f7a2b4c6d"
QUEUES = ("default", "mail", "re-ports_2")


@pytest.fixture
def made(secrets: Secrets) -> dict[str, Any]:
    return definitions(Settings(queues=QUEUES), secrets)


def bindings(made: dict[str, Any]) -> set[tuple[str, str, str, str]]:
    return {
        (one["source"], one["destination_type"], one["destination"], one["routing_key"]) for one in made["bindings"]
    }


def test_each_queue_is_there_with_its_bindings(made: dict[str, Any]) -> None:
    found = {queue["name"]: queue for queue in made["queues"]}
    for name in QUEUES:
        assert found[name]["arguments"] == {"x-queue-type": "quorum"}
        assert found[name]["durable"] is True and found[name]["auto_delete"] is False
        assert {
            ("tasks", "queue", name, name),
            ("tasks", "queue", name, f"#.{name}"),
            ("celery_delayed_delivery", "exchange", "tasks", f"#.{name}"),
        } <= bindings(made)


def test_there_are_no_other_queues(made: dict[str, Any]) -> None:
    names = [queue["name"] for queue in made["queues"] if not queue["name"].startswith("celery_delayed_")]
    assert sorted(names) == sorted([*QUEUES, "dead_letters", "celery.events", "celery.revoked"])


def test_a_queue_that_is_not_wanted_is_not_made(secrets: Secrets) -> None:
    made = definitions(Settings(queues=("mail",)), secrets)
    assert "default" not in {queue["name"] for queue in made["queues"]}
    assert "default" not in {part for one in bindings(made) for part in one}


def test_nothing_is_there_twice(made: dict[str, Any]) -> None:
    for kind in ("vhosts", "exchanges", "queues", "policies", "users"):
        names = [one["name"] for one in made[kind]]
        assert sorted(names) == sorted(set(names)), kind
    assert len(bindings(made)) == len(made["bindings"])


def test_bindings_lead_to_what_is_there(made: dict[str, Any]) -> None:
    exchanges = {one["name"] for one in made["exchanges"]}
    queues = {one["name"] for one in made["queues"]}
    for source, kind, destination, _ in bindings(made):
        assert source in exchanges
        assert destination in (queues if kind == "queue" else exchanges)


def test_everything_is_in_warrens_virtual_host(made: dict[str, Any]) -> None:
    assert [one["name"] for one in made["vhosts"]] == [VHOST]
    for kind in ("exchanges", "queues", "bindings", "policies", "permissions"):
        assert {one["vhost"] for one in made[kind]} == {VHOST}, kind


def test_the_app_uses_just_what_the_definitions_make(made: dict[str, Any]) -> None:
    settings = platform_settings(Settings(queues=QUEUES))
    found = {queue["name"]: queue for queue in made["queues"]}
    for queue in settings["task_queues"]:
        assert found[queue.name]["arguments"] == queue.queue_arguments
        assert (queue.exchange.name, "queue", queue.name, queue.routing_key) in bindings(made)
        assert queue.no_declare and queue.exchange.no_declare
    exchanges = {one["name"]: one for one in made["exchanges"]}
    assert exchanges[TASKS_EXCHANGE]["type"] == settings["task_default_exchange_type"] == "topic"
    assert exchanges["celeryev"]["type"] == "topic"
    assert DELAYED_EXCHANGE in exchanges
    assert settings["task_default_queue"] == settings["task_default_routing_key"] == QUEUES[0]


# --- policies


def policy_of(made: dict[str, Any], queue: str) -> list[str]:
    return [one["name"] for one in made["policies"] if re.search(one["pattern"], queue)]


@pytest.mark.parametrize(
    ("queue", "policies"),
    [
        ("default", ["tasks"]),
        ("mail", ["tasks"]),
        ("re-ports_2", ["tasks"]),
        ("dead_letters", ["dead_letters"]),
        ("celery.events", ["celery.events"]),
        ("celery_events", []),
        ("mail2", []),
        ("my-mail", []),
        ("celery_delayed_27", []),
        (UUID, []),
        ("celery@host.celery.pidbox", []),
    ],
)
def test_each_queue_has_the_one_policy_that_is_meant_for_it(
    made: dict[str, Any], queue: str, policies: list[str]
) -> None:
    assert policy_of(made, queue) == policies


def test_policies_follow_their_settings(secrets: Secrets) -> None:
    settings = Settings(delivery_limit=7, events_max_age="3h", events_max_bytes=200_000_000)
    found = {one["name"]: one["definition"] for one in definitions(settings, secrets)["policies"]}
    assert found["tasks"] == {
        "delivery-limit": 7,
        "dead-letter-exchange": "dead_letters",
        "dead-letter-strategy": "at-least-once",
        # At-least-once needs it.
        "overflow": "reject-publish",
    }
    assert found["celery.events"]["max-age"] == "3h"
    assert found["celery.events"]["max-length-bytes"] == 200_000_000
    assert found["celery.events"]["stream-max-segment-size-bytes"] * 2 <= found["celery.events"]["max-length-bytes"]


def test_the_files_patterns_are_whole_by_themselves() -> None:
    pattern = json.loads((FOLDER / "definitions.json").read_text())
    assert {one["name"]: one["definition"] for one in pattern["policies"]}["tasks"]["delivery-limit"] == (
        Settings().delivery_limit
    )
    events = {one["name"]: one["definition"] for one in pattern["policies"]}["celery.events"]
    assert (events["max-age"], events["max-length-bytes"]) == (Settings().events_max_age, Settings().events_max_bytes)


# --- delayed delivery, as kombu makes it


class Channel:
    """Stands in for a channel of py-amqp and remembers what is declared through it."""

    def __init__(self) -> None:
        self.exchanges: set[tuple[str, str, bool, bool]] = set()
        self.queues: dict[str, dict[str, Any]] = {}
        self.bindings: set[tuple[str, str, str, str]] = set()

    def exchange_declare(self, exchange: str, type: str, durable: bool, auto_delete: bool, **_: Any) -> None:
        self.exchanges.add((exchange, type, durable, auto_delete))

    def queue_declare(self, queue: str, durable: bool, auto_delete: bool, arguments: dict[str, Any], **_: Any) -> Any:
        self.queues[queue] = {"durable": durable, "auto_delete": auto_delete, "arguments": arguments}
        return queue, 0, 0

    def queue_bind(self, queue: str, exchange: str, routing_key: str, **_: Any) -> None:
        self.bindings.add((exchange, "queue", queue, routing_key))

    def exchange_bind(self, destination: str, source: str, routing_key: str, **_: Any) -> None:
        self.bindings.add((source, "exchange", destination, routing_key))

    def prepare_queue_arguments(self, arguments: dict[str, Any] | None, **_: Any) -> dict[str, Any]:
        return arguments or {}

    def __getattr__(self, name: str) -> Any:
        if name in {"connection", "client"}:
            raise AttributeError(name)
        raise AssertionError(f"kombu calls {name}, which this stand-in does not know")


@pytest.fixture
def kombus(monkeypatch: pytest.MonkeyPatch) -> Channel:
    """What kombu declares for QUEUES."""
    channel = Channel()
    connection = Connection("memory://")
    monkeypatch.setattr(connection, "channel", lambda: channel)
    kombu_delays.declare_native_delayed_delivery_exchanges_and_queues(connection, "quorum")
    for queue in task_queues(QUEUES):
        kombu_delays.bind_queue_to_native_delayed_delivery_exchange(connection, queue)
    return channel


def test_delayed_delivery_has_kombus_exchanges(kombus: Channel) -> None:
    ours = {
        (one["name"], one["type"], one["durable"], one["auto_delete"])
        for one in delayed_delivery(Settings(queues=QUEUES))["exchanges"]
    }
    assert ours == kombus.exchanges
    assert len(ours) == 29


def test_delayed_delivery_has_kombus_queues(kombus: Channel) -> None:
    ours = {
        one["name"]: {key: one[key] for key in ("durable", "auto_delete", "arguments")}
        for one in delayed_delivery(Settings(queues=QUEUES))["queues"]
    }
    assert ours == kombus.queues
    assert len(ours) == 28


def test_delayed_delivery_has_kombus_bindings(kombus: Channel) -> None:
    ours = bindings(delayed_delivery(Settings(queues=QUEUES)))
    assert ours == kombus.bindings
    assert len(ours) == 2 * 28 + 2 * len(QUEUES)


def route(made: dict[str, Any], exchange: str, key: str) -> set[str]:
    """The queues that a message with ``key`` gets to from ``exchange``."""
    reached = set()
    for source, kind, destination, pattern in bindings(made):
        words = {"*": r"[^.]+", "#": r".*"}
        expression = r"\.".join(words.get(word, re.escape(word)) for word in pattern.split(".")).replace(
            r".*\.", r"(.*\.)?"
        )
        expression = re.sub(r"\\\.\.\*$", r"(\\..*)?", expression)
        if source == exchange and re.fullmatch(expression, key):
            reached |= {destination} if kind == "queue" else route(made, destination, key)
    return reached


@pytest.mark.parametrize(("countdown", "level"), [(1, 0), (2, 1), (3, 1), (60, 5), (86_400, 16), (2**28 - 1, 27)])
def test_a_delayed_task_waits_in_the_level_of_its_highest_bit(made: dict[str, Any], countdown: int, level: int) -> None:
    key = kombu_delays.calculate_routing_key(countdown, "mail")
    assert route(made, DELAYED_EXCHANGE, key) == {f"celery_delayed_{level}"}


@pytest.mark.parametrize("countdown", [1, 5, 60, 12_345])
def test_a_delayed_task_waits_just_as_long_as_asked_and_ends_in_its_queue(made: dict[str, Any], countdown: int) -> None:
    arguments = {one["name"]: one["arguments"] for one in made["queues"]}
    key = kombu_delays.calculate_routing_key(countdown, "mail")
    here, waited = route(made, DELAYED_EXCHANGE, key), 0
    while here != {"mail"}:
        (queue,) = here
        waited += arguments[queue]["x-message-ttl"]
        here = route(made, arguments[queue]["x-dead-letter-exchange"], key)
    assert waited == countdown * 1000


# --- users


def test_every_role_is_a_user_with_its_own_password_and_there_is_no_guest(made: dict[str, Any]) -> None:
    names = {user["name"] for user in made["users"]}
    assert names == set(ROLES) == set(json.loads((FOLDER / "users.json").read_text())) - {KEDA}
    assert "guest" not in json.dumps(made)
    assert len({user["password_hash"] for user in made["users"]}) == len(ROLES)
    assert {user["hashing_algorithm"] for user in made["users"]} == {"rabbit_password_hashing_sha256"}


def test_every_user_says_why_it_is_there() -> None:
    for name, role in json.loads((FOLDER / "users.json").read_text()).items():
        assert set(role) == {"why", "tags", "configure", "write", "read"}, name
        assert role["why"], name


def test_who_sees_and_changes_the_broker_itself(made: dict[str, Any]) -> None:
    assert {user["name"]: user["tags"] for user in made["users"]} == {
        "admin": ["administrator"],
        "worker": [],
        "producer": [],
        "monitor": [],
        "flower": ["monitoring"],
        "ops": ["monitoring"],
    }


def test_keda_has_a_user_where_it_has_a_password_who_may_touch_nothing(secrets: Secrets) -> None:
    made = definitions(Settings(), Secrets({**secrets, KEDA: "of keda"}))
    (user,) = (one for one in made["users"] if one["name"] == KEDA)
    (rights,) = (one for one in made["permissions"] if one["user"] == KEDA)
    # With `monitoring` it would see the other virtual hosts of a broker that others run too.
    assert user["tags"] == ["management"]
    for right in ("configure", "write", "read"):
        assert [name for name in EVERYTHING if re.search(rights[right], name)] == [""]


def test_each_user_has_one_set_of_rights(made: dict[str, Any]) -> None:
    assert sorted(one["user"] for one in made["permissions"]) == sorted(ROLES)


def test_hashes_stay_the_same_from_run_to_run(secrets: Secrets) -> None:
    assert definitions(Settings(), secrets) == definitions(Settings(), secrets)


OWN_BOX = "celery@3f1c2d.celery.pidbox"
REPLY_BOX = f"{UUID}.reply.celery.pidbox"
TASKS = ["default", "mail", "re-ports_2"]
DELAYS = ["celery_delayed_0", "celery_delayed_27", "celery_delayed_delivery"]
EVERYTHING = [
    *(*TASKS, "tasks", "dead_letters", "celery.events", "celeryev", f"celeryev.{UUID}", "amq.default", "celery.pidbox"),
    *("reply.celery.pidbox", OWN_BOX, REPLY_BOX, UUID, *DELAYS, "dead_letters.reader"),
    # Near misses, which nobody but the administrator may touch.
    *("mail2", "xmail", "tasks2", "celery_events", f"{UUID}x", f"x{UUID}", UUID[:-1], "celeryevx", "amq.topic", ""),
]

# Who may do what: all that is not listed is refused.
RIGHTS = {
    ("worker", "configure"): [
        *DELAYS,
        "celery.pidbox",
        "reply.celery.pidbox",
        OWN_BOX,
        REPLY_BOX,
        f"celeryev.{UUID}",
        UUID,
    ],
    ("worker", "write"): [
        *("tasks", *TASKS, "amq.default", "celeryev", *DELAYS, "celery.pidbox", "reply.celery.pidbox"),
        *(OWN_BOX, REPLY_BOX, f"celeryev.{UUID}"),
    ],
    ("worker", "read"): [
        *("tasks", *TASKS, "celeryev", *DELAYS, "celery.pidbox", "reply.celery.pidbox", OWN_BOX, REPLY_BOX),
        *(f"celeryev.{UUID}", UUID),
    ],
    ("producer", "configure"): [UUID],
    ("producer", "write"): ["tasks", "celery_delayed_27", "celeryev"],
    ("producer", "read"): [UUID],
    ("monitor", "configure"): [""],
    ("monitor", "write"): [""],
    ("monitor", "read"): ["celery.events"],
    ("flower", "configure"): ["celery.pidbox", "reply.celery.pidbox", REPLY_BOX],
    ("flower", "write"): ["celery.pidbox", REPLY_BOX],
    ("flower", "read"): ["celery.events", "reply.celery.pidbox", REPLY_BOX],
    ("ops", "configure"): ["dead_letters.reader", "celery.pidbox", "reply.celery.pidbox", REPLY_BOX],
    # Of the task queues it may thereby ask the state: RabbitMQ has messages written to exchanges, not to queues.
    ("ops", "write"): [*TASKS, "celery.pidbox", REPLY_BOX],
    ("ops", "read"): ["dead_letters", "celery.events", "reply.celery.pidbox", REPLY_BOX],
    ("admin", "configure"): EVERYTHING,
    ("admin", "write"): EVERYTHING,
    ("admin", "read"): EVERYTHING,
}


@pytest.mark.parametrize(("user", "right"), RIGHTS)
def test_rights(made: dict[str, Any], user: str, right: str) -> None:
    (rights,) = [one for one in made["permissions"] if one["user"] == user]
    # RabbitMQ searches, so the expression itself has to hold the whole name.
    allowed = [name for name in EVERYTHING if re.search(rights[right], name)]
    assert sorted(allowed) == sorted(RIGHTS[user, right])


def test_the_table_of_rights_is_complete() -> None:
    assert {user for user, _ in RIGHTS} == set(ROLES) <= set(NAMES)
    assert len(RIGHTS) == 3 * len(ROLES)


def test_who_may_read_dead_letters_and_make_task_queues(made: dict[str, Any]) -> None:
    for one in made["permissions"]:
        if one["user"] != "admin":
            assert bool(re.search(one["read"], "dead_letters")) == (one["user"] == "ops")
            assert not any(re.search(one["configure"], queue) for queue in TASKS)
