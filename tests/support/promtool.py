"""Prometheus' own checker, of the host or from its image."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

__all__ = ["missing", "promtool"]


def image() -> str:
    return os.environ.get("WARREN_TEST_PROMETHEUS_IMAGE") or "prom/prometheus:v3"


@functools.cache
def missing() -> str | None:
    """Why it can't be run here, and what would make it run; None if it can."""
    if shutil.which("promtool"):
        return None
    if not shutil.which("docker"):
        return "there is neither promtool nor Docker; install the package prometheus"
    have = subprocess.run(["docker", "image", "inspect", image()], capture_output=True, check=False).returncode == 0
    if have or subprocess.run(["docker", "pull", "--quiet", image()], capture_output=True, check=False).returncode == 0:
        return None
    return (
        f"the image {image()} can't be pulled; install the package prometheus, or name another registry's copy in "
        "WARREN_TEST_PROMETHEUS_IMAGE"
    )


def promtool(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs it in ``folder``."""
    if shutil.which("promtool"):
        return subprocess.run(["promtool", *words], cwd=folder, capture_output=True, text=True, check=False)
    folder.chmod(0o755)
    command = ["docker", "run", "--rm", "--volume", f"{folder}:/rules:ro", "--workdir", "/rules"]
    return subprocess.run(
        [*command, "--entrypoint", "promtool", image(), *words], capture_output=True, text=True, check=False
    )
