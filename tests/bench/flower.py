"""How soon Flower is ready after a replay, in how much memory, and for how long its page waits meanwhile.

    .venv/bin/python -m tests.bench.flower [EVENTS]

Everything is measured in this run, on a RabbitMQ 4.3 of its own in a container. Needs a Docker engine and the broker's
image; it takes two minutes. Ends with 1 where a replay of 200,000 events took longer than 15 s or more than 400 MB, or where
the page did not answer.
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
# What a replay of so many events may take, in seconds and MB. Of fewer it may not take more; of more nothing is promised.
PROMISED = 200_000
SECONDS_LIMIT = 15.0
MEMORY_LIMIT = 400.0


def asked(flower: Flower, path: str) -> tuple[int, float]:
    """Status of an answer, and the seconds that it took; 0 for the status where there was none in all that time."""
    begun = time.perf_counter()
    connection = http.client.HTTPConnection(HOST, flower.port, timeout=60)
    try:
        connection.request("GET", path)
        return connection.getresponse().status, time.perf_counter() - begun
    except OSError:
        return 0, time.perf_counter() - begun
    finally:
        connection.close()


def ready(flower: Flower) -> bool:
    assert flower.popen.poll() is None, flower.tail()
    return asked(flower, "/readyz")[0] == 200


@contextmanager
def watched(flower: Flower) -> Iterator[list[tuple[int, float]]]:
    """What each of many requests was answered, one after the other."""
    taken: list[tuple[int, float]] = []
    over = Event()

    def watch() -> None:
        while not over.wait(EVERY):
            taken.append(asked(flower, "/healthcheck"))

    thread = Thread(target=watch)
    thread.start()
    try:
        yield taken
    finally:
        over.set()
        thread.join()


def waits(taken: list[tuple[int, float]]) -> str:
    if bad := sum(status != 200 for status, _ in taken):
        raise SystemExit(f"{bad} of {len(taken)} requests were not answered by 200")
    seconds = [one for _, one in taken]
    return f"{max(seconds) * 1000:.0f} ms at most, median {statistics.median(seconds) * 1000:.1f} ms, {len(taken)} requests"


def start(flower: Flower, what: str) -> list[str]:
    """Prints how that went; which limits it went beyond, in words."""
    begun = time.perf_counter()
    flower.start()
    eventually(lambda: asked(flower, "/healthcheck")[0] == 200, PATIENCE, flower.tail)
    answers = time.perf_counter() - begun
    with watched(flower) as taken:
        eventually(lambda: ready(flower), PATIENCE, flower.tail)
        took, used = time.perf_counter() - begun, processor(flower.popen.pid)
        time.sleep(1)
    print(f"{what}: answers after {answers:.1f} s, ready after {took:.1f} s, {used:.1f} s of processor time")
    # What /proc has is in units of 1,024 bytes.
    most = memory(flower.popen.pid, "VmHWM") * 1.024**2
    print(f"  memory: {most:.0f} MB at most; the page waits {waits(taken)}")
    return [
        f"{what}: {value:.0f} {unit} is more than {limit:.0f}"
        for value, limit, unit in ((took, SECONDS_LIMIT, "s"), (most, MEMORY_LIMIT, "MB"))
        if value > limit
    ]


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
            beyond = start(flower, f"A replay of {events:,} events")
            shown = len(flower.get("/api/tasks?limit=1000000"))
            print(f"  {shown:,} tasks of {events // PER_TASK:,} are kept")
            with watched(flower) as taken:
                publish(broker, messages(PACED, 2), PACE)
            print(f"A save every second, {PER_MESSAGE / PACE:,.0f} events/s: the page waits {waits(taken)}")
            size = (folder / "flower.state").stat().st_size
            print(
                f"  the state has {size / 1e6:.1f} MB; memory: {memory(flower.popen.pid, 'VmHWM') * 1.024**2:.0f} MB at most"
            )
            flower.kill()
            beyond += start(flower, "A start with that state, after SIGKILL")
            flower.kill()
        finally:
            broker.stop()
    if beyond and events <= PROMISED:
        raise SystemExit("\n".join(beyond))


if __name__ == "__main__":
    main()
