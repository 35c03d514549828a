"""Which cluster is meant: kubectl's context, and never one that comes as a surprise."""

from __future__ import annotations

import ipaddress
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deploy.errors import ExitCode, WarrenError
from deploy.paths import STATE, write_private
from deploy.run import Runner

__all__ = ["Context", "chosen", "remember"]

# The context that this checkout's stack was brought up in, and its API server.
USED = STATE / "kubernetes" / "context"


@dataclass(frozen=True)
class Context:
    """A context of kubectl, and the API server that it leads to."""

    name: str
    server: str

    @property
    def here(self) -> bool:
        """Whether the cluster runs on this host (kind, k3d, minikube and the like)."""
        host = urlsplit(self.server).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


def chosen(named: str, confirmed: bool, runner: Runner) -> Context:
    """The context ``named`` (WARREN_KUBE_CONTEXT), else kubectl's current one.

    Whoever switched kubectl to another cluster meanwhile, or never said that the stack may go to one elsewhere, is asked to
    say which is meant, unless ``confirmed``.

    Raises:
        WarrenError: kubectl has no such context (exit code 3 or 4), or it is one that nobody named (9).
    """
    config = configured(runner)
    contexts = {one["name"]: one["context"] for one in config.get("contexts") or []}
    name = named or config.get("current-context") or ""
    if not name:
        raise WarrenError(
            "kubectl knows no cluster; set KUBECONFIG, or choose a context: kubectl config use-context NAME",
            ExitCode.PLATFORM,
        )
    if name not in contexts:
        known = ", ".join(sorted(contexts)) or "none"
        raise WarrenError(f"kubectl has no context {name!r}; it knows {known}", ExitCode.SETTINGS)
    context = Context(name, server(config, contexts[name].get("cluster")))
    used, _, where = USED.read_text().strip().partition("\n") if USED.exists() else ("", "", "")
    if named or confirmed or (used, where) == (name, context.server):
        return context
    one_entry = contexts.get(used, {}).get("cluster") == contexts[name].get("cluster")
    if where and where == context.server and (one_entry or not context.here):
        # The same cluster, as another user perhaps. (One address of this host may lead to several, through tunnels.)
        return context
    if used == name and where and not context.here:
        # Many clusters give theirs the same name, such as `default`. (One on this host has another port when it is made anew.)
        raise WarrenError(
            f"kubectl's context {name} is the cluster {context.server} now, but this checkout's stack is in {where}; "
            f"if it is meant, say WARREN_KUBE_CONTEXT={name}, or `invoke up --yes`",
            ExitCode.REFUSED,
        )
    if used and used != name:
        raise WarrenError(
            f"kubectl's context is {name} now, but this checkout's stack is in {used}; "
            f"say which is meant: WARREN_KUBE_CONTEXT={used} (or {name})",
            ExitCode.REFUSED,
        )
    if not context.here:
        raise WarrenError(
            f"kubectl's context {name} is a cluster elsewhere ({context.server}), which this checkout has not used before; "
            f"if it is meant, say WARREN_KUBE_CONTEXT={name}, or `invoke up --yes`",
            ExitCode.REFUSED,
        )
    return context


def configured(runner: Runner) -> dict[str, Any]:
    """What kubectl is configured to; asked again when one of its files has changed, since asking takes a tenth of a second."""
    kept, files = USED.with_name("config.json"), fingerprint()
    with suppress(OSError, ValueError, KeyError):
        known = json.loads(kept.read_text())
        if files and known["files"] == files:
            return dict(known["config"])
    told: dict[str, Any] = json.loads(runner.read(["kubectl", "config", "view", "--output", "json"]) or "{}")
    if files and not runner.dry:
        # Not the users, whose keys are nobody else's business.
        config = {name: told.get(name) for name in ("current-context", "contexts", "clusters")}
        write_private(kept, json.dumps({"files": files, "config": config}))
    return told


def fingerprint() -> list[list[Any]]:
    """kubectl's files, with size and time of the last change; nothing where one of them is not there."""
    named = os.environ.get("KUBECONFIG", "").split(os.pathsep)
    found: list[list[Any]] = []
    for file in [Path(name) for name in named if name] or [Path.home() / ".kube" / "config"]:
        try:
            known = file.stat()
        except OSError:
            return []
        found.append([str(file.absolute()), known.st_size, known.st_mtime_ns])
    return found


def server(config: dict[str, Any], cluster: str | None) -> str:
    found = [one["cluster"].get("server", "") for one in config.get("clusters") or [] if one["name"] == cluster]
    return str(found[0]) if found else ""


def remember(context: Context) -> None:
    write_private(USED, f"{context.name}\n{context.server}\n")
