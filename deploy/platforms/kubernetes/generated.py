"""Settings and variables of earlier versions: each change makes ConfigMaps and Secrets of other names."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from deploy.errors import WarrenError
from deploy.platforms.kubernetes import pods
from deploy.platforms.kubernetes.kubectl import Kubectl

__all__ = ["sweep"]

# As kustomize ends their names: ten hexadecimal digits, some of them written as other letters, so that no word comes of it.
NAME = re.compile(r".+-[2456789bcdfghkmt]{10}")

# Whatever may name one: what runs, and what could be brought back by `kubectl rollout undo`.
USERS = "pods,deployments,replicasets,statefulsets,controllerrevisions,daemonsets,jobs,cronjobs"

# What somebody else applies is made before what names it: by kubectl seconds before, by what applies in waves (Argo CD, Flux)
# minutes. Pods whose ConfigMap was deleted in between don't start, until it is applied once more.
FRESH = timedelta(minutes=10)


def sweep(kubectl: Kubectl, overlay: str = "") -> None:
    """Deletes those that nothing in the namespace names, and that the folder ``overlay``, which is applied, does not make.

    A password that was changed would stay readable in them. Where an overlay is applied, others may apply one too: then what
    is fresh is left to a later sweep. Who may not look or delete does without.
    """
    with suppress(WarrenError):
        there = kubectl.list("configmaps,secrets")
        made = {named(one): one["metadata"]["name"] for one in there if not (overlay and fresh(one))}
        made = {one: name for one, name in made.items() if NAME.fullmatch(name)}
        if not made:
            return
        # After those: what is made meanwhile is not in the list.
        used = kubectl.read("get", USERS, "--output", "json")
        if overlay:
            used += kubectl.runner.read(["kubectl", "kustomize", overlay])
        if old := [one for one, name in made.items() if name not in used]:
            kubectl.run("delete", *old, "--ignore-not-found")
            if not kubectl.runner.dry:
                kubectl.note(f"deleted what nothing uses any more: {', '.join(old)}")


def named(one: dict[str, Any]) -> str:
    """As kubectl names it."""
    return f"{one['kind'].lower()}/{one['metadata']['name']}"


def fresh(one: dict[str, Any]) -> bool:
    return datetime.now(UTC) - pods.moment(one["metadata"]["creationTimestamp"]) < FRESH
