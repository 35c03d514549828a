"""The stack in a Kubernetes cluster, from the manifests in `k8s/`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.pools import DEFAULT
from deploy.errors import ExitCode, WarrenError
from deploy.paths import ROOT
from deploy.platforms.base import Endpoints, Instance
from deploy.platforms.kubernetes import (
    again,
    broker,
    context,
    down,
    generated,
    logs,
    neighbours,
    operated,
    overlay,
    passwords,
    pods,
    pools,
    progress,
    renewed,
    trouble,
)
from deploy.platforms.kubernetes.asked import Rank
from deploy.platforms.kubernetes.autoscaling import Autoscaler, autoscalers, overview
from deploy.platforms.kubernetes.forward import Forwarded
from deploy.platforms.kubernetes.kubectl import THERE, Kubectl, explained, half_applied, labelled
from deploy.platforms.kubernetes.rendered import render
from deploy.platforms.kubernetes.scalers import Scalers
from deploy.platforms.kubernetes.setup import Setup
from deploy.platforms.lock import locked
from deploy.run import Runner
from deploy.secrets import Secrets
from deploy.services import SERVICES, kind, not_up_yet, nothing_runs, of_pool, worker_services
from deploy.settings import Settings
from deploy.upgrade import require

if TYPE_CHECKING:
    from deploy.platforms.kubernetes.image import ClusterImage

__all__ = ["Kubernetes"]


class Kubernetes:
    """Drives kubectl; every command that it runs can be typed by hand, from the project's folder."""

    name = "kubernetes"
    keeps = "in the Secret warren"

    def __init__(self, settings: Settings, runner: Runner, confirmed: bool = False) -> None:
        self.settings = settings
        self.runner = runner
        self.confirmed = confirmed
        self.others_broker = False
        """Whether the overlay that was written last has a broker that others run."""

    @cached_property
    def image(self) -> ClusterImage:
        # With what Compose has of images: most commands ask none.
        from deploy.platforms.kubernetes.image import ClusterImage

        return ClusterImage(self.settings, self.runner)

    @cached_property
    def kubectl(self) -> Kubectl:
        try:
            chosen = context.chosen(self.settings.kube_context, self.confirmed, self.runner)
        except WarrenError as error:
            raise (explained(error, "kubectl") if error.code is ExitCode.PLATFORM else error) from error
        return Kubectl(chosen, self.settings.project, self.runner)

    @cached_property
    def secrets(self) -> Secrets:
        return self.forwarded.secrets

    def check(self) -> None:
        self.kubectl.read("get", "--raw", "/readyz")

    def build(self) -> None:
        """Builds the app image and copies it to the nodes, unless one's own overlay names another."""
        if overlay.ours(self.place) or "image: warren-app:" in self.rendered:
            self.image.provide(self.kubectl)

    @property
    def place(self) -> Path:
        """The folder of the overlay that the settings choose."""
        return overlay.base(self.settings)

    @cached_property
    def rendered(self) -> str:
        """That overlay as it is, without the settings."""
        return render(self.place, self.runner)

    def up(self, workers: int | None) -> None:
        self.check()
        with locked(self.kubectl.note, dry=self.runner.dry):
            # Before an image is built: one that is about to go takes nothing.
            namespace = self.kubectl.own_namespace()
            fresh = not self.status()
            if fresh and not self.confirmed:
                neighbours.require_none(self.kubectl, namespace)
            try:
                self.bring_up(workers, fresh)
            except KeyboardInterrupt:
                if fresh:
                    self.kubectl.note("interrupted; stopping what had been started")
                    down.stop(self.kubectl, self.settings.stop_grace, volumes=False)
                raise

    def bring_up(self, workers: int | None, fresh: bool) -> None:
        self.build()
        stuck = again.left_behind(self.kubectl)
        again.admit(self.kubectl)
        self.apply()
        if not self.runner.dry:
            if stuck:
                self.kubectl.run("delete", "pods", *stuck, "--ignore-not-found", "--wait=false")
            if self.others_broker:
                self.tell_of_others_broker(fresh)
            pools.first_scale(self.kubectl, self.settings, workers)
            pools.end_former_pools(self.kubectl, self.settings)
            progress.until_ready(self.kubectl, self.settings.up_timeout)
            generated.sweep(self.kubectl, os.path.relpath(overlay.FOLDER, ROOT))

    def tell_of_others_broker(self, fresh: bool) -> None:
        """Says what nobody but its administrators can do, and what is left of one that was ours."""
        if fresh:
            self.kubectl.note(
                "others run its broker: until that has what `invoke definitions` prints, pods wait "
                "(docs/kubernetes-options.md, external-broker)"
            )
        # Theirs may be here, too, and called the same.
        if (found := self.kubectl.get("statefulset", "rabbitmq")) and labelled(found):
            ours = "statefulset/rabbitmq service/rabbitmq service/rabbitmq-nodes poddisruptionbudget/rabbitmq"
            end = shlex.join(self.kubectl.command("delete", *ours.split()))
            self.kubectl.note(
                f"our own broker is still here, and the overlay has no use for it: `{end}` ends it, and leaves its volume"
            )

    def differs(self) -> bool:
        """Shows what an apply would change, and says whether it would."""
        if self.runner.dry:
            return self.kubectl.differs("--kustomize", self.overlay())
        with overlay.apart() as folder:
            return self.kubectl.differs("--kustomize", self.overlay(folder))

    def overlay(self, folder: Path | None = None) -> str:
        """Writes the overlay of this checkout, into ``folder`` or where it is applied from.

        Says where, as kubectl takes it from the project's folder.
        """
        place = self.place
        folder = folder or overlay.FOLDER
        if not self.runner.dry:
            scalers = Scalers.of(self.rendered, self.autoscalers())
            self.others_broker = scalers.outside
            setup = Setup.of(self.rendered, self.image.setup())
            overlay.write(self.settings, self.image.name(), place, pools.scaled(self.kubectl), scalers, setup, folder)
        return os.path.relpath(folder, ROOT)

    def apply(self) -> None:
        self.require_upgradable()
        passwords.complete(self.kubectl)
        folder = self.overlay()
        passwords.let_be_made(self.kubectl)
        try:
            try:
                self.kubectl.run("apply", "--kustomize", folder)
            except WarrenError as error:
                if not (fixed := again.unchangeable(error)):
                    raise
                self.kubectl.run("delete", *fixed, "--ignore-not-found")
                self.kubectl.run("apply", "--kustomize", folder)
        except WarrenError as error:
            raise half_applied(error) from error
        if not self.runner.dry:
            context.remember(self.kubectl.context)
            self.kubectl.note(f"applied the overlay {self.settings.kube_overlay} with the settings of .env ({folder})")

    def require_upgradable(self) -> None:
        """Raises WarrenError where the broker would not start with the image that it is to get.

        What it is to get is what the overlay pins, unless the settings say otherwise. Where that is another one, its volumes
        are told what they had before.
        """
        before, nodes = broker.ran(self.kubectl)
        wanted = self.settings.rabbitmq_image
        if before and wanted == Settings().rabbitmq_image:
            wanted = broker.image(self.rendered) or wanted
        for image in before:
            require(image, wanted, nodes)
        if before not in ([], [wanted]):
            # The new one may never start, and then no pod tells any more what the volumes have.
            broker.annotate(self.kubectl, broker.claim_names(self.kubectl), before)

    def down(self, volumes: bool) -> None:
        with locked(self.kubectl.note, dry=self.runner.dry):
            down.stop(self.kubectl, self.settings.stop_grace, volumes)

    def restart(self, services: Sequence[str]) -> None:
        with locked(self.kubectl.note, dry=self.runner.dry):
            # Not before: a `down` that was waited for would be undone, by what is applied here.
            if not self.status():
                raise nothing_runs(self.kubectl.place)
            self.build()
            before = renewed.templates(self.kubectl)
            self.apply()
            applied = renewed.since(before, self.kubectl)
            if still := [self.workload(service) for service in services if service not in applied]:
                self.kubectl.run("rollout", "restart", *still)
            if others := [service for service in applied if service in before and service not in services]:
                self.kubectl.note(
                    f"{' and '.join(others)} get the code and settings of now too, so they are replaced as well"
                )
            if not self.runner.dry:
                progress.until_ready(self.kubectl, self.settings.up_timeout, [*services, *others])
                generated.sweep(self.kubectl, os.path.relpath(overlay.FOLDER, ROOT))

    def workload(self, service: str) -> str:
        """As kubectl names what ``service`` runs by."""
        if service != "rabbitmq":
            return f"deployment/{service}"
        found = [one["metadata"]["name"] for one in self.kubectl.stack("statefulsets")]
        return f"statefulset/{operated.STATEFULSET if operated.STATEFULSET in found else service}"

    def status(self) -> list[Instance]:
        return self.instances(self.kubectl.stack("pods"))

    def overview(self) -> tuple[list[Instance], dict[str, Autoscaler]]:
        found, scalers = overview(self.kubectl)
        workloads = [one for one in found if one.get("kind") in pods.WORKLOADS]
        there = [one for one in found if one.get("kind") not in pods.WORKLOADS]
        return self.instances(there, workloads), scalers

    def instances(self, there: list[dict[str, Any]], workloads: Sequence[dict[str, Any]] = ()) -> list[Instance]:
        # An overlay's labels may mark others too.
        ours, wanted = ([one for one in some if kind(pods.service(one)) in SERVICES] for some in (there, workloads))
        found = [pods.instance(pod) for pod in ours]
        found += filter(None, (pods.lacking(one, ours) for one in wanted))
        return sorted(found, key=lambda one: (progress.place(one.service), one.name))

    def troubles(self) -> list[str]:
        workloads = self.kubectl.stack(progress.WORKLOADS)
        if not any(one["spec"].get("replicas", 1) for one in workloads) and not self.status():
            others = self.kubectl.elsewhere()
            return [f"stacks of this cluster are in {', '.join(others)} (WARREN_PROJECT)"] if others else []
        there = [pod for pod in self.kubectl.stack("pods") if progress.waited_for(pod)]
        met = trouble.found(self.kubectl, workloads, there)
        # What only takes its time is no trouble yet.
        said = trouble.lines({reason: names for reason, names in met.items() if reason.rank < Rank.SLOW})
        return [f"{self.kubectl.place}: {line}" for line in said]

    def logs(self, services: Sequence[str], follow: bool, tail: int) -> int:
        logs.require(self.kubectl, services)
        return self.runner.attach(
            self.kubectl.command(
                *("logs", "--selector", f"{THERE},{pods.SERVICE} in ({','.join(services)})", "--prefix"),
                *("--tail", str(tail), "--ignore-errors", "--max-log-requests", "100"),
                *(["--follow"] if follow else []),
            )
        )

    def scale(self, workers: int, busy: set[str], pool: str = DEFAULT) -> None:
        service = of_pool(pool)
        found = self.kubectl.get("deployment", service)
        if found is None or not labelled(found):
            if not self.status():
                raise nothing_runs(self.kubectl.place)
            raise not_up_yet(service)
        there = [pod["metadata"]["name"] for pod in pods.of(self.kubectl.list("pods"), service)]
        if 0 < workers < len(there):
            pools.mark(self.kubectl, there, busy)
            if len(there) - workers > sum(f"celery@{name}" not in busy for name in there):
                grace = worker_services(self.settings).get(service, self.settings.default_pool).stop_grace
                self.kubectl.note(f"some end their tasks first, for {grace} s at most")
        with locked(self.kubectl.note, dry=self.runner.dry):
            self.kubectl.run("scale", f"deployment/{service}", f"--replicas={workers}")
            if not self.runner.dry:
                progress.until_ready(self.kubectl, self.settings.up_timeout, [service])
                pools.require_number(self.kubectl, service, workers)

    def autoscalers(self) -> dict[str, Autoscaler]:
        return autoscalers(self.kubectl)

    def exec(self, service: str, command: Sequence[str]) -> int:
        there = [pod for pod in pods.of(self.kubectl.stack("pods"), service) if pods.ready(pod)]
        if not there:
            raise WarrenError(
                f"{self.kubectl.place}: no {service} is ready; `invoke status` shows what runs", ExitCode.FAILED
            )
        terminal = ["--stdin", "--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else ["--stdin"]
        return self.runner.attach(
            self.kubectl.command(
                *("exec", *terminal, there[0]["metadata"]["name"], "--container", kind(service), "--", *command)
            )
        )

    @cached_property
    def forwarded(self) -> Forwarded:
        return Forwarded(self.kubectl, self.settings.flower_url_prefix)

    def endpoints(self) -> Endpoints:
        return self.forwarded
