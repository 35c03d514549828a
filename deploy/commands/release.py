"""A release for those who have no kustomize: for each overlay one file, for `kubectl apply -f`."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from deploy.output import note, say
from deploy.paths import ROOT, STATE, write_private
from deploy.platforms.kubernetes import overlay
from deploy.session import Session

__all__ = ["release"]

FOLDER = STATE / "kubernetes" / "release"


def release(s: Session, image: str, into: str) -> None:
    """Writes ``install-OVERLAY.yaml`` into the folder ``into``, for every overlay of the checkout.

    Of the settings they have the images' names, since a registry may have its own; all else is as it is in git, so that the
    same checkout makes the same files on every machine.

    Raises:
        WarrenError: there is no kubectl to render them with.
    """
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    own = s.settings.app_image
    app = image or (own if ":" in own.rpartition("/")[2] else f"{own}:{version}")
    folder = Path(into)
    for name in overlay.names():
        file = folder / f"install-{name}.yaml"
        content = {
            "resources": [os.path.relpath(ROOT / "k8s" / "overlays" / name, FOLDER)],
            "images": overlay.images(s.settings, app),
        }
        write_private(FOLDER / "kustomization.yaml", overlay.text(content))
        rendered = s.runner.read(["kubectl", "kustomize", str(FOLDER)])
        if s.runner.dry:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# Warren {version}, {name}: kubectl apply -f {file.name}\n{rendered.rstrip()}\n")
        say(str(file))
    note(f"their pods run {app}; `invoke release --image` names another one")
