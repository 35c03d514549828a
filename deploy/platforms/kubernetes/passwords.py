"""The stack's secrets, as they are in the cluster: whoever may read them there can operate it from any checkout."""

from __future__ import annotations

import base64
from typing import Any

from deploy.errors import ExitCode, WarrenError
from deploy.platforms.kubernetes.kubectl import Kubectl
from deploy.secrets import Secrets

__all__ = ["NAME", "let_be_made", "load", "of_keda"]

NAME = "warren"
OF_KEDA = "warren-keda"
# The Jobs that make them, each once.
MAKERS = {"make-secrets": NAME, "make-keda-login": OF_KEDA}


def let_be_made(kubectl: Kubectl) -> None:
    """Deletes a Job that is over where its Secret is not there: an apply leaves it as it is, and pods would wait for ever.

    Raises:
        WarrenError: this user may not read Jobs or Secrets.
    """
    for job in kubectl.list("jobs"):
        states = job.get("status", {}).get("conditions", [])
        over = any(one["type"] in {"Complete", "Failed"} and one["status"] == "True" for one in states)
        name = job["metadata"]["name"]
        if over and name in MAKERS and kubectl.get("secret", MAKERS[name]) is None:
            kubectl.note(f"the Secret {MAKERS[name]} is not there: it is made anew, with other passwords")
            kubectl.run("delete", f"job/{name}")


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
