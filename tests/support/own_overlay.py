"""Overlays of a user's own over ours, and a checkout whose settings name one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.checkout import Checkout
from tests.support.cluster import Cluster

__all__ = ["checkout_with", "write"]


def write(checkout: Checkout, name: str, components: Sequence[str], **content: Any) -> Path:
    """Writes the overlay ``name``, over dev unless ``content`` says otherwise; ``components`` are folders of the checkout."""
    folder = checkout.folder / name
    folder.mkdir()
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        # Any: that of the settings comes over it.
        "namespace": "of-the-settings",
        "resources": ["../k8s/overlays/dev"],
        "components": [f"../{one}" for one in components],
        **content,
    }
    (folder / "kustomization.yaml").write_text(json.dumps(kustomization))
    return folder


def checkout_with(
    folder: Path, cluster: Cluster, app_image: str, components: Sequence[str], **content: Any
) -> Checkout:
    """A checkout below ``folder``, for the namespace of ``cluster``, with such an overlay `mine`; nothing is up yet."""
    made = Checkout(folder, "kubernetes", WARREN_KUBE_CONTEXT=cluster.context)
    made.set(WARREN_PROJECT=cluster.namespace, WARREN_APP_IMAGE=app_image, WARREN_KUBE_OVERLAY="mine")
    write(made, "mine", components, **content)
    made.install()
    return made
