"""The app image: built here, and brought to where the cluster's nodes get it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from deploy.errors import ExitCode, WarrenError
from deploy.platforms.compose.image import Image
from deploy.platforms.kubernetes.kubectl import Kubectl
from deploy.run import Runner
from deploy.settings import Settings

__all__ = ["ClusterImage", "push"]


class ClusterImage(Image):
    """The image of the pods; WARREN_KUBE_LOAD is the command that copies it to the nodes of a cluster on this host."""

    def provide(self, kubectl: Kubectl) -> None:
        """Builds the image if it has to be, and copies it to the nodes where that is told how.

        Raises:
            WarrenError: there is no engine to build it with.
        """
        if self.named():
            return
        try:
            if self.build() and not self.runner.dry:
                kubectl.note(f"built {self.name()}")
        except WarrenError as error:
            raise unbuilt(error) from error
        if self.settings.kube_load and not self.everywhere(kubectl):
            if not self.runner.dry:
                kubectl.note(f"copying {self.name()} to the nodes")
            self.runner.run([*shlex.split(self.settings.kube_load), self.name()], quiet=True)

    def everywhere(self, kubectl: Kubectl) -> bool:
        """Whether all nodes tell of it. They list the largest fifty, and what came of late after a while."""
        try:
            nodes = json.loads(kubectl.read("get", "nodes", "--output", "json") or "{}").get("items", [])
        except WarrenError:
            return False  # not everybody may look at nodes
        return bool(nodes) and all(
            any(
                name.endswith(f"/{self.name()}")
                for image in node["status"].get("images", [])
                for name in image.get("names") or []
            )
            for node in nodes
        )


def unbuilt(error: WarrenError) -> WarrenError:
    if error.code is not ExitCode.PLATFORM:
        return error
    return WarrenError(
        f"{error}; the app image can't be built here: install Docker, or name an image that is built already "
        "(WARREN_APP_IMAGE=registry.example/shop:1.4)",
        ExitCode.PLATFORM,
    )


def push(settings: Settings, runner: Runner, registry: str) -> str:
    """Builds the app image and puts it into ``registry``; its name there.

    Raises:
        WarrenError: it can't be built, or the registry refuses it.
    """
    image = Image(settings, runner)
    try:
        image.build()
    except WarrenError as error:
        raise unbuilt(error) from error
    name = f"{registry.rstrip('/')}/{Path(image.name()).name}"
    runner.run(["docker", "tag", image.name(), name])
    try:
        runner.run(["docker", "push", "--quiet", name], quiet=True)
    except WarrenError as error:
        raise WarrenError(
            f"{error}; is there a registry at {name.partition('/')[0]}, and may you write to it (docker login)?",
            error.code,
        ) from error
    return name
