"""kubectl, always told context and namespace, and its errors as lines that say what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from deploy.errors import ExitCode, WarrenError
from deploy.output import note
from deploy.platforms.kubernetes.context import Context
from deploy.run import Runner

__all__ = [
    "BROKER", "CLUSTERS", "PART", "THERE", "Kubectl", "by_operator", "explained", "half_applied", "labelled", "not_installed",
    "unknown",
]  # fmt: skip

# The label of all that belongs to the stack.
PART = "app.kubernetes.io/part-of=warren"

# That and the label of brokers that RabbitMQ's cluster operator made: it leaves them no other one.
THERE = "app.kubernetes.io/part-of in (warren,rabbitmq)"

# The brokers that it looks after: the one of this name may be the stack's.
CLUSTERS, BROKER = "rabbitmqclusters.rabbitmq.com", "rabbitmq"

# Seconds. An API server that answers takes a few hundredths of one.
API_PATIENCE = 10


class Kubectl:
    """Commands in one namespace of one cluster."""

    def __init__(self, context: Context, namespace: str, runner: Runner) -> None:
        self.context = context
        self.namespace = namespace
        self.runner = runner
        self.operated = False
        """Whether the stack's broker has been found to be one of RabbitMQ's cluster operator: that stays so."""

    @property
    def place(self) -> str:
        """Where this acts, for each line that is printed."""
        return f"{self.context.name}/{self.namespace}"

    def note(self, text: str) -> None:
        note(f"{self.place}: {text}")

    def command(self, *arguments: str) -> list[str]:
        return ["kubectl", "--context", self.context.name, "--namespace", self.namespace, *arguments]

    def run(self, *arguments: str, quiet: bool = True) -> None:
        """Runs a command that changes something.

        Raises:
            WarrenError: it failed.
        """
        try:
            self.runner.run(self.command(*arguments), quiet=quiet)
        except WarrenError as error:
            raise explained(error, self.place) from error

    def differs(self, *arguments: str) -> bool:
        """Shows what an apply would change, and says whether it would.

        Raises:
            WarrenError: it can't be told.
        """
        try:
            return self.runner.differs(self.command("diff", *arguments))
        except WarrenError as error:
            raise explained(error, self.place) from error

    def read(self, *arguments: str) -> str:
        """What a command prints that changes nothing.

        Raises:
            WarrenError: it failed, or the cluster does not answer.
        """
        try:
            return self.runner.read(self.command(f"--request-timeout={API_PATIENCE}s", *arguments), timeout=30)
        except WarrenError as error:
            raise explained(error, self.place) from error

    def stack(self, kinds: str) -> list[dict[str, Any]]:
        """The objects of ``kinds`` that belong to the stack, a broker of RabbitMQ's cluster operator with them."""
        found = [one for one in self.list(kinds, THERE) if not someone_elses(one)]
        if not any(by_operator(one) for one in found) or not self.others_broker():
            return found
        return [one for one in found if not by_operator(one)]

    def others_broker(self) -> bool:
        """Whether the operator's broker that has the name of ours is somebody else's, as far as this user may know.

        What the operator makes of one does not tell: it has no label of ours, be it theirs or not.
        """
        if self.operated:
            return False
        found = self.cluster()
        self.operated = found is not None and labelled(found)
        return found is not None and not self.operated

    def cluster(self) -> dict[str, Any] | None:
        """The RabbitmqCluster that has the name of ours, whosever it is; None where the Kubernetes cluster knows none."""
        try:
            return self.get(CLUSTERS, BROKER)
        except WarrenError as error:
            if unknown(error):
                return None
            raise

    def list(self, kinds: str, selector: str = PART) -> list[dict[str, Any]]:
        """The objects of ``kinds`` that ``selector`` selects; all of the namespace, where it is empty."""
        selected = ["--selector", selector] if selector else []
        printed = self.read("get", kinds, *selected, "--output", "json")
        found: list[dict[str, Any]] = json.loads(printed or "{}").get("items", [])
        return found

    def elsewhere(self) -> Sequence[str]:
        """The namespaces of this cluster that have a stack, as far as this user may know."""
        command = [
            "kubectl",
            "--context",
            self.context.name,
            f"--request-timeout={API_PATIENCE}s",
            "get",
            "deployments",
        ]
        which = ["--all-namespaces", "--selector", f"{PART},app.kubernetes.io/name=monitor"]
        names = "jsonpath={.items[*].metadata.namespace}"
        try:
            return sorted(self.runner.read([*command, *which, "--output", names], timeout=30).split())
        except WarrenError:
            return []

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """The object of that name, or None."""
        printed = self.read("get", kind, name, "--ignore-not-found", "--output", "json")
        found: dict[str, Any] | None = json.loads(printed) if printed.strip() else None
        return found

    def own_namespace(self) -> dict[str, Any] | None:
        """The namespace, or None. Bare where this user may not look at it: who has rights in one namespace only, has one.

        Raises:
            WarrenError: it is about to go, and takes nothing new.
        """
        try:
            found = self.get("namespace", self.namespace)
        except WarrenError as error:
            if not unknown(error):
                raise
            return {"metadata": {}}
        if found and "deletionTimestamp" in found["metadata"]:
            raise WarrenError(
                f"{self.place}: this namespace is being deleted; wait until it is gone "
                f"(`kubectl wait --for=delete namespace/{self.namespace}`), then `invoke up` makes it anew",
                ExitCode.FAILED,
            )
        return found


