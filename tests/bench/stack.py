"""How long until the first result, how quick a command is, how much memory the idle stack takes: on Compose.

    .venv/bin/python -m tests.bench.stack

Every figure is printed beside what it is compared with, measured in turn in this run. Needs a Docker engine and the images.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from deploy import secrets
from deploy.services import broker_url
from tests.support.checkout import Checkout

# Pairs of starts; each takes half a minute.
STARTS = 5
# Runs of each command.
RUNS = 10


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def line(what: str, values: list[float], unit: str = "s") -> None:
    middle = statistics.median(values)
    print(f"  {what:44} median {middle:6.2f} {unit}   ({min(values):.2f} to {max(values):.2f}, {len(values)} runs)")


def starts(checkout: Checkout) -> None:
    """`invoke up` to the first result, beside RabbitMQ alone to its healthy state; each from no container, data kept."""
    alone = ["docker", "compose", "--project-name", checkout.project, "--env-file", ".warren/compose.env"]
    alone += ["--file", "deploy/compose.yaml"]
    broker, whole = [], []
    for _ in range(STARTS):
        checkout.invoke("down")
        broker.append(seconds(lambda: checkout.run(*alone, "up", "--detach", "--wait", "rabbitmq")))
        checkout.invoke("down")
        whole.append(seconds(lambda: checkout.invoke("up", "--try-it")))
    print("From nothing running, images present")
    line("RabbitMQ alone until healthy", broker)
    line("invoke up until the first result", whole)
    ratios = [a / b for a, b in zip(whole, broker, strict=True)]
    print(f"  ratio: median {statistics.median(ratios):.2f}")
    line("invoke up where all is up", [seconds(lambda: checkout.invoke("up")) for _ in range(3)])


def commands(checkout: Checkout) -> None:
    where = checkout.json("config")["settings"]
    url = broker_url(
        "admin", secrets.load(checkout.folder / ".warren/secrets"), "127.0.0.1", int(where["WARREN_AMQP_PORT"])
    )
    celery = [".venv/bin/python", "-m", "celery", "--quiet", "--broker", url, "inspect", "ping"]
    task = checkout.invoke("call", "add", "2", "3").stdout.strip()
    asked: dict[str, Callable[[], object]] = {
        "invoke revoke ID": lambda: checkout.invoke("revoke", task),
        "invoke status --json": lambda: checkout.invoke("status", "--json"),
        "invoke task ID": lambda: checkout.invoke("task", task),
        "invoke history": lambda: checkout.invoke("history"),
        "celery inspect ping": lambda: checkout.run(*celery),
    }
    taken: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(RUNS):
        for name, ask in asked.items():
            taken[name].append(seconds(ask))
    print("Commands, in turn")
    for name, values in taken.items():
        line(name, values)
    ping = statistics.median(taken["celery inspect ping"])
    for name in list(asked)[:-1]:
        print(f"  ratio {name} / celery inspect ping: {statistics.median(taken[name]) / ping:.2f}")


def memory(checkout: Checkout) -> None:
    """What the engine says that each container uses, once everything that starting takes is over."""
    printed = subprocess.run(
        ["docker", "stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}", *checkout.containers()],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    units = {"KiB": 1 / 1024, "MiB": 1.0, "GiB": 1024.0}
    total = 0.0
    print("Memory of the idle stack, as the engine measures it")
    for name, amount, unit in re.findall(r"^(\S+) ([\d.]+)([KMG]iB)", printed, re.MULTILINE):
        total += float(amount) * units[unit]
        print(f"  {name.removeprefix(checkout.project + '-'):44} {float(amount) * units[unit]:6.0f} MiB")
    print(f"  {'all':44} {total:6.0f} MiB")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkout = Checkout(Path(folder), "compose")
        (checkout.folder / ".venv").symlink_to(sys.prefix)
        try:
            checkout.invoke("up", "--try-it")
            starts(checkout)
            commands(checkout)
            memory(checkout)
        finally:
            checkout.invoke("down", "--volumes", "--yes")


if __name__ == "__main__":
    main()
