"""What an `apply` replaces by itself: to restart it too would replace each pod twice, and stop tasks that just began."""

from __future__ import annotations

from typing import Any

from deploy.platforms.kubernetes import progress
from deploy.platforms.kubernetes.kubectl import Kubectl

__all__ = ["since", "templates"]


def templates(kubectl: Kubectl) -> dict[str, dict[str, Any]]:
    """What pods are made of, by service. Not the number of them: another one replaces nobody."""
    return {progress.named(one): one["spec"].get("template", {}) for one in kubectl.stack(progress.WORKLOADS)}


def since(before: dict[str, dict[str, Any]], kubectl: Kubectl) -> list[str]:
    """The services that are made of other things than ``before``, new ones with them."""
    changed = [service for service, made in templates(kubectl).items() if before.get(service) != made]
    return sorted(changed, key=progress.place)
