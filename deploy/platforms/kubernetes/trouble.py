"""What keeps the stack from getting ready, as lines for the operator: each reason once, with the pods that it concerns."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from deploy.errors import ExitCode, WarrenError
from deploy.platforms.kubernetes import operated, pods
from deploy.platforms.kubernetes.asked import Asked, Rank, Reason
from deploy.platforms.kubernetes.kubectl import Kubectl
from deploy.platforms.kubernetes.passwords import JOB
from deploy.platforms.kubernetes.reasons import LAST_LINE, named, refused, why
from deploy.services import SERVICES

__all__ = ["Met", "error", "found", "lines"]

# So many pods are named; of more the number says enough.
NAMED = 6

Met = Mapping[Reason, Sequence[str]]


def found(kubectl: Kubectl, workloads: list[dict[str, Any]], there: list[dict[str, Any]]) -> Met:
    """Each reason with what it concerns, of the pods ``there`` and of ``workloads`` that lack some; the first to mend first."""
    brokers = [one for one in workloads if pods.service(one) == "rabbitmq"]
    ready = not any(pods.service(pod) == "rabbitmq" for pod in there) and all(
        one.get("status", {}).get("readyReplicas", 0) for one in brokers
    )
    asked = Asked(kubectl, ready)
    met: dict[Reason, list[str]] = {}
    for one in workloads:
        if reason := refused(one, asked):
            met.setdefault(reason, []).append(one["metadata"]["name"])
    for pod in there:
        reason = why(pod, asked)
        met.setdefault(reason, []).append(named(pod, reason))
    return dict(sorted(met.items(), key=lambda one: one[0].rank))


def lines(met: Met) -> list[str]:
    """What is wrong, a line for each reason; what only follows from the others comes last, in one."""
    said = [told(reason, names) for reason, names in met.items() if reason.rank is not Rank.FOLLOWS]
    if not said:
        return [told(reason, names) for reason, names in met.items()]
    waiting = [name for reason, names in met.items() if reason.rank is Rank.FOLLOWS for name in names]
    return said + ([f"{listed(waiting)} wait{'s' if len(waiting) == 1 else ''} for that"] if waiting else [])


def told(reason: Reason, names: Sequence[str]) -> str:
    # What is slow is of one pod, and named already.
    concerned = "" if reason.rank is Rank.SLOW else f" ({listed(names)})"
    return f"{reason.what}{concerned}{f'; {reason.then}' if reason.then else ''}"


def listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def stopping(kubectl: Kubectl) -> str:
    """What is told where new pods wait for old ones to stop; empty where they don't, as workers never do."""
    there = [pod for pod in kubectl.stack("pods") if pods.service(pod) in SERVICES and pods.service(pod) != "worker"]
    late = [pods.instance(pod) for pod in there if "deletionTimestamp" in pod["metadata"]]
    if not late:
        return ""
    said = f"what comes next waits for {listed([f'{one.name} ({one.since})' for one in late])}"
    broker = next((one.name for one in late if one.service == "rabbitmq"), "")
    if not broker:
        return said
    # Not a delete by --force: another node would have its volume at once, while this one still runs.
    end = shlex.join(kubectl.command("exec", broker, "--container", "rabbitmq", "--", "bash", "-c", "kill -9 -1"))
    return f"{said}; where it hangs, `{end}` ends it"


def error(kubectl: Kubectl, met: Met) -> WarrenError:
    for reason, names in met.items():
        line = reason.what.partition(f"{LAST_LINE}error: ")[2]
        if line and not names[0].startswith(JOB):
            # Ours, of a setting or of tasks that can't be imported: it says all.
            return WarrenError(f"{kubectl.place}: {names[0]}: {line}", ExitCode.SETTINGS)
    said = lines(met)
    if trouble := operated.trouble(operated.ours(kubectl)):
        said.insert(0, f"RabbitMQ's operator says of the broker: {trouble}")
    if all(reason.rank is Rank.FOLLOWS for reason in met) and (late := stopping(kubectl)):
        said.insert(0, late)
    said = said or ["no pod is there yet"]
    said.append("what came up is left as it is; see `invoke logs`, and `invoke up` to go on")
    return WarrenError("\n".join(f"{kubectl.place}: {one}" for one in said), ExitCode.TIMEOUT)
