"""The broker's volumes, and the image that it is to get: what was written by one RabbitMQ, an older one can't read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from deploy.platforms.kubernetes import operated, pods
from deploy.platforms.kubernetes.kubectl import PART, Kubectl, labelled
from deploy.platforms.kubernetes.rendered import documents, says
from deploy.upgrade import version

__all__ = ["OURS", "annotate", "claim_names", "image", "ran"]

# Of the labels of our StatefulSet's claims, and of those of RabbitMQ's cluster operator, only this one is sure: an overlay that
# changes their size replaces the others. Claims of other people's brokers have it as well, even under the same names.
SELECTOR = f"{pods.SERVICE}=rabbitmq"
OURS = re.compile(r"data-rabbitmq-\d+")
OPERATORS = re.compile(rf"persistence-{operated.STATEFULSET}-\d+")

# What other people's charts say on their claims, and we do not, unless with our label.
INSTANCE = "app.kubernetes.io/instance"

# The image that last ran on a volume, for when no pod is there to tell.
RAN = "warren/rabbitmq-image"


def claim_names(kubectl: Kubectl) -> list[str]:
    """The names of the claims of the broker's volumes."""
    return [one["metadata"]["name"] for one in claims(kubectl)]


def claims(kubectl: Kubectl) -> list[dict[str, Any]]:
    """The claims of the broker's volumes: what is somebody else's broker's is not among them."""
    found = kubectl.list("persistentvolumeclaims", SELECTOR)
    ours, operators = ([one for one in found if name.fullmatch(one["metadata"]["name"])] for name in (OURS, OPERATORS))
    if ours:
        # Whose it is says whose they are. Without it they are what a stack has left.
        owner = kubectl.get("statefulset", "rabbitmq")
        ours = [one for one in ours if (left(one) if owner is None else labelled(owner))]
    # Those go with their RabbitmqCluster: without it there are none.
    return [*ours, *(operators if operators and operated.ours(kubectl) else [])]


def left(claim: dict[str, Any]) -> bool:
    """Whether a stack of ours left it, as far as that can be told."""
    metadata = claim["metadata"]
    others = {INSTANCE, PART.partition("=")[0]} & metadata.get("labels", {}).keys()
    return labelled(claim) or RAN in metadata.get("annotations", {}) or not others


def ran(kubectl: Kubectl) -> tuple[list[str], int]:
    """The images that have run on the broker's volumes, and how many of its pods are there, if any of these has run.

    What counts is what has run, not what was to run: that may never have been pulled.
    """
    nodes = [one for one in kubectl.stack("pods") if pods.service(one) == "rabbitmq"]
    if images := {image for node in nodes if (image := pods.ran(node, "rabbitmq"))}:
        return sorted(images), len(nodes)
    return sorted({one["metadata"].get("annotations", {}).get(RAN, "") for one in claims(kubectl)} - {""}), 0


def annotate(kubectl: Kubectl, names: Sequence[str], images: Sequence[str]) -> None:
    """Notes on the claims ``names`` that ``images`` have run on their volumes: the pods are about to go."""
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
