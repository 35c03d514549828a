"""Settings and variables of earlier versions: each change makes ConfigMaps and Secrets of other names."""

from __future__ import annotations

import re
from contextlib import suppress

from deploy.errors import WarrenError
from deploy.platforms.kubernetes.kubectl import PART, Kubectl

__all__ = ["sweep"]

# As kustomize ends their names: ten hexadecimal digits, some of them written as other letters, so that no word comes of it.
NAME = re.compile(r"/.+-[2456789bcdfghkmt]{10}$")

# Whatever may name one: what runs, and what could be brought back by `kubectl rollout undo`.
USERS = "pods,deployments,replicasets,statefulsets,controllerrevisions,daemonsets,jobs,cronjobs"


def sweep(kubectl: Kubectl, overlay: str = "") -> None:
    """Deletes those that nothing in the namespace names, and that the folder ``overlay``, which is applied, does not make.

    A password that was changed would stay readable in them. Who may not look or delete does without.
    """
    with suppress(WarrenError):
        there = kubectl.read("get", "configmaps,secrets", "--selector", PART, "--output", "name").split()
        made = [one for one in there if NAME.search(one)]
        if not made:
            return
        # After those: what is made meanwhile is not in the list.
        named = kubectl.read("get", USERS, "--output", "json")
        if overlay:
            named += kubectl.runner.read(["kubectl", "kustomize", overlay])
        if old := [one for one in made if one.partition("/")[2] not in named]:
            kubectl.run("delete", *old, "--ignore-not-found")
            if not kubectl.runner.dry:
                kubectl.note(f"deleted what nothing uses any more: {', '.join(old)}")
