"""What the monitor is compared with: Celery's Receiver and State, alone or as its documentation's monitor example has them.

    python -m tests.bench.monitor.celery_reader URL COUNT [example]

Reads the event log from its beginning until COUNT events have come, prints how many events a second that were.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from celery import Celery
from kombu import Connection, Queue

# As many as the event log's own reader is sent ahead.
PREFETCH = 400


def main() -> None:
    url, count, example = sys.argv[1], int(sys.argv[2]), sys.argv[3:] == ["example"]
    app = Celery(set_as_current=False)
    state = app.events.State()
    seen = 0
    receiver: Any

    def take(event: dict[str, Any]) -> None:
        nonlocal seen
        seen += 1
        state.event(event)
        if seen >= count:
            receiver.should_stop = True

    def announce(event: dict[str, Any]) -> None:
        take(event)
        task = state.tasks.get(event["uuid"])
        print(f"TASK {event['type']}: {task.name}[{task.uuid}] {task.info()}")

    class Replay(app.events.Receiver):  # type: ignore[name-defined]
        """The stock receiver, on the stream instead of a queue of its own."""

        def get_consumers(self, Consumer: Any, channel: Any) -> list[Any]:  # noqa: N803 - kombu's names
            queue = Queue("celery.events", no_declare=True, consumer_arguments={"x-stream-offset": "first"})

            def receive(body: Any, message: Any) -> None:
                self._receive(body, message)
                message.ack()

            return [Consumer([queue], callbacks=[receive], no_ack=False, accept=["json"], prefetch_count=PREFETCH)]

    with Connection(url) as connection:
        kinds = {"task-succeeded": announce, "task-failed": announce} if example else {}
        receiver = Replay(connection, handlers={**kinds, "*": take})
        start = time.perf_counter()
        for _ in receiver.consume(limit=None, timeout=30, wakeup=False):
            pass
        sys.stderr.write(f"{seen / (time.perf_counter() - start):.0f}\n")


if __name__ == "__main__":
    main()
