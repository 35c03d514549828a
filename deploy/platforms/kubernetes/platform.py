"""The stack in a Kubernetes cluster, from the manifests in `k8s/`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from functools import cached_property

from deploy.errors import ExitCode, WarrenError
from deploy.paths import ROOT
from deploy.platforms.base import Endpoints, Instance
from deploy.platforms.kubernetes import context, overlay, passwords, pods, progress
from deploy.platforms.kubernetes.forward import Forwarded
from deploy.platforms.kubernetes.image import ClusterImage
from deploy.platforms.kubernetes.kubectl import PART, Kubectl, explained
from deploy.platforms.lock import locked
from deploy.run import Runner
from deploy.secrets import Secrets
from deploy.services import SERVICES
from deploy.settings import Settings

__all__ = ["Kubernetes"]

# The kind of each service's workload.
KINDS = {"rabbitmq": "statefulset", "worker": "deployment", "monitor": "deployment", "flower": "deployment"}

# Which of the pods a smaller number of workers takes first: those of the lowest cost.
COST = "controller.kubernetes.io/pod-deletion-cost"

# Seconds that the rest of `down` may take after the workers are gone.
DOWN_PATIENCE = 120


class Kubernetes:
    """Drives kubectl; every command that it runs can be typed by hand, from the project's folder."""

    name = "kubernetes"

    def __init__(self, settings: Settings, runner: Runner, confirmed: bool = False) -> None:
        self.settings = settings
        self.runner = runner
        self.confirmed = confirmed
        self.image = ClusterImage(settings, runner)

    @cached_property
    def kubectl(self) -> Kubectl:
        try:
            chosen = context.chosen(self.settings.kube_context, self.confirmed, self.runner)
        except WarrenError as error:
            raise (explained(error, "kubectl") if error.code is ExitCode.PLATFORM else error) from error
        return Kubectl(chosen, self.settings.project, self.runner)

    @cached_property
    def secrets(self) -> Secrets:
        return passwords.load(self.kubectl)

    def check(self) -> None:
        self.kubectl.read("get", "--raw", "/readyz")

    def build(self) -> None:
        self.image.provide(self.kubectl)

    def up(self, workers: int | None) -> None:
        self.check()
        with locked(self.kubectl.note, dry=self.runner.dry):
            fresh = not self.status()
            try:
                self.bring_up(workers)
            except KeyboardInterrupt:
                if fresh:
                    self.stop(volumes=False)
                raise

    def bring_up(self, workers: int | None) -> None:
        self.image.provide(self.kubectl)
        self.apply()
        there = self.kubectl.get("deployment", "worker") or {"metadata": {"generation": 1}, "spec": {}}
        count = workers
        if workers is None and there["metadata"]["generation"] == 1 and self.settings.workers != Settings().workers:
            # Only at first: of a stack that is there, the number is what somebody scaled it to.
            count = self.settings.workers
        if count is not None and count != there["spec"].get("replicas", 1):
            self.kubectl.run("scale", "deployment/worker", f"--replicas={count}")
        if not self.runner.dry:
            progress.until_ready(self.kubectl, SERVICES, self.settings.up_timeout)

    def overlay(self) -> str:
        """Writes the overlay of this checkout and says its folder, as kubectl takes it from the project's folder."""
        place = overlay.base(self.settings)
        if not self.runner.dry:
            overlay.write(self.settings, self.image.name(), place, self.scaled())
        return os.path.relpath(overlay.FOLDER, ROOT)

    def scaled(self) -> dict[str, int | None]:
        """What is to be said of the number of workers, so that an apply leaves it alone."""
        found = self.kubectl.get("deployment", "worker")
        if found is None:
            return {}
        applied = found["metadata"].get("annotations", {}).get("kubectl.kubernetes.io/last-applied-configuration", "{}")
        # Where an earlier apply set it (overlays may), leaving it out now would make it one.
        return {"replicas": found["spec"]["replicas"] if "replicas" in json.loads(applied).get("spec", {}) else None}

    def apply(self) -> None:
        folder = self.overlay()
        if not self.runner.dry:
            context.remember(self.kubectl.context)
        try:
            self.kubectl.run("apply", "--kustomize", folder)
        except WarrenError as error:
            if 'Job.batch "make-secrets"' not in str(error) or "immutable" not in str(error):
                raise
            # Another image of Python's: a Job can't be changed, and what this one made stays.
            self.kubectl.run("delete", "job/make-secrets")
            self.kubectl.run("apply", "--kustomize", folder)
        if not self.runner.dry:
            self.kubectl.note(f"applied the overlay {self.settings.kube_overlay} with the settings of .env ({folder})")

    def down(self, volumes: bool) -> None:
        with locked(self.kubectl.note, dry=self.runner.dry):
            self.stop(volumes)

    def stop(self, volumes: bool) -> None:
        # Workers first: while the broker is there they end their tasks, acknowledge them and give back the others.
        self.delete("deployment/worker", timeout=self.settings.stop_grace + DOWN_PATIENCE)
        self.stop_at_once()
        self.delete("deployment/monitor", "deployment/flower", "statefulset/rabbitmq", timeout=DOWN_PATIENCE)
        if volumes:
            self.kubectl.run("delete", "persistentvolumeclaims", "--selector", PART)

    def delete(self, *names: str, timeout: int) -> None:
        """Deletes workloads and waits until their pods are gone."""
        self.kubectl.run("delete", *names, "--ignore-not-found", "--cascade=foreground", f"--timeout={timeout}s")

    def stop_at_once(self) -> None:
        """Tells broker nodes that all of them go: none need wait for the others (k8s/base/rabbitmq/stop)."""
        for pod in pods.of(self.kubectl.list("pods"), "rabbitmq"):
            if pods.ready(pod):
                name = pod["metadata"]["name"]
                self.kubectl.run("exec", name, "--container", "rabbitmq", "--", "touch", "/tmp/stop-now")  # noqa: S108

    def restart(self, services: Sequence[str]) -> None:
        if not self.status():
            raise WarrenError(f"{self.kubectl.place}: nothing runs; `invoke up` starts the stack", ExitCode.FAILED)
        with locked(self.kubectl.note, dry=self.runner.dry):
            self.image.provide(self.kubectl)
            self.apply()
            wanted = [service for service in SERVICES if service in services]
            self.kubectl.run("rollout", "restart", *(f"{KINDS[service]}/{service}" for service in wanted))
            if not self.runner.dry:
                progress.until_ready(self.kubectl, wanted, self.settings.up_timeout)

    def status(self) -> list[Instance]:
        order = {service: place for place, service in enumerate(SERVICES)}
        found = [pods.instance(pod) for pod in self.kubectl.list("pods") if pods.service(pod) in order]
        return sorted(found, key=lambda one: (order[one.service], one.name))

    def logs(self, services: Sequence[str], follow: bool, tail: int) -> int:
        return self.runner.attach(
            self.kubectl.command(
                *("logs", "--selector", f"{PART},{pods.SERVICE} in ({','.join(services)})", "--prefix"),
                *("--tail", str(tail), "--ignore-errors", "--max-log-requests", "100"),
                *(["--follow"] if follow else []),
            )
        )

    def scale(self, workers: int, busy: set[str]) -> None:
        if self.kubectl.get("deployment", "worker") is None:
            raise WarrenError(f"{self.kubectl.place}: nothing runs; `invoke up` starts the stack", ExitCode.FAILED)
        there = pods.of(self.kubectl.list("pods"), "worker")
        if 0 < workers < len(there):
            # Kubernetes would stop the youngest; a busy one would wait for its task, while an idle one went on.
            names = [pod["metadata"]["name"] for pod in there]
            working = [name for name in names if f"celery@{name}" in busy]
            idle = [name for name in names if name not in working]
            for cost, those in (("1", working), ("0", idle)):
                if those:
                    self.kubectl.run("annotate", "--overwrite", "pods", *those, f"{COST}={cost}")
            if len(there) - workers > len(idle):
                self.kubectl.note(f"some end their tasks first, for {self.settings.stop_grace} s at most")
        self.kubectl.run("scale", "deployment/worker", f"--replicas={workers}")
        if not self.runner.dry:
            progress.until_ready(self.kubectl, ["worker"], self.settings.up_timeout)

    def exec(self, service: str, command: Sequence[str]) -> int:
        there = [pod for pod in pods.of(self.kubectl.list("pods"), service) if pods.ready(pod)]
        if not there:
            raise WarrenError(
                f"{self.kubectl.place}: no {service} is ready; `invoke status` shows what runs", ExitCode.FAILED
            )
        terminal = ["--stdin", "--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else ["--stdin"]
        return self.runner.attach(
            self.kubectl.command(
                *("exec", *terminal, there[0]["metadata"]["name"], "--container", service, "--", *command)
            )
        )

    @cached_property
    def forwarded(self) -> Forwarded:
        return Forwarded(self.kubectl)

    def endpoints(self) -> Endpoints:
        return self.forwarded
