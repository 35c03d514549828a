"""deploy/platforms/kubernetes/setup.py: new code does not restart the broker, though its first container runs our image."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.paths import ROOT
from deploy.platforms.compose.image import sources
from deploy.platforms.kubernetes import image as images
from deploy.platforms.kubernetes import overlay
from deploy.platforms.kubernetes.image import ClusterImage
from deploy.platforms.kubernetes.setup import Setup
from deploy.settings import Settings
from tests.unit.conftest import FakeRunner

POD = """\
      containers:
      - image: rabbitmq:4.3-management
        name: rabbitmq
      initContainers:
      - command:
        - python3
        env:
        - name: WARREN_SECRETS
          value: /secrets
        image: IMAGE
        imagePullPolicy: IfNotPresent
        name: configure
"""
BROKER = f"kind: StatefulSet\nmetadata:\n  name: rabbitmq\nspec:\n  template:\n    spec:\n{POD}"
OTHERS = "kind: Deployment\nmetadata:\n  name: worker\nspec: {}\n"


def of(image: str, manifest: str = BROKER) -> Setup:
    return Setup.of(f"{OTHERS}---\n{manifest.replace('IMAGE', image)}---\n{OTHERS}", "shop:setup-1")


@pytest.mark.parametrize("image", ["warren-app:0.1.0", "warren-app", "warren-app@sha256:0123"])
def test_the_broker_gets_it_by_a_name_of_its_own(home: Path, image: str) -> None:
    assert of(image).kinds == ("StatefulSet",)
    folder = overlay.write(Settings(), "shop:0123", ROOT / "k8s" / "overlays" / "dev", {}, setup=of(image))
    made = json.loads((folder / "kustomization.yaml").read_text())
    assert made["resources"][1:] == ["setup.yaml"] and len(made["replacements"]) == 1
    assert json.loads((folder / "setup.yaml").read_text())["data"] == {"image": "shop:setup-1"}


@pytest.mark.parametrize(
    "image", ["registry.example/team/warren-app:7", "warren-app-mine:1", "other:1", "r:5000/warren-app"]
)
def test_one_that_the_overlay_names_is_its_own(home: Path, image: str) -> None:
    assert of(image).kinds == ()


def test_without_such_a_container_there_is_nothing_to_name() -> None:
    assert of("warren-app:1", BROKER.replace("name: configure", "name: other")).kinds == ()
    assert of("warren-app:1", BROKER.replace("  name: rabbitmq", "  name: mine")).kinds == ()
    assert of("warren-app:1", OTHERS).kinds == ()


def test_of_an_image_that_is_named_whole_nothing_is_known(home: Path) -> None:
    image = ClusterImage(Settings(app_image="registry.example/shop:1"), FakeRunner())  # type: ignore[arg-type]
    assert image.setup() == ""
    assert Setup.of(BROKER.replace("IMAGE", "warren-app:1"), image.setup()).kinds == ()


def test_the_name_says_all_that_the_container_runs() -> None:
    loads = (
        "import sys, deploy.inside.broker; "
        "print(*(one.__file__ for one in sys.modules.values() if getattr(one, '__file__', None)), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", loads], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {Path(line) for line in done.stdout.splitlines()}
    named = {file for one in images.SETUP_SOURCES for file in sources(ROOT / one)}
    assert {file for file in loaded if file.is_relative_to(ROOT) and ".venv" not in file.parts} <= named
    # A file that has nothing to do with it would restart the broker for nothing.
    assert {file for file in named if file.suffix == ".py"} <= loaded


def test_new_code_changes_one_name_and_leaves_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    project.mkdir()
    settings = Settings(celery_app="shop:app", app_context=str(project), app_image="shop")
    runner = FakeRunner({"docker images": ""})
    image = ClusterImage(settings, runner)  # type: ignore[arg-type]
    name, setup = image.name(), image.setup()
    image.build()
    assert runner.ran[1:] == [f"docker tag {name} {setup}"]
    (project / "shop.py").write_text("app = 1\n")
    assert image.name() != name and image.setup() == setup
    # The earlier one is left as it is.
    runner.answers[f"docker images --quiet {setup}"] = "0123"
    image.build()
    assert len([line for line in runner.ran if " tag " in line]) == 1
    # Another Python is another image for all.
    assert ClusterImage(Settings(app_image="shop", python_image="python:3.14"), runner).setup() != setup  # type: ignore[arg-type]
