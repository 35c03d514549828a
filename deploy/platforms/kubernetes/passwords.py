"""The stack's secrets, as they are in the cluster: whoever may read them there can operate it from any checkout."""

from __future__ import annotations

import base64
import json
from typing import Any

from deploy.errors import ExitCode, WarrenError
from deploy.paths import STATE, write_private
from deploy.platforms.kubernetes import pods
from deploy.platforms.kubernetes.kubectl import Kubectl, labelled
from deploy.secrets import NAMES, Secrets, generate

__all__ = ["JOB", "KEYS", "MAKERS", "NAME", "complete", "ended", "let_be_made", "load", "of_keda"]

NAME = "warren"
# What it has beside a certificate (k8s/base/config/make_secrets.py).
KEYS = (*NAMES, "erlang-cookie")
OF_KEDA = "warren-keda"
# The Jobs that make them, each once.
JOB = "make-secrets"
MAKERS = {JOB: NAME, "make-keda-login": OF_KEDA}

# The label that Kubernetes gives to the pods of a Job.
OF_JOB = "batch.kubernetes.io/job-name"


def ended(job: dict[str, Any]) -> set[str]:
    """How a Job has ended: ``Complete``, ``Failed``; empty while it has not."""
    states = job.get("status", {}).get("conditions", [])
    return {one["type"] for one in states if one["status"] == "True"} & {"Complete", "Failed"}


def let_be_made(kubectl: Kubectl) -> None:
    """Deletes a Job that is over, or got nowhere, where its Secret is not there: an apply leaves it as it is.

    Raises:
        WarrenError: this user may not read Jobs or Secrets.
    """
    for job in kubectl.list("jobs"):
        name = job["metadata"]["name"]
        if name not in MAKERS or kubectl.get("secret", MAKERS[name]) is not None:
            continue
        if ended(job):
            kubectl.note(
                f"the Secret {MAKERS[name]} is not there: it is made anew, with other passwords; what runs gets "
                "them by `invoke down`, then `invoke up`"
            )
            kubectl.run("delete", f"job/{name}")
        elif stuck(kubectl, name):
            kubectl.note(f"the Job {name} got nowhere: it is tried again at once")
            kubectl.run("delete", f"job/{name}")


def stuck(kubectl: Kubectl, job: str) -> bool:
    """Whether a Job's pod would be tried again only after minutes."""
    there = kubectl.stack("pods")
    return any(pod["metadata"]["labels"].get(OF_JOB) == job and pods.hopeless(pod) for pod in there)


def complete(kubectl: Kubectl) -> None:
    """Adds to the Secret the passwords that the release that made it did not know: the Job changes none that is there.

    Raises:
        WarrenError: it is one's own, or this user may not read or change it.
    """
    found = kubectl.get("secret", NAME)
    missing = [key for key in KEYS if key not in (found or {}).get("data", {})]
    if found is None or not missing:
        return
    metadata = found["metadata"]
    # What something else looks after, such as External Secrets, would be taken away again.
    if not labelled(found) or metadata.get("ownerReferences"):
        raise WarrenError(
            f"{kubectl.place}: the Secret {NAME} is one of your own and lacks {', '.join(missing)}; give it these, "
            "passwords of letters, digits, - and _ (docs/upgrade.md), then `invoke up` again; nothing was changed",
            ExitCode.SETTINGS,
        )
    kubectl.note(f"the Secret {NAME} gets what it lacks: {', '.join(missing)}")
    change = {
        # If nobody changed it meanwhile: what another command added stays.
        "metadata": {"resourceVersion": metadata["resourceVersion"]},
        "data": {key: base64.b64encode(generate().encode()).decode() for key in missing},
    }
    # A file: whoever looks at the host's processes sees what they are told.
    file = STATE / "kubernetes" / "secret.json"
    if not kubectl.runner.dry:
        write_private(file, json.dumps(change))
    try:
        kubectl.run("patch", "secret", NAME, "--type", "merge", "--patch-file", str(file))
    finally:
        file.unlink(missing_ok=True)


def load(kubectl: Kubectl) -> Secrets:
    """All of the Secret `warren`, by name.

    Raises:
        WarrenError: there is none, or this user may not read it.
    """
    found = kubectl.get("secret", NAME)
    if found is None:
        raise WarrenError(
            f"{kubectl.place}: there is no Secret {NAME}; `invoke up` brings the stack up, and makes it",
            ExitCode.FAILED,
        )
    return decoded(found)


def of_keda(kubectl: Kubectl) -> str:
    """The password of KEDA's user of the broker; empty where there is none.

    Raises:
        WarrenError: this user may not read it.
    """
    return decoded(kubectl.get("secret", OF_KEDA) or {}).get("password", "")


def decoded(found: dict[str, Any]) -> Secrets:
    return Secrets(
        {name: base64.b64decode(value).decode(errors="replace") for name, value in found.get("data", {}).items()}
    )
