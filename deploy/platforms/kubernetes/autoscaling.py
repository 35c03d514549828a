"""Who decides on the number of workers where it is not left to people: KEDA or a HorizontalPodAutoscaler, and its bounds."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from deploy.errors import ExitCode, WarrenError
from deploy.platforms.kubernetes import progress
from deploy.platforms.kubernetes.kubectl import PART, Kubectl, unknown
from deploy.services import nothing_runs

__all__ = ["KEPT", "Autoscaler", "autoscalers", "overview"]

HPAS = "horizontalpodautoscalers.autoscaling"
SCALED_OBJECTS = "scaledobjects.keda.sh"

# With this annotation the bounds are those that a person set, and `up` keeps them.
KEPT = "warren/bounds"

# KEDA leaves workers alone with one of these; the second one says how many.
PAUSED = "autoscaling.keda.sh/paused"
PAUSED_AT = "autoscaling.keda.sh/paused-replicas"


# What a ScaledObject of a pool has beside itself (components/keda).
PARTS = ("triggerauthentications.keda.sh/worker{pool}", "configmap/warren-keda{pool}")


class Autoscaler:
    """What decides on the number of workers of one Deployment, within bounds that people set."""

    def __init__(self, kubectl: Kubectl, found: dict[str, Any]) -> None:
        spec, notes = found["spec"], found["metadata"].get("annotations", {})
        self.kubectl = kubectl
        self.keda = found["kind"] == "ScaledObject"
        self.resource = f"{SCALED_OBJECTS if self.keda else HPAS}/{found['metadata']['name']}"
        """As kubectl names it."""
        self.service: str = spec["scaleTargetRef"]["name"]
        self.parts = [self.resource, *(part.format(pool=suffix(self.service)) for part in PARTS if self.keda)]
        """That and what it has for itself alone."""
        self.kept = KEPT in notes
        """Whether a person set the bounds."""
        if self.keda:
            # Where they are left out, as KEDA has them.
            self.least: int = spec.get("minReplicaCount", 0)
            self.most: int = spec.get("maxReplicaCount", 100)
            self.paused = PAUSED_AT in notes or notes.get(PAUSED, "false") != "false"
        else:
            self.least = spec.get("minReplicas", 1)
            self.most = spec["maxReplicas"]
            conditions = found.get("status", {}).get("conditions", [])
            self.paused = any(one.get("reason") == "ScalingDisabled" for one in conditions)

    @property
    def by(self) -> str:
        return "KEDA" if self.keda else "HorizontalPodAutoscaler"

    def bound(self, least: int, most: int | None, patience: float) -> None:
        """As :class:`deploy.platforms.base.Autoscaler` says.

        Raises:
            WarrenError: these bounds can't be, or the workers are not ready within ``patience`` seconds.
        """
        deployment = self.kubectl.get("deployment", self.service)
        if deployment is None:
            raise nothing_runs(self.kubectl.place)
        if least == 0 and most is None:
            self.pause()
        else:
            self.rebound(least, max(least, self.most) if most is None else most)
            if deployment["spec"].get("replicas", 1) < least:
                # Not only when the autoscaler looks next.
                self.scale(least)
        if not self.kubectl.runner.dry:
            progress.until_ready(self.kubectl, patience, [self.service])

    def pause(self) -> None:
        if self.keda:
            self.patch({"metadata": {"annotations": {PAUSED_AT: "0"}}})
        # A HorizontalPodAutoscaler leaves a Deployment without workers alone; of KEDA the answer would come later.
        self.scale(0)
        self.paused = True

    def rebound(self, least: int, most: int) -> None:
        if least == 0 and not self.keda:
            raise WarrenError(
                "a HorizontalPodAutoscaler keeps one worker at least; `invoke scale-workers 1 --max 4` lets it, "
                "`invoke scale-workers 0` stops all",
                ExitCode.USAGE,
            )
        if self.keda:
            spec = {"minReplicaCount": least, "maxReplicaCount": most}
            notes = {KEPT: "kept", PAUSED: None, PAUSED_AT: None}
        else:
            spec, notes = {"minReplicas": least, "maxReplicas": most}, {KEPT: "kept"}
        self.patch({"metadata": {"annotations": notes}, "spec": spec})
        self.least, self.most, self.paused = least, most, False

    def patch(self, change: dict[str, Any]) -> None:
        self.kubectl.run("patch", self.resource, "--type", "merge", "--patch", json.dumps(change))

    def scale(self, workers: int) -> None:
        self.kubectl.run("scale", f"deployment/{self.service}", f"--replicas={workers}")


def suffix(service: str) -> str:
    """What the names of all that belongs to a pool's workers end in."""
    return service.removeprefix("worker")


def autoscalers(kubectl: Kubectl) -> dict[str, Autoscaler]:
    """Those of the stack, by the service whose workers they count."""
    with ThreadPoolExecutor(2) as pool:
        return by_service(kubectl, *pool.map(lambda kind: listed(kubectl, kind), (HPAS, SCALED_OBJECTS)))


def overview(kubectl: Kubectl) -> tuple[list[dict[str, Any]], dict[str, Autoscaler]]:
    """The stack's pods and workloads, and its autoscalers, by as few commands as it takes: each takes 0.1 s of CPU."""
    with ThreadPoolExecutor(1) as pool:
        kedas = pool.submit(listed, kubectl, SCALED_OBJECTS)
        try:
            found = kubectl.stack(f"pods,{HPAS},deployments,statefulsets")
        except WarrenError:
            # Whoever may not look at one of them gets none.
            return kubectl.stack("pods"), by_service(kubectl, listed(kubectl, HPAS), kedas.result())
        hpas = [one for one in found if one.get("kind") == "HorizontalPodAutoscaler"]
        there = [one for one in found if one not in hpas]
        return there, by_service(kubectl, hpas, kedas.result()) if there else {}


def by_service(
    kubectl: Kubectl, hpas: list[dict[str, Any]], scaled_objects: list[dict[str, Any]]
) -> dict[str, Autoscaler]:
    # KEDA works through a HorizontalPodAutoscaler of its own, with the labels of its ScaledObject, which comes last.
    found = [Autoscaler(kubectl, one) for one in (*hpas, *scaled_objects)]
    return {one.service: one for one in found}


def listed(kubectl: Kubectl, kind: str) -> list[dict[str, Any]]:
    """All of ``kind``; none where the cluster does not know it, or this user may not look."""
    try:
        return kubectl.list(kind, PART)
    except WarrenError as error:
        if unknown(error):
            return []
        raise
