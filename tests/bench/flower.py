"""How soon Flower is ready after a replay, in how much memory, and for how long its page waits meanwhile.

    .venv/bin/python -m tests.bench.flower [EVENTS]

Everything is measured in this run, on a RabbitMQ 4.3 of its own in a container. Needs a Docker engine and the broker's
image; it takes two minutes.
"""

from __future__ import annotations

import http.client
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from deploy.settings import Settings
from tests.bench.monitor.__main__ import memory, processor
from tests.bench.monitor.flood import PER_MESSAGE, PER_TASK, messages, publish
from tests.support.brokers import HOST
from tests.support.containers import ContainerBroker
from tests.support.eventually import eventually
from tests.support.services import Flower

PATIENCE = 600
# Seconds between two requests of who watches how long the page takes.
EVERY = 0.02
# Messages, and seconds between them, while saves are watched: 2,400 events a second for 20 s.
PACED = 2_000
PACE = 0.01


def asked(flower: Flower, path: str) -> tuple[int, float]:
    """Status of an answer, and the seconds that it took."""
    begun = time.perf_counter()
    connection = http.client.HTTPConnection(HOST, flower.port, timeout=60)
    try:
        connection.request("GET", path)
        return connection.getresponse().status, time.perf_counter() - begun
    except OSError:
        return 0, 0.0
    finally:
        connection.close()


def ready(flower: Flower) -> bool:
    assert flower.popen.poll() is None, flower.tail()
    return asked(flower, "/readyz")[0] == 200


@contextmanager
def watched(flower: Flower) -> Iterator[list[float]]:
    """The seconds that each of many requests took, one after the other."""
    taken: list[float] = []
    over = Event()

    def watch() -> None:
        while not over.wait(EVERY):
            taken.append(asked(flower, "/healthcheck")[1])

    thread = Thread(target=watch)
    thread.start()
    try:
        yield taken
    finally:
        over.set()
        thread.join()


def waits(taken: list[float]) -> str:
    return f"{max(taken) * 1000:.0f} ms at most, median {statistics.median(taken) * 1000:.1f} ms, {len(taken)} requests"


def start(flower: Flower, what: str) -> None:
    begun = time.perf_counter()
    flower.start()
    eventually(lambda: asked(flower, "/healthcheck")[0] == 200, PATIENCE, flower.tail)
    answers = time.perf_counter() - begun
    with watched(flower) as taken:
        eventually(lambda: ready(flower), PATIENCE, flower.tail)
        took, used = time.perf_counter() - begun, processor(flower.popen.pid)
        time.sleep(1)
    print(f"{what}: answers after {answers:.1f} s, ready after {took:.1f} s, {used:.1f} s of processor time")
    print(f"  memory: {memory(flower.popen.pid, 'VmHWM'):.0f} MiB at most; the page waits {waits(taken)}")


def main() -> None:
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        broker = ContainerBroker("4.3", folder, Settings(disk_free_limit_mb=50))
        broker.start()
        try:
            publish(broker, messages(events // PER_MESSAGE, 1))
            flower = Flower(broker, folder, {"FLOWER_STATE_SAVE_INTERVAL": "1000"})
            flower.kill()
            start(flower, f"A replay of {events:,} events")
            shown = len(flower.get("/api/tasks?limit=1000000"))
            print(f"  {shown:,} tasks of {events // PER_TASK:,} are kept")
            with watched(flower) as taken:
                publish(broker, messages(PACED, 2), PACE)
            print(f"A save every second, {PER_MESSAGE / PACE:,.0f} events/s: the page waits {waits(taken)}")
            size = (folder / "flower.state").stat().st_size
            print(f"  the state has {size / 1e6:.1f} MB; memory: {memory(flower.popen.pid, 'VmHWM'):.0f} MiB at most")
            flower.kill()
            start(flower, "A start with that state, after SIGKILL")
            flower.kill()
        finally:
            broker.stop()


if __name__ == "__main__":
    main()
