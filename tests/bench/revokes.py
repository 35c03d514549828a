"""What lasting revokes cost: reading 20,000 of them, and a worker's start with and without them; on a container.

    .venv/bin/python -m tests.bench.revokes

Figures are of this machine; what can be compared is the ratio, of starts before and after the ids were revoked.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from app import factory
from app.revokes.log import read
from app.settings import AppSettings
from deploy.settings import Settings
from tests.support.brokers import Broker
from tests.support.containers import ContainerBroker
from tests.support.services import Worker

# Revoked tasks, as issue after issue of an operator's week leaves them.
IDS = 20_000
# Starts before, and as many after.
STARTS = 7


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def started(broker: Broker, folder: Path) -> tuple[float, float]:
    """Seconds until a worker is ready, and those in which it read the stream, as it says itself."""
    begun = time.perf_counter()
    worker = Worker(broker, folder)
    try:
        worker.wait()
        taken = time.perf_counter() - begun
    finally:
        worker.kill()
    said = [line for line in worker.lines if "(read in " in line]
    return taken, float(said[-1].rpartition("(read in ")[2].partition(" s")[0]) if said else 0.0


def line(what: str, values: list[float]) -> None:
    print(f"  {what:52} median {statistics.median(values):6.3f} s   ({min(values):.3f} to {max(values):.3f})")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        broker = ContainerBroker("4.3", folder, Settings(disk_free_limit_mb=50))
        broker.start()
        try:
            measure(broker, folder)
        finally:
            broker.stop()


def measure(broker: Broker, folder: Path) -> None:
    empty, _ = zip(*[started(broker, folder) for _ in range(STARTS)], strict=True)
    app = factory.client(AppSettings(broker_url=broker.url("producer")))
    print("Revoking")
    line("one task, until it is on the broker's disk", [seconds(lambda: app.control.revoke(new())) for _ in range(20)])
    line(f"{IDS} tasks at once", [seconds(lambda: app.control.revoke([new() for _ in range(IDS)]))])
    app.close()
    line(
        "reading all of them, as `invoke revoked` does",
        [seconds(lambda: list(read(broker.url("ops")))) for _ in range(5)],
    )
    full, reads = zip(*[started(broker, folder) for _ in range(STARTS)], strict=True)
    print("A worker's start, until it is ready")
    line("nothing revoked", list(empty))
    line(f"{IDS} tasks revoked", list(full))
    line("  of which it reads the stream", list(reads))
    print(f"  ratio: {statistics.median(full) / statistics.median(empty):.2f}")


def new() -> str:
    return str(uuid.uuid4())


if __name__ == "__main__":
    main()
