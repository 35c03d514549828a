"""Why a pod is not ready: what is wrong, once for all pods that it concerns, and what to do about it."""

from __future__ import annotations

import re
from typing import Any

from deploy.platforms.kubernetes import passwords, pods
from deploy.platforms.kubernetes.asked import Asked, Rank, Reason

__all__ = ["LAST_LINE", "named", "refused", "unmounted", "why"]

# The setting that names the image of a container; that of all others is the app image.
IMAGES = {"rabbitmq": "WARREN_RABBITMQ_IMAGE", passwords.JOB: "WARREN_PYTHON_IMAGE"}

# Before the last line of a log.
LAST_LINE = "; its last line: "

# Of a node that has not enough of something, as the scheduler says it.
INSUFFICIENT = "Insufficient"

# What a container waits with that has nothing to do with the container.
PASSING = {"", "PodInitializing", "ContainerCreating"}


def why(pod: dict[str, Any], asked: Asked) -> Reason:
    looks = (unscheduled, no_image, no_memory, no_content, broken)
    return next((found for look in looks if (found := look(pod, asked))), None) or slow(pod, asked)


def unscheduled(pod: dict[str, Any], asked: Asked) -> Reason | None:
    """No node takes it: they have no room for it, or its volume can't be had."""
    said = next(
        (
            one.get("message", "")
            for one in pod["status"].get("conditions", [])
            if one["type"] == "PodScheduled" and one["status"] == "False"
        ),
        "",
    )
    if not said:
        return None
    claims = [one["persistentVolumeClaim"]["claimName"] for one in volumes(pod) if "persistentVolumeClaim" in one]
    for claim in claims:
        if unbound := asked.warned(claim, "ProvisioningFailed", "FailedBinding"):
            return Reason(
                Rank.ROOM,
                f"volumes can't be made: {unbound}",
                "`kubectl get storageclass` shows what the cluster has; an overlay of yours names one as storageClassName "
                "(after `invoke down --volumes`: a claim can't be changed)",
            )
    # What the scheduler says of preemption helps nobody who wants to know what is missing.
    short = re.split(r"\.? (?:no new claims|preemption:)", said)[0].rstrip(".")
    return Reason(Rank.ROOM, f"no node takes it: {short}", room(pod, said))


def room(pod: dict[str, Any], said: str) -> str:
    if INSUFFICIENT in said:
        return (
            "add a node, free one (`kubectl describe nodes` shows what is taken), or ask for less "
            "(WARREN_RABBITMQ_MEMORY_MB, or `resources` in an overlay of yours)"
        )
    if "anti-affinity" in said and pods.service(pod) == "rabbitmq":
        return (
            "each broker node needs a node of its own (`kubectl get nodes`); with fewer than three take the overlay dev"
        )
    if re.search(r"(volume|PersistentVolume's) node affinity", said):
        return "its volume is on a node that is away: see `kubectl get nodes`, and docs/kubernetes-production.md"
    if "Pod's node affinity/selector" in said:
        return "an overlay of yours asks for labels that no such node has (`kubectl get nodes --show-labels`)"
    return "see `kubectl get nodes`"


def named(pod: dict[str, Any], reason: Reason) -> str:
    """The pod, with what it asks for where that is too much."""
    name = str(pod["metadata"]["name"])
    asks = [one.get("resources", {}).get("requests", {}) for one in pod["spec"]["containers"]]
    said = ", ".join(f"{value} {resource}" for each in asks for resource, value in each.items())
    return f"{name} asks for {said}" if said and INSUFFICIENT in reason.what else name


