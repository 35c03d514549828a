"""The app image: built here, and brought to where the cluster's nodes get it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from deploy.errors import ExitCode, WarrenError
from deploy.platforms.compose.image import Image
from deploy.platforms.kubernetes.kubectl import Kubectl
from deploy.run import Runner
from deploy.settings import Settings

__all__ = ["ClusterImage", "on_all", "push"]

# Of what goes into the image, what `python3 -m deploy.inside.broker` makes a broker's settings of. Not what is installed in it:
# the image that is there has what its sources need, and tasks may get a package more at any time.
SETUP_SOURCES = (
    *(f"app/{name}.py" for name in ("__init__", "environment", "event_types", "pools", "settings")),
    *(f"deploy/{name}.py" for name in ("__init__", "definitions", "errors", "paths", "secrets", "settings")),
    *("deploy/inside/__init__.py", "deploy/inside/broker.py", "deploy/rabbitmq", "deploy/image/Dockerfile"),
)


class ClusterImage(Image):
    """The image of the pods; WARREN_KUBE_LOAD is the command that copies it to the nodes of a cluster on this host."""

    def setup(self) -> str:
        """Its second name, for the broker's pods, which changes only with what they need of it (setup.py); empty where the
        user names the image.
        """
        return "" if self.named() else f"{self.settings.app_image}:setup-{self.digest_of(SETUP_SOURCES)}"

    def build(self) -> bool:
        """Gives the image its second name too, unless an earlier one has that: it does the same, and is there already."""
        made = super().build()
        if (setup := self.setup()) and not self.built(setup):
            self.runner.run(["docker", "tag", self.name(), setup])
        return made

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
        if not self.settings.kube_load:
            return
        names = [self.name()]
        # The command may put it into a registry, where one of that name, which does the same, is left as it is.
        if "/" not in self.setup() or not there(self.setup(), self.runner):
            names.append(self.setup())
        for name in names:
            if not self.everywhere(kubectl, name):
                if not self.runner.dry:
                    kubectl.note(f"copying {name} to the nodes")
                self.runner.run([*shlex.split(self.settings.kube_load), name], quiet=True)

    def everywhere(self, kubectl: Kubectl, wanted: str) -> bool:
        """Whether all nodes tell of it. They list the largest fifty, and what came of late after a while."""
        try:
            nodes = json.loads(kubectl.read("get", "nodes", "--output", "json") or "{}").get("items", [])
        except WarrenError:
            return False  # not everybody may look at nodes
        return on_all(nodes, wanted)


def on_all(nodes: list[dict[str, Any]], wanted: str) -> bool:
    """Whether each of ``nodes`` tells of the image ``wanted``, of whatever registry; not where there are none."""
    return bool(nodes) and all(
        any(
            f"/{name}".endswith(f"/{wanted}")
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


def push(settings: Settings, runner: Runner, registry: str) -> list[str]:
    """Builds the app image and puts it into ``registry``; its name there, and that for the broker's pods, if it has one.

    Raises:
        WarrenError: it can't be built, or the registry refuses it.
    """
    image = ClusterImage(settings, runner)
    try:
        image.build()
    except WarrenError as error:
        raise unbuilt(error) from error
    pushed = [put(image.name(), runner, registry)]
    if setup := image.setup():
        pushed.append(put(setup, runner, registry, again=False))
    return pushed


def put(image: str, runner: Runner, registry: str, *, again: bool = True) -> str:
    """Puts ``image`` into ``registry``, unless it is not to be put there ``again``; its name there."""
    name = f"{registry.rstrip('/')}/{Path(image).name}"
    if not again and there(name, runner):
        return name
    runner.run(["docker", "tag", image, name], quiet=True)
    try:
        runner.run(["docker", "push", "--quiet", name], quiet=True)
    except WarrenError as error:
        raise WarrenError(
            f"{error}; is there a registry at {name.partition('/')[0]}, and may you write to it (docker login)?",
            error.code,
        ) from error
    return name


def there(name: str, runner: Runner) -> bool:
    """Whether the registry has it, as far as it tells. Some let no name be written twice."""
    try:
        return bool(runner.read(["docker", "manifest", "inspect", name]).strip())
    except WarrenError:
        return False
