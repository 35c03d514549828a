"""The broker's volumes, and the image that it is to get: what was written by one RabbitMQ, an older one can't read."""

from __future__ import annotations

import re
from typing import Any

from deploy.platforms.kubernetes import pods
from deploy.platforms.kubernetes.kubectl import Kubectl
from deploy.platforms.kubernetes.rendered import documents, says
from deploy.upgrade import version

__all__ = ["annotate", "claims", "holds", "image", "ran"]

# The claims of our StatefulSet, and of the one that RabbitMQ's cluster operator makes. Of their labels only this one is sure:
# an overlay that changes their size replaces the others.
SELECTOR = f"{pods.SERVICE}=rabbitmq"
CLAIM = re.compile(r"(?:data-rabbitmq|persistence-rabbitmq-server)-\d+")

# The image that last ran on a volume, for when no pod is there to tell.
RAN = "warren/rabbitmq-image"


def claims(kubectl: Kubectl) -> list[dict[str, Any]]:
    """The claims of the broker's volumes."""
    return [one for one in kubectl.list("persistentvolumeclaims", SELECTOR) if holds(one)]


def holds(claim: dict[str, Any]) -> bool:
    """Whether it is a claim of one of the broker's volumes."""
    return pods.service(claim) == "rabbitmq" and CLAIM.fullmatch(claim["metadata"]["name"]) is not None


def ran(kubectl: Kubectl) -> tuple[list[str], int]:
    """The images that have run on the broker's volumes, and how many of its pods are there.

    What counts is what has run, not what was to run: that may never have been pulled.
    """
    nodes = [one for one in kubectl.stack("pods") if pods.service(one) == "rabbitmq"]
    images = {image for node in nodes if (image := pods.ran(node, "rabbitmq"))}
    if not nodes:
        images = {one["metadata"].get("annotations", {}).get(RAN, "") for one in claims(kubectl)} - {""}
    return sorted(images), len(nodes)


def annotate(kubectl: Kubectl) -> None:
    """Notes on the broker's volumes what runs on them: its pods are about to go."""
    images, _ = ran(kubectl)
    names = [one["metadata"]["name"] for one in claims(kubectl)]
    if names and images:
        # While a rollout has two, the newer one has written already on some.
        newest = max(images, key=lambda one: version(one) or (0, 0))
        kubectl.run("annotate", "--overwrite", "persistentvolumeclaims", *names, f"{RAN}={newest}")


def image(rendered: str) -> str:
    """The broker's image in manifests as kustomize prints them; empty where they have no broker."""
    for manifest in documents(rendered):
        if not says(manifest, "  name", "rabbitmq"):
            continue
        if says(manifest, "kind", "RabbitmqCluster"):
            return named(re.search(r"^  image: (\S+)$", manifest, re.MULTILINE))
        if says(manifest, "kind", "StatefulSet"):
            for container in re.split(r"^      - ", manifest, flags=re.MULTILINE):
                if re.search(r"^(?:        )?name: rabbitmq$", container, re.MULTILINE):
                    return named(re.search(r"^(?:        )?image: (\S+)$", container, re.MULTILINE))
    return ""


def named(found: re.Match[str] | None) -> str:
    return found[1].strip("\"'") if found else ""
