"""`invoke release`: what stands in its files is what kubectl makes of the overlays."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.commands import release
from deploy.paths import ROOT
from deploy.run import Runner
from deploy.session import Session
from deploy.settings import Settings
from tests.support.manifests import OVERLAYS, Manifest, pods, rendered

Released = Callable[..., dict[str, list[Manifest]]]


@pytest.fixture
def released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Released:
    monkeypatch.setattr(release, "FOLDER", tmp_path.resolve() / "work")

    def run(image: str = "", **settings: Any) -> dict[str, list[Manifest]]:
        rendered("dev")  # without kubectl the test is skipped
        session = Session(Runner())
        session.__dict__["settings"] = Settings(**settings)
        release.release(session, image, str(tmp_path / "dist"))
        files = sorted((tmp_path / "dist").iterdir())
        assert [file.name for file in files] == [f"install-{name}.yaml" for name in OVERLAYS]
        return dict(zip(OVERLAYS, (list(yaml.safe_load_all(file.read_text())) for file in files), strict=True))

    return run


def images(manifests: list[Manifest]) -> set[str]:
    return {
        one["image"] for _, spec in pods(manifests) for one in [*spec.get("initContainers", []), *spec["containers"]]
    }


def test_a_file_is_what_kubectl_makes_of_the_overlay(released: Released) -> None:
    assert released() == {name: list(rendered(name)) for name in OVERLAYS}


def test_what_others_live_in_comes_first(released: Released) -> None:
    for manifests in released().values():
        assert manifests[0]["kind"] == "Namespace"
        kinds = [one["kind"] for one in manifests]
        assert kinds.index("ConfigMap") < kinds.index("Deployment") < kinds.index("Job")


def test_images_have_the_names_of_a_registry(released: Released) -> None:
    made = released("registry.example:5000/team/warren-app:0123", rabbitmq_image="registry.example:5000/rabbitmq:4.3")
    for manifests in made.values():
        assert images(manifests) == {
            "registry.example:5000/team/warren-app:0123",
            "registry.example:5000/rabbitmq:4.3",
            "python:3.13-slim",
        }
    made = released("registry.example/warren-app@sha256:" + "0" * 64, app_image="not.this/one:1")
    assert f"registry.example/warren-app@sha256:{'0' * 64}" in images(made["dev"])
    assert "not.this/one:1" in images(released(app_image="not.this/one:1")["dev"])


def test_the_manifests_name_the_app_image_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"warren-app:{version}" in images(list(rendered("dev")))
