"""A stack for each platform, brought up once by `make up` in a fresh checkout."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from deploy.paths import ROOT
from deploy.platforms.local import package
from tests.support.checkout import Checkout
from tests.support.cluster import Cluster, named
from tests.support.commands import insisted
from tests.support.eventually import eventually

# Beside the default pool, as docs/operations.md has it.
POOL = {
    "WARREN_POOLS": "heavy",
    "WARREN_POOL_HEAVY_QUEUES": "video,reports",
    "WARREN_POOL_HEAVY_TIME_LIMIT": "3600",
    "WARREN_POOL_HEAVY_CONCURRENCY": "1",
}

# Seconds for a test with what its fixtures bring up: as long as one command may take that waits for services, and twice that
# on a cluster, where images are copied to nodes and several such commands follow one another. Each wait has a limit of its
# own; this is for what has none.
LONGEST = 1800
LONGEST_ON_CLUSTERS = 3600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # pytest gives each conftest.py the tests of all folders.
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("timeout"):
            on_cluster = item.path.name.startswith("test_kubernetes")
            item.add_marker(pytest.mark.timeout(LONGEST_ON_CLUSTERS if on_cluster else LONGEST))


def engine_answers() -> bool:
    if not shutil.which("docker"):
        return False

    def said() -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["docker", "compose", "ls", "--quiet"], capture_output=True, check=False, timeout=30)

    # One that says nothing in time is asked again: it is there, and busy.
    return eventually(said, 180, "the Docker engine says something").returncode == 0


@pytest.fixture(scope="session", params=["compose", "local"])
def platform(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if name == "compose" and not engine_answers():
        pytest.skip("no Docker engine with Compose answers; start one")
    if name == "local" and not package.find():
        pytest.skip("RabbitMQ is not installed; sudo apt-get install rabbitmq-server")
    return name


@pytest.fixture(scope="session")
def stack(platform: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """The stack that `make up` brought up; ``stack.first`` is what it printed."""
    checkout = Checkout(tmp_path_factory.mktemp(platform), platform, **POOL)
    try:
        checkout.install()
        checkout.first = checkout.run("make", "up")
        yield checkout
    finally:
        # What it lacks then has failed above.
        with suppress(FileNotFoundError):
            checkout.invoke("down", "--volumes", "--yes", check=False)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """The cluster, with a namespace of the file's own, which goes with it."""
    found = named(f"e2e-{uuid.uuid4().hex[:8]}")
    yield found
    found.forget()


@pytest.fixture(scope="session")
def app_image() -> Iterator[str]:
    """The app image of now, on the cluster's nodes with the others that pods run; built once for all tests there.

    Of a name of its own: nodes may have an older image of the name that the manifests have.
    """
    cluster = named("default")
    if not engine_answers():
        pytest.skip("no Docker engine answers, which builds the app image; start one")
    name = f"warren-app:e2e-{uuid.uuid4().hex[:8]}"
    insisted(
        [
            *("docker", "build", "--quiet", "--file", "deploy/image/Dockerfile", "--tag", name),
            *("--build-context", "project=deploy/image/no-project", "."),
        ],
        cwd=ROOT,
    )
    try:
        cluster.load(name, "rabbitmq:4.3-management", "python:3.13-slim")
        yield name
    finally:
        # Nodes throw away what no pod runs when their disks fill up; the engine does not.
        subprocess.run(["docker", "rmi", name], check=False, capture_output=True)
