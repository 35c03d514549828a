"""What the cluster says of a stack that is not ready, beside its pods: events, logs, the Secret and the Job that makes it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any

from deploy.errors import WarrenError
from deploy.platforms.kubernetes import passwords
from deploy.platforms.kubernetes.kubectl import Kubectl

__all__ = ["Asked", "Rank", "Reason"]


class Rank(IntEnum):
    """What is told first: that from which others follow."""

    SECRET = 0
    IMAGE = 1
    REFUSED = 2
    ROOM = 3
    CONTENT = 4
    CRASH = 5
    SLOW = 6
    FOLLOWS = 7


@dataclass(frozen=True)
class Reason:
    rank: Rank
    what: str
    then: str = ""
    """What to do next."""


class Asked:
    """What the cluster says beside the pods themselves, each thing asked when it is first needed."""

    def __init__(self, kubectl: Kubectl, broker_ready: bool) -> None:
        self.kubectl = kubectl
        self.broker_ready = broker_ready

    @cached_property
    def warnings(self) -> list[dict[str, Any]]:
        """The namespace's events that warn, the newest first."""
        try:
            printed = self.kubectl.read("get", "events", "--field-selector", "type=Warning", "--output", "json")
        except WarrenError:
            return []  # not everybody may look at events
        return sorted(json.loads(printed or "{}").get("items", []), key=when, reverse=True)

    def warned(self, name: str, *reasons: str) -> str:
        """The newest warning of the object ``name``, for one of ``reasons``."""
        for event in self.warnings:
            if event["involvedObject"]["name"] == name and event.get("reason") in reasons:
                return " ".join(event.get("message", "").split())
        return ""

    @cached_property
    def lacking(self) -> list[str]:
        """The keys that the Secret of all passwords does not have."""
        try:
            # Beside the passwords it has a certificate (k8s/base/config/make_secrets.py).
            return sorted({*passwords.KEYS, "tls.crt", "tls.key"} - passwords.load(self.kubectl).keys())
        except WarrenError:
            return []

    @cached_property
    def secret_there(self) -> bool:
        """Whether the Secret with the passwords exists, as far as this user may know."""
        try:
            return bool(
                self.kubectl.read("get", "secret", passwords.NAME, "--ignore-not-found", "--output", "name").strip()
            )
        except WarrenError:
            return True

    @cached_property
    def job(self) -> dict[str, Any] | None:
        """The one that makes the Secret with the passwords."""
        return self.kubectl.get("job", passwords.JOB)

    @cached_property
    def no_secret(self) -> Reason:
        """Why there is no Secret with the passwords."""
        ended = passwords.ended(self.job or {})
        if self.job is None:
            return Reason(
                Rank.SECRET, "neither the Secret warren is there nor the Job that makes it", "try `invoke up`"
            )
        if "Failed" in ended:
            then = "`invoke up` starts it again"
            return Reason(Rank.SECRET, f"the Job {passwords.JOB} could not make the Secret warren", then)
        if "Complete" in ended:
            return Reason(Rank.SECRET, "the Secret warren has been deleted", "`invoke up` has it made anew")
        return Reason(Rank.FOLLOWS, f"the Job {passwords.JOB} has not made the Secret warren yet")

    def log(self, pod: str, container: str, again: bool = False) -> list[str]:
        """The last lines that ``pod`` wrote; of the run before, where its container is to be started ``again``."""
        try:
            printed = self.kubectl.read(
                "logs", pod, "--tail", "20",
                *(["--container", container] if container else []), *(["--previous"] if again else []),
            )  # fmt: skip
        except WarrenError:
            return []
        return [" ".join(line.split()) for line in printed.splitlines() if line.strip()]


def when(event: dict[str, Any]) -> str:
    last = (event.get("series") or {}).get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return str(last or event["metadata"].get("creationTimestamp", ""))
