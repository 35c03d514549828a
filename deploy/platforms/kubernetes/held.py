"""What `down` deletes and what may not go, because something holds it: ScaledObjects, by KEDA, and claims, by pods."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable

from deploy.errors import ExitCode, WarrenError
from deploy.platforms.kubernetes.autoscaling import Autoscaler, autoscalers
from deploy.platforms.kubernetes.kubectl import Kubectl

__all__ = ["PATIENCE", "delete_claims", "end_autoscalers", "require_let_go"]

# Seconds. What nothing holds goes within a few, in a busy cluster within a minute.
PATIENCE = 120

CLAIMS = "persistentvolumeclaims"

# What Kubernetes deletes with an object waits for those that are named in it.
NOBODY = '--patch={"metadata":{"finalizers":null}}'


def end_autoscalers(kubectl: Kubectl) -> bool:
    """Deletes the autoscalers of the stack; says whether they are gone.

    A KEDA that does not run lets none go, but scales nothing either: what it scaled can be stopped all the same.
    """
    if not (ours := [one.resource for one in autoscalers(kubectl).values()]):
        return True
    try:
        # One that was waited for in vain before may go just now.
        kubectl.run("delete", *ours, "--ignore-not-found", f"--timeout={PATIENCE}s")
    except WarrenError as error:
        if error.code is not ExitCode.TIMEOUT:
            raise
        if not (left := list(autoscalers(kubectl).values())):
            return True  # the last went when kubectl had just given up
        if not (held := by_keda(left)):
            raise
        kubectl.note(f"KEDA does not let {', '.join(held)} go; stopping the rest")
        return False
    return True


def require_let_go(kubectl: Kubectl) -> None:
    """Raises WarrenError where KEDA still holds autoscalers that are deleted."""
    if held := by_keda(autoscalers(kubectl).values()):
        let_go = shlex.join(kubectl.command("patch", *held, "--type=merge", NOBODY))
        raise WarrenError(
            f"{kubectl.place}: all else is stopped, but KEDA does not let {', '.join(held)} go; start KEDA, which then does, "
            f"or, where it is gone for good, let go yourself: `{let_go}`",
            ExitCode.TIMEOUT,
        )


def by_keda(found: Iterable[Autoscaler]) -> list[str]:
    return [one.resource for one in found if one.keda]


def delete_claims(kubectl: Kubectl, ours: Callable[[], list[str]]) -> None:
    """Deletes the claims that ``ours`` names.

    Raises:
        WarrenError: something uses them still.
    """
    if not (named := ours()):
        return
    try:
        # What the operator made goes with its broker, maybe just now.
        kubectl.run("delete", CLAIMS, *named, "--ignore-not-found", f"--timeout={PATIENCE}s")
    except WarrenError as error:
        if error.code is not ExitCode.TIMEOUT:
            raise
        if not (left := ours()):
            return
        look = shlex.join(kubectl.command("describe", CLAIMS, *left))
        raise WarrenError(
            f"{kubectl.place}: all is stopped, but something still uses the claims {', '.join(left)}: `{look}` shows which "
            "pods do (Used By); when these are gone, `invoke down --volumes` again",
            error.code,
        ) from error
