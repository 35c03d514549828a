"""What the settings say to the autoscaler that an overlay has: bounds, queues and the number of tasks at a time."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.pools import Pool
from deploy.paths import ROOT
from deploy.platforms.kubernetes.autoscaling import KEPT, Autoscaler
from deploy.platforms.kubernetes.rendered import documents, says
from deploy.services import of_pool
from deploy.settings import Settings

__all__ = ["Scalers"]

# The kinds that the components bring, with where each has its bounds.
KINDS = {
    "keda": ("ScaledObject", "/spec/minReplicaCount", "/spec/maxReplicaCount"),
    "hpa": ("HorizontalPodAutoscaler", "/spec/minReplicas", "/spec/maxReplicas"),
}

# Seconds by which the last worker outlasts the longest task and its grace (components/keda/scaler/scaled-object.yaml).
MARGIN = 30

# Where a ScaledObject does not say.
KEDAS_MOST = 100

OUTSIDE = ROOT / "k8s" / "components" / "external-broker" / "worker.yaml"


@dataclass(frozen=True)
class Scalers:
    """The option of an overlay that decides on the number of its workers, and where these find what it counts."""

    component: str = ""
    """keda, hpa, or empty where people do."""
    most: int = 0
    """What the overlay has as the largest number of workers."""
    kept: Mapping[str, Autoscaler] = field(default_factory=dict)
    """Those in the cluster whose bounds a person set, by service."""
    outside: bool = False
    """Whether the broker is one that others run (components/external-broker)."""
    authority: bool = False
    """Whether its certificate is checked by an authority of the user's own (components/broker-authority)."""
    ranked: bool = True
    """Whether there are PriorityClasses (else components/namespaced)."""

    @classmethod
    def of(cls, rendered: str, there: Mapping[str, Autoscaler]) -> Scalers:
        """Those of the overlay with the manifests ``rendered``, of which ``there`` are in the cluster."""
        outside = "\n  name: warren-broker-address" in rendered
        authority = "secretName: broker-authority" in rendered
        ranked = says(rendered, "kind", "PriorityClass")
        for manifest in documents(rendered):
            for component, (kind, _, most) in KINDS.items():
                if says(manifest, "kind", kind) and says(manifest, "  name", "worker"):
                    limit = re.search(rf"^  {most.rpartition('/')[2]}: (\d+)$", manifest, re.MULTILINE)
                    kept = {name: one for name, one in there.items() if one.kept}
                    return cls(component, int(limit[1]) if limit else KEDAS_MOST, kept, outside, authority, ranked)
        return cls(outside=outside, authority=authority, ranked=ranked)

    def components(self, folder: Path) -> list[str]:
        """What a pool of workers in ``folder`` needs for an autoscaler of its own, and to trust the broker."""
        own = {"keda": "keda/scaler"}.get(self.component, self.component)
        names = [*([own] if own else []), *(["broker-authority"] if self.authority else [])]
        return [os.path.relpath(ROOT / "k8s" / "components" / name, folder) for name in names]

    def patches(self, pool: Pool) -> list[dict[str, Any]]:
        """What differs for ``pool`` from what the component says, as patches of its workers' kustomization."""
        if not self.component:
            return []
        changes: list[tuple[str, Any]] = []
        kind, least, most = KINDS[self.component]
        # By its label too, as overlay.patch() does.
        target = {"kind": kind, "name": "worker", "labelSelector": "app.kubernetes.io/name=worker"}
        found = []
        if kept := self.kept.get(of_pool(pool)):
            changes += [(least, kept.least), (most, kept.most)]
            annotated = {"metadata": {"name": "worker", "annotations": {KEPT: "kept"}}}
            version = {"keda": "keda.sh/v1alpha1", "hpa": "autoscaling/v2"}[self.component]
            found.append({"target": target, "patch": json.dumps({"apiVersion": version, "kind": kind, **annotated})})
        elif pool.workers != 1:
            changes += [(least, pool.workers), (most, max(pool.workers, self.most))]
        if self.component == "keda":
            changes += triggers(pool)
        operations = [{"op": "add", "path": path, "value": value} for path, value in changes]
        return [*found, *([{"target": target, "patch": json.dumps(operations)}] if operations else [])]

    def ranks(self) -> list[dict[str, Any]]:
        """What a pool needs where no pod has a priority, as patches of its workers' kustomization.

        Pods of a class that is not there are refused.
        """
        target = {"kind": "Deployment", "name": "worker"}
        none = [{"op": "remove", "path": "/spec/template/spec/priorityClassName"}]
        return [] if self.ranked else [{"target": target, "patch": json.dumps(none)}]

    def addresses(self) -> list[dict[str, Any]]:
        """What a pool needs to find the broker, as patches of its workers' kustomization."""
        if not self.outside:
            return []
        target = {"kind": "Deployment", "name": "worker"}
        more = {"configMapRef": {"name": "warren-broker-address"}}
        operations = [{"op": "add", "path": "/spec/template/spec/containers/0/envFrom/-", "value": more}]
        return [
            {"target": target, "patch": json.dumps(operations)},
            {"target": target, "patch": OUTSIDE.read_text()},
        ]


def triggers(pool: Pool) -> list[tuple[str, Any]]:
    usual = Settings().default_pool
    asked = "/spec/triggers/0/metadata"
    changes: list[tuple[str, Any]] = []
    if pool.queues != usual.queues:
        changes.append((f"{asked}/queueName", f"^({'|'.join(pool.queues)})$"))
    if pool.concurrency != usual.concurrency:
        changes.append((f"{asked}/value", pool.concurrency))
    if pool.stop_grace != usual.stop_grace:
        changes.append(("/spec/cooldownPeriod", pool.stop_grace + MARGIN))
    return changes
