"""Watching the pods of a StatefulSet while it replaces them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

from tests.support.cluster import Cluster

__all__ = ["Watched", "watched"]

# A pod as it is after each change of it.
PATHS = ("name", "uid", "deletionTimestamp")
LINE = "|".join(f"{{.metadata.{path}}}" for path in PATHS) + '|{.status.conditions[?(@.type=="Ready")].status}{"\\n"}'


class Watched:
    """Which pods were away at once: from when one is told to go until the one in its place was ready."""

    def __init__(self) -> None:
        self.present: dict[str, str] = {}
        self.away: set[str] = set()
        self.replaced: list[str] = []
        self.most = 0

    def see(self, name: str, uid: str, going: str, ready: str) -> None:
        if going:
            self.away.add(name)
            self.most = max(self.most, len(self.away))
        elif ready == "True":
            if self.present.setdefault(name, uid) != uid:
                self.present[name] = uid
                self.replaced.append(name)
            self.away.discard(name)


@contextmanager
def watched(cluster: Cluster, selector: str) -> Iterator[Watched]:
    """What happens to the pods of ``selector`` until the end of the block."""
    seen = Watched()
    watching = subprocess.Popen(
        [
            *("kubectl", "--context", cluster.context, "--namespace", cluster.namespace),
            *("get", "pods", "--selector", selector, "--watch", "--output", f"jsonpath={LINE}"),
        ],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def follow() -> None:
        for line in watching.stdout or ():
            name, uid, going, ready = line.rstrip("\n").split("|")
            seen.see(name, uid, going, ready)

    reading = Thread(target=follow, daemon=True)
    reading.start()
    try:
        yield seen
    finally:
        watching.terminate()
        watching.wait()
        reading.join()
