"""The policy scanner, checkov, in a virtual environment of its own: `.venv/scanner`, made when it is first asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

from deploy.paths import ROOT
from tests.support.manifests import Manifest

__all__ = ["Scanner", "installed"]

LOCK = ROOT / "requirements" / "scan.txt"
PLACE = ROOT / ".venv" / "scanner"
# Seconds. It brings ninety packages; a busy host takes minutes.
PATIENCE = 900


class Scanner:
    def __init__(self, program: Path) -> None:
        self.program = program

    def findings(self, folder: Path, manifests: Iterable[Manifest]) -> set[tuple[str, str]]:
        """Each check that failed and what failed it, such as ("CKV_K8S_16", "Deployment.warren.worker").

        ``folder`` is where the manifests are written for it; it asks nobody on the network.
        """
        file = folder / "manifests.yaml"
        file.write_text(yaml.safe_dump_all(manifests))
        command = [
            str(self.program),
            "--framework",
            "kubernetes",
            "--file",
            str(file),
            "--skip-download",
            "--output",
            "json",
        ]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)
        # Of what it said it is 1 where anything failed.
        assert done.returncode in {0, 1}, done.stderr
        report = json.loads(done.stdout)
        assert report["summary"]["parsing_errors"] == 0, report["results"]["parsing_errors"]
        return {(one["check_id"], one["resource"]) for one in report["results"]["failed_checks"]}


def installed() -> Scanner:
    """Installs it where the lock file says another one than what is there; where that can't be, the test is skipped."""
    done = PLACE / "installed.txt"
    if not done.exists() or done.read_text() != LOCK.read_text():
        subprocess.run([sys.executable, "-m", "venv", "--clear", PLACE], check=True, timeout=PATIENCE)
        # Compiled is what is used, when it is.
        quiet = ["--quiet", "--disable-pip-version-check", "--no-compile"]
        pip = [str(PLACE / "bin" / "pip"), "install", *quiet, "--require-hashes", "-r", str(LOCK)]
        outcome = subprocess.run(pip, capture_output=True, text=True, timeout=PATIENCE, check=False)
        if outcome.returncode:
            pytest.skip(f"the scanner can't be installed: {outcome.stderr.strip().splitlines()[-1]}")
        done.write_text(LOCK.read_text())
    return Scanner(PLACE / "bin" / "checkov")
