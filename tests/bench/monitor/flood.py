"""Events as workers send them: 24 in a message, three of each task."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Iterator
from typing import Any

import amqp

from tests.support.brokers import Broker

__all__ = ["PER_MESSAGE", "PER_TASK", "messages", "publish"]

PER_MESSAGE = 24
PER_TASK = 3
TASKS = PER_MESSAGE // PER_TASK

# Messages between two waits for the broker's confirmation.
CONFIRM_EVERY = 500


def messages(count: int, seed: int, start: float | None = None) -> Iterator[bytes]:
    """``count`` messages of different tasks: 30 names, 8 workers, 3 of 100 fail with a traceback of 1.5 KB.

    They happened at 1,000 tasks a second from ``start`` on, as a rule so that the last one happens now.
    """
    dice = random.Random(seed)
    start = time.time() - count * TASKS / 1000 if start is None else start
    for number in range(count):
        events: list[dict[str, Any]] = []
        for place in range(TASKS):
            events += task(dice, start + (number * TASKS + place) / 1000)
        yield json.dumps(events).encode()


def task(dice: random.Random, at: float) -> list[dict[str, Any]]:
    id_ = str(uuid.UUID(int=dice.getrandbits(128), version=4))
    common = {
        "hostname": f"celery@worker-{dice.randrange(8)}",
        "utcoffset": 0,
        "pid": 17,
        "clock": dice.randrange(10**6),
        "uuid": id_,
    }
    received = {
        **common,
        "type": "task-received",
        "timestamp": at,
        "name": f"shop.tasks.task{dice.randrange(30)}",
        "args": f"({dice.randrange(10**7)}, 'customer-{dice.randrange(10**5)}')",
        "kwargs": f"{{'order': {dice.randrange(10**6)}}}",
        "root_id": id_,
        "parent_id": None,
        "retries": 0,
        "eta": None,
        "expires": None,
    }
    started = {**common, "type": "task-started", "timestamp": at + 0.002}
    runtime = dice.random() / 5
    ended = {**common, "timestamp": at + 0.002 + runtime}
    if dice.random() < 0.03:
        ended |= {"type": "task-failed", "exception": "ValueError('no stock')", "traceback": TRACEBACK}
    else:
        ended |= {"type": "task-succeeded", "result": f"'invoice {dice.randrange(10**6)}'", "runtime": runtime}
    return [received, started, ended]


TRACEBACK = "Traceback (most recent call last):\n" + "".join(
    f'  File "/srv/project/shop/stock.py", line {line}, in reserve\n    shelf = find(article, depth - 1)\n'
    for line in range(40, 55)
)


def publish(broker: Broker, bodies: Iterator[bytes], pace: float = 0.0) -> list[float]:
    """Sends messages to the event log as workers do; seconds that each confirmation took.

    With ``pace``, each message is confirmed before the next, which is sent so many seconds after the last.
    """
    taken = []
    with broker.connection("worker") as connection:
        channel = connection.channel()
        channel.confirm_select()
        due = time.perf_counter()
        for number, body in enumerate(bodies, 1):
            message = as_message(body)
            sent = time.perf_counter()
            if pace:
                channel.basic_publish_confirm(message, exchange="celeryev", routing_key="task.multi")
                taken.append(time.perf_counter() - sent)
                due += pace
                time.sleep(max(0.0, due - time.perf_counter()))
            else:
                channel.basic_publish(message, exchange="celeryev", routing_key="task.multi")
                if number % CONFIRM_EVERY == 0:
                    # Answered behind what was sent before.
                    channel.basic_publish_confirm(as_message(b"[]"), exchange="celeryev", routing_key="task.multi")
    return taken


def as_message(body: bytes) -> amqp.Message:
    return amqp.Message(body, content_type="application/json", content_encoding="utf-8", delivery_mode=1)
