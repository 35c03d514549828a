"""Whether there are logs to show: of what kubectl lacks it says only a line among them, and ends as if all were well."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.errors import ExitCode, WarrenError
from deploy.platforms.kubernetes import pods
from deploy.platforms.kubernetes.kubectl import Kubectl
from deploy.services import SERVICES, is_worker, kind, not_up_yet, nothing_runs

__all__ = ["require"]


def require(kubectl: Kubectl, services: Sequence[str]) -> None:
    """Raises WarrenError where none of ``services`` has written anything that this user may read."""
    stack = [pod for pod in kubectl.stack("pods") if kind(pods.service(pod)) in SERVICES]
    if not stack:
        raise nothing_runs(kubectl.place)
    there = [pod for pod in stack if pods.service(pod) in services]
    if not there:
        for service in services:
            if is_worker(service) and kubectl.get("deployment", service) is None:
                raise not_up_yet(service)
    if not any(pods.ran(pod, kind(pods.service(pod))) for pod in there):
        raise WarrenError(
            f"{kubectl.place}: nothing has been logged yet; `invoke status` shows what runs", ExitCode.FAILED
        )
    may = kubectl.command("auth", "can-i", "get", "pods", "--subresource", "log")
    if kubectl.runner.read(may, timeout=30, check=False).startswith("no"):
        raise WarrenError(
            f"{kubectl.place}: the cluster forbids it: this user may not get the logs of pods (pods/log)",
            ExitCode.PLATFORM,
        )
