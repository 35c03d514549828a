"""The manifests as kubectl renders them."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.paths import ROOT

__all__ = ["COMPONENTS", "OVERLAYS", "Manifest", "pods", "render", "rendered"]

Manifest = dict[str, Any]

OVERLAYS = sorted(file.parent.name for file in (ROOT / "k8s" / "overlays").glob("*/kustomization.yaml"))
COMPONENTS = sorted(file.parent.name for file in (ROOT / "k8s" / "components").glob("*/kustomization.yaml"))


def render(folder: Path) -> list[Manifest]:
    """What ``kubectl apply -k`` of ``folder`` would apply; without kubectl the test is skipped."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed; see kubernetes.io/docs/tasks/tools")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@functools.cache
def rendered(overlay: str) -> tuple[Manifest, ...]:
    """One of our overlays."""
    return tuple(render(ROOT / "k8s" / "overlays" / overlay))


def pods(manifests: tuple[Manifest, ...] | list[Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    """Each workload with its pod's spec."""
    for one in manifests:
        if one["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield one, one["spec"]["template"]["spec"]
