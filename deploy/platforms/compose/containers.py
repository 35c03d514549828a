"""What runs: the containers of the stack, and their states as every platform tells them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from deploy.errors import ExitCode, WarrenError
from deploy.paths import ROOT
from deploy.platforms.base import Instance
from deploy.platforms.compose.engine import ENGINE_PATIENCE, explained
from deploy.run import Runner
from deploy.services import is_worker
from deploy.settings import Settings

__all__ = ["broker_image", "broker_label", "instance", "last_line", "listed", "number", "published"]

# What Compose takes for the project's folder: that of the file.
HOME = ROOT / "deploy"


def listed(settings: Settings, runner: Runner) -> list[dict[str, Any]]:
    """The stack's containers, as `docker ps` tells of them.

    Raises:
        WarrenError: no engine answers, or they belong to another checkout.
    """
    label = "com.docker.compose"
    filters = [f"label={label}.project={settings.project}", f"label={label}.oneoff=False"]
    command = ["docker", "ps", "--all", "--no-trunc", "--format", "json"]
    for one in filters:
        command += ["--filter", one]
    try:
        printed = runner.read(command, timeout=ENGINE_PATIENCE)
    except WarrenError as error:
        raise explained(error) from error
    found = [json.loads(line) for line in printed.splitlines()]
    for one in found:
        home = labels(one).get(f"{label}.project.working_dir", str(HOME))
        if Path(home) != HOME:
            raise WarrenError(
                f"the containers of WARREN_PROJECT={settings.project} belong to the checkout {Path(home).parent}; "
                "choose another name (and other ports) in .env, or go there",
                ExitCode.REFUSED,
            )
    return found


def published(containers: list[dict[str, Any]]) -> set[int]:
    """The ports of this host that ``containers`` hold."""
    return {int(port) for one in containers for port in re.findall(r":(\d+)->", one.get("Ports", ""))}


def broker_image(containers: list[dict[str, Any]]) -> str:
    """The image of the broker among ``containers``; empty where there is none."""
    return next((one["Image"] for one in containers if labels(one).get("com.docker.compose.service") == "rabbitmq"), "")


def broker_label(containers: list[dict[str, Any]]) -> str:
    """What the broker among ``containers`` was made from; empty where there is none."""
    found = (labels(one) for one in containers)
    return next((one["warren.definitions"] for one in found if "warren.definitions" in one), "")


def last_line(container: str) -> str:
    done = subprocess.run(
        ["docker", "logs", "--tail", "5", container],
        capture_output=True,
        text=True,
        # A log may hold anything.
        errors="replace",
        check=False,
        stdin=subprocess.DEVNULL,
    )
    written = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return written[-1] if written else ""


def number(name: str) -> int:
    found = re.search(r"(\d+)$", name)
    return int(found.group(1)) if found else 0


def labels(container: dict[str, Any]) -> dict[str, str]:
    return dict(label.partition("=")[::2] for label in container["Labels"].split(","))


def instance(container: dict[str, Any]) -> Instance:
    service = labels(container)["com.docker.compose.service"]
    status = container["Status"]
    checked = re.search(r"\((healthy|unhealthy|health: starting)\)", status)
    running = container["State"] == "running"
    ready = running and (checked is None or checked.group(1) == "healthy")
    if running:
        state = "running" if ready else ("starting" if checked and "starting" in checked.group(1) else "running")
    elif container["State"] in {"created", "restarting"}:
        state = "starting"
    else:
        state = "stopped" if re.match(r"Exited \((0|143)\)", status) else "failed"
    return Instance(
        service=service,
        name=container["Names"],
        state=state,
        ready=ready,
        since=re.sub(r" \((healthy|unhealthy|health: starting)\)", "", status),
        # A worker's node is named after its host name, which is the first 12 digits of its container's id.
        node=f"celery@{container['ID'][:12]}" if is_worker(service) else "",
    )
