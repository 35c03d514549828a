"""The pools in the cluster: those that the settings do not know, how many workers each has, and which of these go first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from app.pools import DEFAULT, Pool, read
from app.settings import OF_A_POOL
from deploy.errors import ExitCode, WarrenError
from deploy.platforms.kubernetes.autoscaling import autoscalers
from deploy.platforms.kubernetes.kubectl import PART, Kubectl, unknown
from deploy.platforms.kubernetes.overlay import OURS
from deploy.services import is_worker, worker_services
from deploy.settings import Settings

__all__ = ["WORKERS", "beside", "end_former_pools", "first_scale", "mark", "require_number", "scaled"]

# The workers of all pools.
WORKERS = f"{PART},app.kubernetes.io/component=worker"

# Which of the pods a smaller number of workers takes first: those of the lowest cost.
COST = "controller.kubernetes.io/pod-deletion-cost"


def first_scale(kubectl: Kubectl, settings: Settings, asked_for: int | None) -> None:
    """Gives each pool the workers that are asked for. Of one that is there already the number is what it was scaled to.

    Where an autoscaler decides, the settings are its bounds by now (scalers.py), and what is asked for becomes one.
    """
    scalers = autoscalers(kubectl)
    for service, pool in worker_services(settings).items():
        there = kubectl.get("deployment", service)
        if there is None:
            continue
        asked = asked_for if pool.name == DEFAULT else None
        if scaler := scalers.get(service):
            if asked is not None:
                scaler.bound(asked, None, settings.up_timeout)
            continue
        # What the settings do not say is left to the overlay.
        if asked is None and there["metadata"]["generation"] == 1 and (pool.name != DEFAULT or pool.workers != 1):
            asked = pool.workers
        if asked is not None and asked != there["spec"].get("replicas", 1):
            kubectl.run("scale", f"deployment/{service}", f"--replicas={asked}")


def end_former_pools(kubectl: Kubectl, settings: Settings) -> None:
    """Stops the workers of pools that the settings do not name any more."""
    scalers = autoscalers(kubectl)
    for found in kubectl.list("deployments", f"{WORKERS},{OURS}"):
        if (service := found["metadata"]["name"]) not in worker_services(settings):
            kubectl.note(f"{service} ends: no such pool is in WARREN_POOLS")
            # An autoscaler first: it would start workers again. The ConfigMap is what one of KEDA's reads.
            scaler = [] if service not in scalers else scalers[service].parts
            of_it = (f"deployment/{service}", f"poddisruptionbudget/{service}")
            kubectl.run("delete", *scaler, *of_it, "--ignore-not-found", "--wait=false")


def scaled(kubectl: Kubectl) -> dict[str, int | None]:
    """What is to be said of the number of workers, by service, so that an apply leaves it alone."""
    said: dict[str, int | None] = {}
    for found in kubectl.list("deployments", WORKERS):
        notes = found["metadata"].get("annotations", {})
        applied = json.loads(notes.get("kubectl.kubernetes.io/last-applied-configuration", "{}"))
        # Where an earlier apply set it (overlays may), leaving it out now would make it one.
        owned = "replicas" in applied.get("spec", {})
        said[found["metadata"]["name"]] = found["spec"]["replicas"] if owned else None
    return said


def beside(kubectl: Kubectl, settings: Settings) -> tuple[Pool, ...]:
    """The pools that the settings do not name, such as one by a copied folder, as their workers are told of them.

    Who may not look at what these are told knows none.
    """
    try:
        there = kubectl.list("deployments,configmaps")
    except WarrenError as error:
        if unknown(error):
            return ()
        raise
    maps = {one["metadata"]["name"]: one.get("data", {}) for one in there if one["kind"] == "ConfigMap"}
    known, found = worker_services(settings), list[Pool]()
    for one in there:
        service = one["metadata"]["name"]
        if one["kind"] == "Deployment" and is_worker(service) and service not in known:
            pools, wrong = read(
                *([service.removeprefix("worker-")], settings.default_pool, OF_A_POOL),
                *(environment(one, maps), lambda *_: "no value that it takes"),
            )
            found += [] if wrong else pools
    return tuple(found)


def environment(workers: dict[str, Any], maps: dict[str, dict[str, str]]) -> dict[str, str]:
    """The variables of a pool's Deployment, as far as they are no secrets: from ConfigMaps, and its own."""
    told: dict[str, str] = {}
    container = workers["spec"]["template"]["spec"]["containers"][0]
    for source in container.get("envFrom", []):
        told |= maps.get(source.get("configMapRef", {}).get("name", ""), {})
    return told | {one["name"]: one["value"] for one in container.get("env", []) if "value" in one}


def require_number(kubectl: Kubectl, service: str, workers: int) -> None:
    """Raises WarrenError where somebody else gave ``service`` another number of workers meanwhile."""
    now = (kubectl.get("deployment", service) or {"spec": {}})["spec"].get("replicas", workers)
    if now != workers:
        raise WarrenError(
            f"{kubectl.place}: somebody else scaled {service} meanwhile: it has {now} workers", ExitCode.FAILED
        )


def mark(kubectl: Kubectl, names: Sequence[str], busy: set[str]) -> None:
    """Says which pods are to go first. Kubernetes would stop the youngest, and let one that runs no task stay."""
    working = [name for name in names if f"celery@{name}" in busy]
    for cost, those in (("1", working), ("0", [name for name in names if name not in working])):
        if those:
            kubectl.run("annotate", "--overwrite", "pods", *those, f"{COST}={cost}")
