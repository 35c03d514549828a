"""A stack on a cluster whose tasks are counted: each writes in a ledger, outside of the stack, that it began and is done."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploy.paths import ROOT
from tests.support.cluster import Cluster
from tests.support.eventually import eventually

__all__ = ["LEDGER", "LONG", "Ledger"]

LEDGER = ROOT / "tests" / "e2e" / "kubernetes" / "ledger"

# Seconds for what images, volumes, brokers and nodes take on a busy host; and without a step forward.
LONG = 600

# Tasks a second that are sent, and seconds that each takes: some less than three workers of two can do, so that who sends
# and who works both meet what happens meanwhile.
RATE = 15.0
TASK = 0.3


class Ledger:
    """``base``, an overlay with the component LEDGER or without, in the namespace of ``cluster``."""

    broker = "rabbitmq-0"
    """The pod that is asked what the broker has."""

    def __init__(self, cluster: Cluster, folder: Path, base: Path, image: str) -> None:
        self.cluster = cluster
        self.folder = folder
        self.base = base
        self.image = image
        self.sent = 0

    def apply(self, *components: Path, images: tuple[str, ...] = (), **content: Any) -> None:
        """Applies ``base`` with ``components``, the app image, ``images`` and what else ``content`` says."""
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": self.cluster.namespace,
            "resources": [os.path.relpath(self.base, self.folder)],
            "components": [os.path.relpath(one, self.folder) for one in components],
            "images": [dict(zip(("name", "newTag"), one.split(":"), strict=True)) for one in (self.image, *images)],
            **content,
        }
        (self.folder / "kustomization.yaml").write_text(json.dumps(kustomization))
        self.cluster.kubectl("apply", "--kustomize", str(self.folder))

    def exec(self, where: str, *command: str) -> str:
        return self.cluster.kubectl("exec", where, "--", *command).stdout

    def entries(self, kind: str, prefix: str = "") -> list[str]:
        """What the ledger says of tasks that ``began`` or are ``done``, in its order."""
        lines = self.exec("deployment/ledger", "cat", "/data/ledger").splitlines()
        return [line for line in lines if line.startswith(f"{kind}/{prefix}")]

    def send(self, prefix: str, number: int, seconds: float = TASK, rate: float = RATE) -> subprocess.Popen[str]:
        """Starts to send ``number`` tasks."""
        self.sent += number
        return subprocess.Popen(
            [
                *("kubectl", "--context", self.cluster.context, "--namespace", self.cluster.namespace),
                *("exec", "deployment/producer", "--"),
                *("python3", "/ledger/send.py", prefix, str(number), str(seconds), str(rate)),
            ],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def under(self, prefix: str, number: int, fault: Callable[[], None], rate: float = RATE) -> None:
        """Sends ``number`` tasks, lets ``fault`` happen while they run, and waits until all of them are done."""
        sending = self.send(prefix, number, rate=rate)
        try:
            eventually(lambda: len(self.entries("done", prefix)) > number // 20, LONG, f"{prefix}: the load runs")
            fault()
            self.all_done(prefix, number)
            printed, _ = sending.communicate(timeout=LONG)
        finally:
            sending.kill()
        assert sending.returncode == 0, printed

    def all_done(self, prefix: str, number: int) -> None:
        """Waits until all are done, for as long as they get more: how fast that is, is the machine's."""

        def done() -> int:
            return len(set(self.entries("done", prefix)))

        seen = -1
        while seen < number:
            # What is looked at in each turn is other than in the one before.
            more = functools.partial(lambda before: (now := done()) > before and now, seen)
            seen = int(eventually(more, LONG, f"{prefix}: {seen} of {number} are done, and no more get it"))

    def ready(self) -> bool:
        """Whether each workload has the pods that it is to have, all of them ready, and none is about to go."""
        wanted = {
            one["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"]: one["spec"]["replicas"]
            for one in self.cluster.items("deployments,statefulsets")
        }
        found = dict.fromkeys(wanted, 0)
        for pod in self.cluster.items("pods"):
            name = pod["metadata"]["labels"]["app.kubernetes.io/name"]
            if name in wanted:
                conditions = {one["type"]: one["status"] for one in pod["status"].get("conditions", [])}
                if conditions.get("Ready") != "True" or "deletionTimestamp" in pod["metadata"]:
                    return False
                found[name] += 1
        return found == wanted

    def await_ready(self) -> None:
        self.awaited(self.ready)

    def awaited(self, fact: Callable[[], bool]) -> None:
        """Waits for ``fact``; where it does not come, the pods are shown as they are."""
        eventually(fact, LONG, lambda: self.cluster.kubectl("get", "pods", "--output", "wide").stdout)

    def queues(self, *columns: str) -> list[dict[str, Any]]:
        """What the broker says of all queues."""
        listed = self.exec(
            self.broker, *("rabbitmqctl", "--silent", "--formatter", "json", "list_queues", "--vhost", "warren"),
            *columns, "--timeout", "20",
        )  # fmt: skip
        found: list[dict[str, Any]] = json.loads(listed)
        return found

    def copies(self) -> dict[str, list[str]]:
        """The broker nodes that have each durable queue, and are up."""
        listed = self.queues("type", "name", "online")
        return {one["name"]: one["online"] for one in listed if one["type"] in ("quorum", "stream")}

    def whole(self) -> bool:
        """Whether all pods are ready, and all three broker nodes have every queue."""
        return self.ready() and all(len(online) == 3 for online in self.copies().values())

    def await_whole(self) -> None:
        self.awaited(self.whole)

    def each_done(self) -> None:
        """Waits until no message is left in any queue: each task was acknowledged, and none was put aside."""
        assert len(set(self.entries("done"))) == self.sent

        def left() -> bool:
            return not any(
                one["messages"] for one in self.queues("name", "type", "messages") if one["type"] == "quorum"
            )

        eventually(left, LONG, "no message is left in any queue")
