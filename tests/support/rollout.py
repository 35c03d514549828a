"""Watching pods while they are replaced."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.ledger import LONG

__all__ = ["Watched", "watched"]

# A pod as it is after each change of it.
PATHS = ("uid", "deletionTimestamp")
LINE = "|".join(f"{{.metadata.{path}}}" for path in PATHS) + '|{.status.conditions[?(@.type=="Ready")].status}{"\\n"}'


class Watched:
    """Which pods serve: from when one was ready for the first time until it is told to go."""

    def __init__(self, first: int) -> None:
        self.first: set[str] = set()
        self.serving: set[str] = set()
        self.new: set[str] = set()
        self.fewest = self._wanted = first

    @property
    def begun(self) -> bool:
        """Whether all that were there before have been seen: from then on it counts."""
        return len(self.first) == self._wanted

    def see(self, uid: str, going: str, ready: str) -> None:
        if going:
            self.serving.discard(uid)
            self.fewest = min(self.fewest, len(self.serving))
        elif ready == "True":
            (self.new if self.begun and uid not in self.first else self.first).add(uid)
            self.serving.add(uid)


@contextmanager
def watched(cluster: Cluster, selector: str, first: int) -> Iterator[Watched]:
    """What happens to the pods of ``selector``, so many at first, until the end of the block."""
    seen = Watched(first)
    watching = subprocess.Popen(
        [
            *("kubectl", "--context", cluster.context, "--namespace", cluster.namespace),
            *("get", "pods", "--selector", selector, "--watch", "--output", f"jsonpath={LINE}"),
        ],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def follow() -> None:
        for line in watching.stdout or ():
            seen.see(*line.rstrip("\n").split("|"))

    reading = Thread(target=follow, daemon=True)
    reading.start()
    try:
        eventually(lambda: seen.begun, LONG, lambda: f"{first} pods are seen ready, not {len(seen.first)}")
        yield seen
    finally:
        watching.terminate()
        watching.wait()
        reading.join()
