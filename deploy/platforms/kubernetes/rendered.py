"""What an overlay says as a whole, read without a YAML library: as kustomize prints it, a field a line, in block style."""

from __future__ import annotations

import os
import re
from pathlib import Path

from deploy.paths import ROOT
from deploy.run import Runner

__all__ = ["documents", "render", "says"]


def render(place: Path, runner: Runner) -> str:
    """The manifests of the overlay at ``place``."""
    return runner.read(["kubectl", "kustomize", os.path.relpath(place, ROOT)])


def documents(rendered: str) -> list[str]:
    """Each manifest for itself."""
    return re.split(r"^---$", rendered, flags=re.MULTILINE)


def says(manifest: str, key: str, value: str) -> bool:
    """Whether a line is ``key``, with its indentation, and ``value``."""
    return re.search(rf"^{key}: {value}$", manifest, re.MULTILINE) is not None