def volumes(pod: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pod["spec"].get("volumes", [])
    return found


def no_image(pod: dict[str, Any], asked: Asked) -> Reason | None:
    container, reason, message = pods.waiting(pod)
    if reason not in pods.NO_IMAGE:
        return None
    spec = pod["spec"]
    image = next(
        (one["image"] for one in [*spec.get("initContainers", []), *spec["containers"]] if one["name"] == container), ""
    )
    setting = IMAGES.get(container, "WARREN_APP_IMAGE")
    if "/" not in image and setting == "WARREN_APP_IMAGE":
        return Reason(
            Rank.IMAGE,
            f"nodes can't get the image {image}",
            "`invoke build --push REGISTRY` puts it where nodes get it, or WARREN_KUBE_LOAD names the command that copies it "
            "to them (docs/kubernetes.md)",
        )
    if reason == "InvalidImageName":
        return Reason(Rank.IMAGE, f"{image} is no name of an image", f"mend {setting}")
    said = asked.warned(pod["metadata"]["name"], "Failed") if "ErrImagePull" not in message else message
    for pattern, meaning, then in REGISTRY:
        if re.search(pattern, f"{message} {said}"):
            return Reason(Rank.IMAGE, f"nodes can't get the image {image}: {meaning}", then.format(setting))
    return Reason(Rank.IMAGE, f"nodes can't get the image {image}", f"is its name right ({setting})?")


# What kubelet tells of a registry's answer, what it means, and what to do.
REGISTRY = (
    (
        r"no such host|i/o timeout|connection refused|network is unreachable|no route to host|x509|lookup \S+ on",
        "they don't reach its registry",
        "is its name right ({})? Else name one of a registry that nodes reach",
    ),
    (
        r"unauthorized|denied|authentication|[Ff]orbidden",
        "its registry refuses, or has none of that name",
        "is its name right ({})? Else nodes need a login: imagePullSecrets in an overlay of yours",
    ),
    (r"not found|manifest unknown", "its registry has none of that name", "name one that is there ({})"),
)


def no_memory(pod: dict[str, Any], asked: Asked) -> Reason | None:
    """Killed for using more memory than its limit."""
    for one in pods.containers(pod):
        states = (one.get("state", {}), one.get("lastState", {}))
        if any(state.get("terminated", {}).get("reason") == "OOMKilled" for state in states):
            setting = "WARREN_RABBITMQ_MEMORY_MB" if one["name"] == "rabbitmq" else "`resources` in an overlay of yours"
            return Reason(
                Rank.CRASH, f"{one['name']} is killed, as it needs more memory than its limit", f"raise {setting}"
            )
    return None


def no_content(pod: dict[str, Any], asked: Asked) -> Reason | None:
    """A Secret or ConfigMap that it starts with is not there, or lacks something."""
    _, reason, said = pods.waiting(pod)
    if reason == "CreateContainerConfigError":
        return absent(said, asked) or lacks(said, pod, asked) or Reason(Rank.CONTENT, said)
    said = unmounted(pod, asked)
    if not said:
        return None
    # The event may be older than what it missed.
    return absent(said, asked) or lacks(said, pod, asked) or Reason(Rank.SLOW, f"{pod['metadata']['name']}: {said}")


def unmounted(pod: dict[str, Any], asked: Asked) -> str:
    """What a pod said last that can't have its volumes; empty where it has them, or nothing was wrong."""
    begun = any(one.get("state", {}).keys() - {"waiting"} for one in pods.containers(pod))
    if begun or pods.waiting(pod)[1] not in PASSING:
        return ""
    return asked.warned(pod["metadata"]["name"], "FailedMount")


def absent(said: str, asked: Asked) -> Reason | None:
    missing = re.search(r'(secret|configmap) "([^"]+)" not found', said)
    if missing is None:
        return None
    kind = {"secret": "Secret", "configmap": "ConfigMap"}[missing[1]]
    if (kind, missing[2]) == ("Secret", passwords.NAME):
        return None if asked.secret_there else asked.no_secret
    return Reason(
        Rank.CONTENT, f"there is no {kind} {missing[2]}", "make it, or take out of your overlay what asks for it"
    )


def lacks(said: str, pod: dict[str, Any], asked: Asked) -> Reason | None:
    if found := re.search(r"couldn't find key (\S+) in Secret \S+/(\S+)", said):
        key, secret = found[1], found[2]
    elif found := re.search(r'volume "([^"]+)" : references non-existent secret key: (\S+)', said):
        secrets = {one["name"]: one["secret"]["secretName"] for one in volumes(pod) if "secret" in one}
        key, secret = found[2], secrets.get(found[1], "")
    else:
        return None
    if secret != passwords.NAME:
        return Reason(Rank.CONTENT, f"the Secret {secret} lacks the key {key}", "add it")
    keys = asked.lacking or [key]
    return Reason(
        Rank.CONTENT,
        f"the Secret {secret} lacks the key{'s' if len(keys) > 1 else ''} {', '.join(keys)}",
        "add what is missing (docs/kubernetes.md, Passwords), or delete the Secret: then `invoke up` has a whole one made",
    )


def broken(pod: dict[str, Any], asked: Asked) -> Reason | None:
    name, service = pod["metadata"]["name"], pods.service(pod)
    container, reason, message = pods.waiting(pod)
    if reason == "CrashLoopBackOff":
        line = last(asked.log(name, container, again=True))
        return Reason(Rank.CRASH, f"{container} keeps ending{line}")
    if reason in PASSING:
        return None
    return Reason(Rank.CRASH, f"{service} can't start: {reason}{': ' + message if message else ''}")


def slow(pod: dict[str, Any], asked: Asked) -> Reason:
    name, service = pod["metadata"]["name"], pods.service(pod)
    if not asked.broker_ready and service != "rabbitmq" and pod["status"].get("phase") == "Running":
        return Reason(Rank.FOLLOWS, "the broker is not ready")
    container, reason, _ = pods.waiting(pod)
    log = [] if container and reason in PASSING else asked.log(name, container)
    if any("ACCESS_REFUSED" in line for line in log):
        return Reason(
            Rank.CONTENT,
            f"the broker refuses the password of {service}",
            "was the Secret warren changed? `invoke restart` gives the broker and all others what is there now",
        )
    event = asked.warned(name, "Unhealthy")
    return Reason(Rank.SLOW, f"{name} is {pods.instance(pod).state}{f'; {event}' if event else ''}{last(log)}")


def last(log: list[str]) -> str:
    return f"{LAST_LINE}{log[-1]}" if log else ""


def refused(workload: dict[str, Any], asked: Asked) -> Reason | None:
    """Why a workload has fewer pods than it is to have: a quota, or a rule of the namespace, that admits no more."""
    status = workload.get("status", {})
    if status.get("replicas", 0) >= workload["spec"].get("replicas", 1):
        return None
    said = next((one["message"] for one in status.get("conditions", []) if one["type"] == "ReplicaFailure"), "")
    said = said or asked.warned(workload["metadata"]["name"], "FailedCreate")
    if not said:
        return None
    # Of each pod that was tried there is one.
    short = re.sub(r'^.*?pods "[^"]*" is forbidden: ', "", said)
    if "quota" in short:
        return Reason(
            Rank.REFUSED, f"the namespace admits no more pods: {short}", "raise the quota (`kubectl get quota`)"
        )
    return Reason(Rank.REFUSED, f"the namespace admits no such pod: {short}", "see what your overlay changes of it")
