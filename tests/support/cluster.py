"""The Kubernetes cluster that the tests may use, and how they ask it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from typing import Any

import pytest

from deploy.paths import ROOT
from deploy.platforms.kubernetes.image import on_all
from tests.support.commands import finished, insisted
from tests.support.eventually import eventually

__all__ = ["Cluster", "named", "reaches", "three_nodes"]

# Seconds. What takes longer is waited for by asking again; a command that hangs must not hang the tests.
PATIENCE = 280

# In a pod: whether it gets a connection to an address whose name it finds.
CONNECT = """
import socket, sys
host, port = socket.gethostbyname(sys.argv[1]), int(sys.argv[2])
try:
    socket.create_connection((host, port), 3)
except OSError:
    print("refused")
else:
    print("reached")
"""

HOW = (
    "E2E_CONTEXT names no context of kubectl; with kind: kind create cluster, then "
    "E2E_CONTEXT=kind-kind E2E_KUBE_LOAD='kind load docker-image'"
)


class Cluster:
    """A context of kubectl, and one namespace there."""

    def __init__(self, context: str, namespace: str) -> None:
        self.context = context
        self.namespace = namespace

    def kubectl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["kubectl", "--context", self.context, "--namespace", self.namespace, *arguments]
        done = finished(command, PATIENCE, cwd=ROOT)
        assert not check or done.returncode == 0, (
            f"{arguments} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    def items(self, kinds: str, selector: str = "") -> list[dict[str, Any]]:
        selected = ["--selector", selector] if selector else []
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", kinds, *selected, "--output", "json").stdout)[
            "items"
        ]
        return found

    def load(self, *images: str) -> None:
        """Copies images of this host's engine to the nodes that lack them, with the command of E2E_KUBE_LOAD."""
        for image in images if os.environ.get("E2E_KUBE_LOAD") else ():
            if not on_all(self.items("nodes"), image):
                insisted([*shlex.split(os.environ["E2E_KUBE_LOAD"]), image])

    def forget(self) -> None:
        """Deletes the namespace with all that is in it, and does not wait for the end of that."""
        self.kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--wait=false", check=False)
        # No new ones can be made now, and nobody waits for the tasks of these.
        self.kubectl("delete", "pods", "--all", "--grace-period=1", "--wait=false", check=False)


def named(namespace: str) -> Cluster:
    """The cluster of E2E_CONTEXT; without one the test is skipped, with what to do."""
    context = os.environ.get("E2E_CONTEXT", "")
    if not context:
        pytest.skip(HOW)
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed; see kubernetes.io/docs/tasks/tools")
    return Cluster(context, namespace)


def reaches(cluster: Cluster, where: str, host: str, port: int) -> bool:
    """Whether a pod gets a connection. One that can't be asked just now is asked again: that is no answer."""
    ask = ("exec", where, "--", "python3", "-c", CONNECT, host, str(port))
    return "reached" in eventually(lambda: cluster.kubectl(*ask), 120, f"{where} tells of {host}").stdout


def three_nodes(cluster: Cluster) -> list[str]:
    """The nodes that are ready and take any pod; the test is skipped where they are fewer."""
    found = sorted(
        one["metadata"]["name"]
        for one in cluster.items("nodes")
        if any(state["type"] == "Ready" and state["status"] == "True" for state in one["status"]["conditions"])
        and not any(taint["effect"] != "PreferNoSchedule" for taint in one["spec"].get("taints", []))
    )
    if len(found) < 3:
        pytest.skip(
            f"the cluster has {len(found)} nodes that take pods; three are needed (kind: three workers in its config)"
        )
    return found
