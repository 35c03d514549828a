"""The app image goes into a registry, from which nodes would pull it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.errors import WarrenError
from deploy.platforms.kubernetes.image import push
from deploy.run import Runner
from deploy.settings import Settings
from tests.support import containers
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.processes import Process

pytestmark = pytest.mark.engine

# The engine takes registries on this host as they are, without TLS.
HOST = "127.0.0.1"

CONFIGURATION = """\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "{host}:{port}"}}
"""


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    if why := containers.lacking(Settings().python_image, "WARREN_PYTHON_IMAGE"):
        pytest.skip(why)
    if not (program := shutil.which("docker-registry")):
        pytest.skip("docker-registry is not installed; sudo apt-get install docker-registry")
    port = free_port()
    file = tmp_path / "config.yml"
    file.write_text(CONFIGURATION.format(folder=tmp_path / "images", host=HOST, port=port))
    process = Process([program, "serve", str(file)], {}, tmp_path / "registry.log")
    try:
        eventually(lambda: socket.create_connection((HOST, port), 5).close() or True, 60, process.tail)
        yield f"{HOST}:{port}"
    finally:
        process.kill()


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout


def test_what_is_pushed_can_be_pulled_and_run(registry: str) -> None:
    name, setup = push(Settings(), Runner(), f"{registry}/team")
    try:
        with urllib.request.urlopen(f"http://{registry}/v2/team/warren-app/tags/list", timeout=30) as answer:
            assert {f"{registry}/team/warren-app:{tag}" for tag in json.load(answer)["tags"]} == {name, setup}
        docker("rmi", name, setup)
        docker("pull", "--quiet", name)
        assert docker("run", "--rm", name, "celery", "--version").startswith("5.")
    finally:
        subprocess.run(["docker", "rmi", name], capture_output=True, check=False)


def test_a_registry_that_is_not_there(registry: str) -> None:
    nowhere = f"{HOST}:{free_port()}"
    with pytest.raises(
        WarrenError, match=f"connection refused.*is there a registry at {nowhere}, and may you write to it"
    ):
        push(Settings(), Runner(), nowhere)
    names = docker("images", "--format", "{{.Repository}}:{{.Tag}}", f"{nowhere}/warren-app").split()
    docker("rmi", *names)
