"""What each role may do, and what it may not. (That it may do its own work is what all other tests show.)"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import amqp
import pytest

from deploy.definitions import VHOST
from deploy.secrets import KEDA, ROLES
from tests.support.brokers import Broker

USERS = (*ROLES, KEDA)

STREAMS = {"celery.events", "celery.revoked"}

# amqp.Channel, which has no types.
Channel = Any
Act = Callable[[Channel, str], object]


def declare(channel: Channel, name: str) -> None:
    # As Celery makes its queues for replies: RabbitMQ 4.3 has no transient queues but exclusive ones.
    channel.queue_declare(name, durable=True, auto_delete=True)


def redeclare(channel: Channel, name: str) -> None:
    channel.queue_declare(name, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})


def delete(channel: Channel, name: str) -> None:
    channel.queue_delete(name)


def purge(channel: Channel, name: str) -> None:
    channel.queue_purge(name)


def read(channel: Channel, name: str) -> None:
    channel.basic_qos(0, 1, False)
    channel.basic_consume(name, arguments={"x-stream-offset": "next"} if name in STREAMS else None)


def write(channel: Channel, name: str) -> None:
    channel.confirm_select()
    message = amqp.Message('{"type": "test-of-rights"}', content_type="application/json")
    channel.basic_publish_confirm(message, exchange=name, routing_key="nowhere")


def declare_exchange(channel: Channel, name: str) -> None:
    channel.exchange_declare(name, "fanout", durable=False, auto_delete=False)


def bind(channel: Channel, name: str) -> None:
    channel.queue_bind("default", name, routing_key="#.default")


REPLY = str(uuid.uuid4())
EVENTS = f"celeryev.{REPLY}"
PIDBOX_REPLY = f"{REPLY}.reply.celery.pidbox"
DELAYED = "celery_delayed_27"


def ask(channel: Channel, name: str) -> None:
    channel.queue_declare(name, passive=True)


def lock(channel: Channel, name: str) -> None:
    channel.queue_declare(name, durable=False, exclusive=True, auto_delete=True, arguments={"x-queue-type": "classic"})


MAY: dict[str, list[tuple[Act, str]]] = {
    "admin": [(declare, "any"), (purge, "any"), (delete, "any"), (read, "dead_letters"), (write, "tasks")],
    "worker": [
        *((read, "default"), (read, "mail"), (write, "tasks"), (write, "celeryev"), (write, DELAYED)),
        *((declare_exchange, "celery.pidbox"), (declare, REPLY), (delete, REPLY)),
        *((read, "celery.revoked"), (write, "celery.revoked")),
        # Celery does this itself at the start of a worker, for delayed delivery.
        (bind, "tasks"),
    ],
    "producer": [
        *((write, "tasks"), (write, DELAYED), (write, "celeryev"), (write, "celery.revoked")),
        *((declare, REPLY), (read, REPLY), (delete, REPLY)),
    ],
    "monitor": [(read, "celery.events")],
    "flower": [
        *((read, "celery.events"), (declare_exchange, "celery.pidbox"), (write, "celery.pidbox")),
        (write, "celery.revoked"),
    ],
    "ops": [
        *((read, "celery.events"), (declare_exchange, "celery.pidbox"), (write, "celery.pidbox")),
        *((read, "celery.revoked"), (write, "celery.revoked")),
        *((read, "dead_letters"), (lock, "dead_letters.reader"), (ask, "default"), (ask, "mail")),
    ],
    # What it does is asked of the management API.
    KEDA: [],
}

TASK_QUEUES: list[tuple[Act, str]] = [(redeclare, "default"), (delete, "default"), (delete, "mail")]
OTHERS: list[tuple[Act, str]] = [
    *((read, "dead_letters"), (purge, "dead_letters"), (delete, "dead_letters"), (write, "dead_letters")),
    *(
        (delete, "celery.events"),
        (delete, "celery.revoked"),
        (declare, "any"),
        (declare_exchange, "any"),
    ),
]
DROP: list[tuple[Act, str]] = [(read, "dead_letters"), (purge, "dead_letters")]
TAKE_TASKS: list[tuple[Act, str]] = [(read, "default"), (read, "mail"), (purge, "default")]
SEND_TASKS: list[tuple[Act, str]] = [
    (write, "tasks"),
    (write, DELAYED),
    (write, "celery_delayed_delivery"),
    (write, ""),
]

MAY_NOT: dict[str, list[tuple[Act, str]]] = {
    "admin": [],
    # A worker may purge a queue: RabbitMQ knows no difference between taking one message and taking all.
    "worker": [*TASK_QUEUES, *OTHERS, (read, "celery.events")],
    "producer": [
        *TASK_QUEUES,
        *OTHERS,
        *TAKE_TASKS,
        (bind, "tasks"),
        (read, "celery.events"),
        (write, "celery.pidbox"),
        (write, ""),
    ],
    "monitor": [
        *(*TASK_QUEUES, *OTHERS, *TAKE_TASKS, *SEND_TASKS),
        *((write, "celery.pidbox"), (write, "celeryev"), (declare, REPLY), (declare, EVENTS), (bind, "tasks")),
    ],
    "flower": [
        *(*TASK_QUEUES, *OTHERS, *TAKE_TASKS, *SEND_TASKS),
        *((write, "celeryev"), (declare, REPLY), (declare, EVENTS)),
    ],
    "ops": [
        # It may take dead letters out, for which RabbitMQ has no right of its own beside reading them.
        *(*TASK_QUEUES, *[one for one in OTHERS if one not in DROP], *TAKE_TASKS, *SEND_TASKS),
        *((write, "celeryev"), (declare, REPLY), (declare, EVENTS), (bind, "tasks")),
    ],
    KEDA: [
        *(*TASK_QUEUES, *OTHERS, *TAKE_TASKS, *SEND_TASKS),
        *((read, "celery.events"), (read, "celery.revoked"), (write, "celery.revoked")),
        *((write, "celery.pidbox"), (write, "celeryev"), (declare, REPLY), (declare, EVENTS), (bind, "tasks")),
    ],
}


def refused(connection: amqp.Connection, act: Act, name: str) -> bool:
    # An error closes the channel that it happens on.
    channel = connection.channel()
    try:
        act(channel, name)
    except amqp.AccessRefused:
        return True
    channel.close()
    return False


@pytest.mark.parametrize("role", USERS)
def test_a_role_may_do_its_work_and_no_more(broker: Broker, role: str) -> None:
    with broker.connection(role) as connection:
        denied = [f"{act.__name__} {name}" for act, name in MAY[role] if refused(connection, act, name)]
        granted = [f"{act.__name__} {name}" for act, name in MAY_NOT[role] if not refused(connection, act, name)]
    assert (denied, granted) == ([], [])


@pytest.mark.parametrize("role", [*USERS, "guest", "nobody"])
def test_a_wrong_password_is_refused(broker: Broker, role: str) -> None:
    # guest's password is "guest" where it exists.
    password = "guest" if role == "guest" else "wrong"
    with pytest.raises(amqp.AccessRefused), broker.connection(role, password):
        pass
    assert broker.api("GET", "overview", role=role, password=password).status == 401


STATUS = {
    "admin": {"overview": 200, f"queues/{VHOST}": 200, "users": 200, "definitions": 200},
    **{role: {"overview": 200, f"queues/{VHOST}": 200, "users": 401, "definitions": 401} for role in ("flower", "ops")},
    # As KEDA asks.
    KEDA: {f"queues/{VHOST}?page=1&use_regex=true&pagination=false&name=^(default)$&page_size=100": 200, "users": 401},
    **{role: {"overview": 401, f"queues/{VHOST}": 401, "users": 401} for role in ("worker", "producer", "monitor")},
}


@pytest.mark.parametrize("role", USERS)
def test_the_management_api_by_role(broker: Broker, role: str) -> None:
    found = {path: broker.api("GET", path, role=role).status for path in STATUS[role]}
    assert found == STATUS[role]
    if role != "admin":
        assert broker.api("DELETE", f"queues/{VHOST}/default", role=role).status == 401
        assert broker.api("PUT", f"policies/{VHOST}/x", {"pattern": ".*", "definition": {}}, role=role).status == 401


def test_no_user_but_ours(broker: Broker) -> None:
    assert {user["name"] for user in broker.api("GET", "users").body} == set(USERS)
