"""The app image: its name, which changes with what goes into it, and its making."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from deploy.paths import ROOT
from deploy.run import Runner
from deploy.settings import Settings

__all__ = ["Image", "sources"]

# Of all files, those that go into the image.
IMAGE_SOURCES = (
    *("app", "requirements/app.txt", "deploy/image", "deploy/inside", "deploy/rabbitmq"),
    *(f"deploy/{name}.py" for name in ("__init__", "definitions", "errors", "paths", "secrets", "settings")),
)


class Image:
    """The image that worker, monitor and Flower run."""

    def __init__(self, settings: Settings, runner: Runner) -> None:
        self.settings = settings
        self.runner = runner

    def name(self) -> str:
        """The app image's name, with a tag that changes with its contents: what is built already is not built again."""
        return f"{self.settings.app_image}:{self.digest()}" if not self.named() else self.settings.app_image

    def named(self) -> bool:
        """Whether the user names a whole image (with a tag or digest), which is then used as it is, not built."""
        return ":" in self.settings.app_image.rpartition("/")[2]

    def context(self) -> Path:
        if not self.settings.foreign_app:
            return ROOT / "deploy" / "image" / "no-project"
        return (ROOT / self.settings.app_context).resolve()

    def digest(self) -> str:
        return self.digest_of([*IMAGE_SOURCES, *([str(self.context())] if self.settings.foreign_app else [])])

    def digest_of(self, places: Iterable[str]) -> str:
        """What changes with Python's image, the architecture, and what is at ``places``, in the checkout or elsewhere."""
        # Docker builds for the architecture that this variable names: what was built for this machine's own is another image.
        digest = hashlib.sha256(f"{self.settings.python_image}{os.environ.get('DOCKER_DEFAULT_PLATFORM', '')}".encode())
        for place in (ROOT / one for one in places):
            for file in sources(place):
                # A name is bytes, which may be no text.
                digest.update(os.fsencode(file.relative_to(place.parent)) + b"\0")
                digest.update(file.read_bytes())
        return digest.hexdigest()[:12]

    def build(self) -> bool:
        """Builds the image if it has to be; says whether it had."""
        image = self.name()
        if self.named() or self.built(image):
            return False
        self.runner.run(
            [
                *("docker", "build", "--file", "deploy/image/Dockerfile", "--tag", image),
                *("--build-arg", f"PYTHON_IMAGE={self.settings.python_image}"),
                *("--build-context", f"project={self.context()}", "."),
            ]
        )
        return True

    def built(self, image: str) -> bool:
        return bool(self.runner.read(["docker", "images", "--quiet", image]).strip())


def sources(place: Path) -> Iterator[Path]:
    """The files at ``place`` in a stable order, without what tools and version control leave there."""
    if place.is_file():
        yield place
        return
    for file in sorted(place.rglob("*")):
        hidden = any(
            part.startswith(".") or part in {"__pycache__", "node_modules"} for part in file.relative_to(place).parts
        )
        if file.is_file() and not hidden:
            yield file
