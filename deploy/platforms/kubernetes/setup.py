"""The image of the broker's first container, which writes what RabbitMQ reads: it has a name of its own.

It is the workers' image, whose name changes with every change of a task. By that name each would restart the broker, where it
has one node with all tasks that run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from deploy.platforms.kubernetes.rendered import documents, says

__all__ = ["FILE", "Setup"]

FILE = "setup.yaml"
CONTAINER = "configure"

# Where each kind of broker has its pods.
PODS = {"StatefulSet": "spec.template.spec", "RabbitmqCluster": "spec.override.statefulSet.spec.template.spec"}


@dataclass(frozen=True)
class Setup:
    """What `images` of kustomize can't say: it takes all containers of an image alike, and comes after all patches."""

    image: str = ""
    kinds: tuple[str, ...] = ()
    """The kinds of broker whose pods get ``image``."""

    @classmethod
    def of(cls, rendered: str, image: str) -> Setup:
        """``image`` for the brokers in ``rendered``, an overlay as kustomize prints it.

        Not for one that runs it under a name of its own there, which is the overlay's; nor where ``image`` is empty.
        """
        found = [kind for kind in PODS for one in documents(rendered) if says(one, "kind", kind) and ours(one)]
        return cls(image, tuple(dict.fromkeys(found)) if image else ())

    def resource(self) -> dict[str, Any]:
        """Where replacements take it from. kustomize alone sees that, the cluster does not."""
        annotations = {"config.kubernetes.io/local-config": "true"}
        named = {"name": "warren-setup-image", "annotations": annotations}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": named, "data": {"image": self.image}}

    def replacements(self) -> list[dict[str, Any]]:
        source = {"kind": "ConfigMap", "name": "warren-setup-image", "fieldPath": "data.image"}
        targets = [
            {
                "select": {"kind": kind, "name": "rabbitmq"},
                "fieldPaths": [f"{PODS[kind]}.initContainers.[name={CONTAINER}].image"],
            }
            for kind in self.kinds
        ]
        return [{"source": source, "targets": targets}]


def ours(manifest: str) -> bool:
    """Whether it is the broker, with a container that configures it and has our image under the name that is in git."""
    named = re.search(rf"^( +)  name: {CONTAINER}$", manifest, re.MULTILINE)
    if not named or not says(manifest, "  name", "rabbitmq"):
        return False
    # Fields are in the alphabet's order: the image is between the beginning of the item and its name.
    item = manifest[manifest.rfind(f"\n{named[1]}- ", 0, named.start()) : named.start()]
    return re.search(rf"^{named[1]}[- ] image: warren-app(?:[:@]\S+)?$", item, re.MULTILINE) is not None
