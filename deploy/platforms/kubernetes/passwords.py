"""The stack's secrets, as they are in the cluster: whoever may read them there can operate it from any checkout."""

from __future__ import annotations

import base64

from deploy.errors import ExitCode, WarrenError
from deploy.platforms.kubernetes.kubectl import Kubectl
from deploy.secrets import Secrets

__all__ = ["NAME", "load"]

NAME = "warren"


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
    return Secrets(
        {name: base64.b64decode(value).decode(errors="replace") for name, value in found.get("data", {}).items()}
    )
