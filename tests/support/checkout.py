"""A fresh checkout of the project, as a newcomer has it, and the commands typed in it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import uuid
from pathlib import Path
from typing import Any

from deploy.paths import ROOT
from deploy.ports import FIELDS
from tests.support.commands import finished, insisted
from tests.support.ports import free_port

__all__ = ["Checkout"]

# Seconds. A command that hangs must not hang the tests.
PATIENCE = 280

# What waits for services, which take their time on a busy host: for as long as WARREN_UP_TIMEOUT says, after it has built an
# image and copied it to nodes.
WAITING = {"up", "down", "restart", "scale-workers"}
UP_TIMEOUT = 600
WAITING_PATIENCE = 1800


class Checkout:
    """A copy of what git knows and of what is new here, below ``folder``, with a name and ports of its own."""

    def __init__(self, folder: Path, platform: str, **settings: str) -> None:
        self.folder = folder
        self.platform = platform
        self.first: subprocess.CompletedProcess[str] | None = None
        self.project = f"e2e-{uuid.uuid4().hex[:8]}"
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        )  # fmt: skip
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        ports = {f"WARREN_{field.upper()}": str(free_port()) for field in FIELDS}
        self.set(WARREN_PROJECT=self.project, WARREN_UP_TIMEOUT=str(UP_TIMEOUT), **ports, **settings)

    def set(self, **settings: str) -> None:
        """Adds ``settings`` to .env."""
        with (self.folder / ".env").open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in settings.items())

    @property
    def environment(self) -> dict[str, str]:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("WARREN_", "VIRTUAL_ENV"))
        }
        return {**inherited, "WARREN_PLATFORM": self.platform}

    def install(self) -> None:
        """Makes the environment of its commands, as `make up` does first: packages may not come at the first try."""
        insisted(["make", ".venv/ops"], self.folder, self.environment)

    def run(self, *command: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """``command`` typed in the checkout, with ``variables`` in its environment; with ``check`` it must succeed."""
        patience = WAITING_PATIENCE if WAITING & set(command[:2]) else PATIENCE
        done = finished(command, patience, self.folder, {**self.environment, **variables})
        assert not check or done.returncode == 0, (
            f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    def invoke(self, *arguments: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.run(".venv/bin/invoke", *arguments, check=check, **variables)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.invoke(*arguments, "--json").stdout)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """An Invoke command in a process group of its own, with Ctrl-C as a terminal gives it."""
        return subprocess.Popen(
            [".venv/bin/invoke", *arguments],
            cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            # A test run in the background ignores SIGINT, and its children would with it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
        )  # fmt: skip

    def workers(self, service: str = "worker") -> list[dict[str, Any]]:
        """The workers of a pool."""
        return [one for one in self.json("status")["instances"] if one["service"] == service]

    def processes(self) -> list[int]:
        """The host's processes that run out of this checkout: what `down` must not leave on the local platform."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                arguments = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue
            if str(self.folder).encode() in arguments and int(entry.name) != os.getpid():
                found.append(int(entry.name))
        return found

    def containers(self) -> list[str]:
        listed = subprocess.run(
            ["docker", "ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={self.project}"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return listed.stdout.split()

    def worker_pids(self) -> list[int]:
        """The main processes of all workers, as the host numbers them."""
        if self.platform == "local":
            own = f"{self.folder}/".encode()
            found = []
            for entry in Path("/proc").glob("[0-9]*"):
                try:
                    arguments = (entry / "cmdline").read_bytes().split(b"\0")
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    family = Path(f"/proc/{parent}/cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                # Pool processes have the same command line as the worker that they belong to.
                if arguments[0].startswith(own) and b"worker" in arguments and b"worker" not in family:
                    found.append(int(entry.name))
            return found
        listed = subprocess.run(
            ["docker", "ps", "--quiet", "--filter", f"label=com.docker.compose.project={self.project}",
             "--filter", "label=com.docker.compose.service=worker"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        inspected = subprocess.run(
            ["docker", "inspect", "--format", "{{.State.Pid}}", *listed.stdout.split()],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return [int(pid) for pid in inspected.stdout.split() if pid != "0"]
