"""What an overlay has beside the settings: pools by the component worker-pool, which the cluster alone knows."""

from __future__ import annotations

from msgspec.structs import replace

from deploy import management
from deploy.definitions import TASKS
from deploy.services import is_worker
from deploy.session import Session

__all__ = ["has_queue", "has_service", "learn"]


def learn(s: Session) -> None:
    """Adds the pools that the cluster has beside the settings to these, for the rest of the command."""
    if s.platform.name != "kubernetes":
        return
    from deploy.platforms.kubernetes import Kubernetes, pools

    if isinstance(s.platform, Kubernetes) and (found := pools.beside(s.platform.kubectl, s.settings)):
        s.settings = replace(s.settings, pools=(*s.settings.pools, *found))


def has_queue(s: Session, name: str) -> bool:
    """Whether there is a queue ``name`` of tasks: the settings say so, a pool of the cluster, or else the broker.

    The settings do for the rest of the command.

    Raises:
        WarrenError: the broker can't be asked.
    """
    if name not in s.settings.every_queue:
        learn(s)
    if name in s.settings.every_queue:
        return True
    if s.platform.name != "kubernetes" or name not in management.bound(s.endpoints, s.secrets, TASKS):
        return False
    s.settings = replace(s.settings, queues=(*s.settings.queues, name))
    return True


def has_service(s: Session, name: str) -> bool:
    """Whether the cluster has workers of the service ``name``, which the settings don't."""
    from deploy.platforms.kubernetes import Kubernetes

    return (
        is_worker(name)
        and isinstance(s.platform, Kubernetes)
        and s.platform.kubectl.get("deployment", name) is not None
    )
