"""The manifests as a cluster would get them, the image for it, and what a broker of others must be told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from deploy.errors import ExitCode, WarrenError
from deploy.output import note, say
from deploy.session import Session

if TYPE_CHECKING:
    from deploy.platforms.kubernetes import Kubernetes

__all__ = ["definitions", "diff", "push", "render"]


def render(s: Session, overlay: str) -> None:
    """Without a cluster: what the settings of now make of the overlay."""
    from deploy.platforms.kubernetes import overlay as overlays
    from deploy.platforms.kubernetes import rendered
    from deploy.platforms.kubernetes.image import ClusterImage
    from deploy.platforms.kubernetes.scalers import Scalers
    from deploy.platforms.kubernetes.setup import Setup

    place = overlays.base(s.settings, overlay)
    image = ClusterImage(s.settings, s.runner)
    base = rendered.render(place, s.runner)
    setup = Setup.of(base, image.setup())
    with overlays.apart() as folder:
        overlays.write(s.settings, image.name(), place, {}, Scalers.of(base, {}), setup, folder)
        say(s.runner.read(["kubectl", "kustomize", str(folder)]).rstrip())


def definitions(s: Session) -> None:
    """As a RabbitMQ of others imports them: users with their passwords' hashes, the virtual host, its queues and policies."""
    from deploy.definitions import definitions
    from deploy.platforms.kubernetes import Kubernetes, passwords
    from deploy.secrets import KEDA, Secrets

    secrets = s.secrets
    if isinstance(s.platform, Kubernetes) and (password := passwords.of_keda(s.platform.kubectl)):
        secrets = Secrets({**secrets, KEDA: password})
    say(json.dumps(definitions(s.settings, secrets, others=True), indent=1))


def diff(s: Session) -> None:
    """Exit code 1 where there is a difference, as diff itself has it."""
    platform = kubernetes(s)
    if platform.kubectl.own_namespace() is None:
        note(f"{platform.kubectl.place}: there is no such namespace yet, so all would be new; `invoke render` shows it")
        raise SystemExit(1)
    if platform.differs():
        raise SystemExit(1)
    if not s.runner.dry:
        note(f"{platform.kubectl.place}: nothing would change")


def kubernetes(s: Session) -> Kubernetes:
    from deploy.platforms.kubernetes import Kubernetes

    if not isinstance(s.platform, Kubernetes):
        raise WarrenError(
            f"the stack is on {s.platform.name}, which has no manifests; say --platform kubernetes", ExitCode.USAGE
        )
    return s.platform


def push(s: Session, registry: str) -> None:
    from deploy.platforms.kubernetes import image

    name, *setup = image.push(s.settings, s.runner, registry)
    if not s.runner.dry:
        say(name)
        note(f"WARREN_APP_IMAGE={name} in .env makes pods run it")
        for one in setup:
            note(f"{one} is for the broker's pods, which new code need not restart (docs/kubernetes.md, new code)")