def labelled(found: dict[str, Any]) -> bool:
    """Whether it has the label of all that belongs to the stack. Its name proves nothing: others call theirs so, too."""
    label, value = PART.split("=")
    return bool(found["metadata"].get("labels", {}).get(label) == value)


def by_operator(found: dict[str, Any]) -> bool:
    """Whether RabbitMQ's cluster operator made it."""
    return bool(found["metadata"].get("labels", {}).get("app.kubernetes.io/part-of") == "rabbitmq")


def someone_elses(found: dict[str, Any]) -> bool:
    """Whether it is of another broker of the operator, in the same namespace."""
    return by_operator(found) and found["metadata"]["labels"].get("app.kubernetes.io/name") != BROKER


def unknown(error: WarrenError) -> bool:
    """Whether the cluster does not know the kind that was asked for, or this user may not look at it."""
    return bool(re.search(r"doesn't have a resource type|could not find the requested resource|forbid", str(error)))


def not_installed() -> WarrenError:
    return WarrenError(
        "kubectl is not installed; see kubernetes.io/docs/tasks/tools, or choose another --platform", ExitCode.PLATFORM
    )


SILENT = "the cluster does not answer; is it up, and is this the right context? (kubectl config get-contexts)"

# What kubectl says, and what it means for who typed the command.
MEANINGS = (
    # The cluster may well be up: what this host has to offer it is wrong.
    (
        r"x509|getting credentials",
        "this context does not get into the cluster ({}); its files or its login are out of date (kubectl config view)",
    ),
    (
        r"connection to the server|Unable to connect|connection refused|no such host|timed? ?out|deadline exceeded",
        SILENT,
    ),
    (r"\(Forbidden\)|\bforbidden\b", "the cluster forbids it: {}"),
    (r"Unauthorized|must be logged in", "the cluster refuses the login of this context; log in again"),
)


def explained(error: WarrenError, place: str) -> WarrenError:
    """``error`` of a kubectl command as the line that says what to do, where the cluster is what is wrong."""
    # Of what is invalid, kubectl shows the whole.
    text = re.sub(r"Invalid value: \{.*\}: ", "", str(error))
    # What kubectl said. Of the command itself a --request-timeout is part, which is none.
    said = text.partition("ended with exit code ")[2].partition(": ")[2] or text
    if error.code is ExitCode.PLATFORM:
        return not_installed() if "is not installed" in text else error
    told, code = answered(said) or silent(said, error.code) or (text, error.code)
    return WarrenError(f"{place}: {told}", code)


def half_applied(error: WarrenError) -> WarrenError:
    """``error`` of an apply, with what is to be known where rights lack: what this user may do is done all the same."""
    if "the cluster forbids it" not in str(error):
        return error
    wide = "; for rights in one namespace only there is the component namespaced (docs/kubernetes-clusters.md)"
    hint = wide if "at the cluster scope" in str(error) else ""
    return WarrenError(f"{error}; the rest of it is applied{hint}", error.code)


def answered(said: str) -> tuple[str, ExitCode] | None:
    """What is told where the API server did answer, in words that elsewhere mean that it does not, or that a right lacks."""
    if webhook := re.search(r"failed calling webhook \"?([^\"\s:]+)", said):
        who = f"the cluster's webhook {webhook[1]}, which has a say in this, does not answer"
        return f"{who}; do its pods run? ({said})", ExitCode.PLATFORM
    if "error dialing backend" in said:
        return f"the cluster can't reach the pod's node; `kubectl get nodes` shows them ({said})", ExitCode.PLATFORM
    # What can't be changed is forbidden too, and what breaks a rule of the namespace. Where a right lacks, the user is named.
    if re.search(r"\bis invalid:|\bforbidden:(?! [Uu]ser )", said):
        disk = "statefulset spec for fields" in said or "persistentvolumeclaim" in said.lower()
        hint = "; of another size or class of a volume see docs/kubernetes-clusters.md" if disk else ""
        return f"the cluster does not take it: {said}{hint}", ExitCode.FAILED
    if "timed out waiting for the condition" in said:
        # Of --timeout, which is ours: what is waited for takes long, and the cluster says so.
        return f"{said}; `invoke status` shows what is left", ExitCode.TIMEOUT
    return None


def silent(said: str, code: ExitCode) -> tuple[str, ExitCode] | None:
    """What is told where the cluster does not answer, or won't answer this user."""
    for pattern, meaning in MEANINGS:
        if re.search(pattern, said) or (code is ExitCode.TIMEOUT and meaning is SILENT):
            return meaning.format(said), ExitCode.PLATFORM
    return None
