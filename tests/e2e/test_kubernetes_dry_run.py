"""What a real API server says of every manifest, which it is asked to check and not to keep.

It knows more than schemas do: words that a field may have, quantities, and what the restricted standard refuses.
"""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from deploy.paths import ROOT
from tests.support.cluster import Cluster, named
from tests.support.eventually import eventually
from tests.support.manifests import OVERLAYS, Manifest, different


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A namespace with the labels of ours."""
    found = named(f"e2e-{uuid.uuid4().hex[:8]}")
    (namespace,) = (one for one in different() if one["kind"] == "Namespace")
    try:
        apply(found, [namespace], "--validate=strict")
        yield found
    finally:
        found.forget()


def apply(cluster: Cluster, manifests: list[Manifest], *options: str) -> subprocess.CompletedProcess[str]:
    text = yaml.safe_dump_all(manifests).replace("namespace: warren\n", f"namespace: {cluster.namespace}\n")
    text = text.replace("\n  name: warren\n", f"\n  name: {cluster.namespace}\n")
    done = subprocess.run(
        ["kubectl", "--context", cluster.context, "apply", "--filename", "-", *options],
        input=text, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def kinds(cluster: Cluster) -> set[str]:
    """Those that this cluster knows, as "group/Kind"."""
    # It fails while one of them, which other programs serve, is away.
    listed = eventually(lambda: cluster.kubectl("api-resources", "--no-headers"), 120).stdout.splitlines()
    return {f"{line.split()[-3].rpartition('/')[0]}/{line.split()[-1]}" for line in listed}


def test_every_manifest_is_one_that_a_cluster_takes(cluster: Cluster) -> None:
    known = kinds(cluster)
    ours = [one for one in different() if f"{one['apiVersion'].rpartition('/')[0]}/{one['kind']}" in known]
    # Operators may be missing here; what Kubernetes itself has is there.
    assert {one["kind"] for one in different()} - {one["kind"] for one in ours} <= {
        *("ScaledObject", "TriggerAuthentication", "RabbitmqCluster", "PodMonitor", "PrometheusRule"),
        *("Certificate", "Issuer", "Gateway", "HTTPRoute"),
    }
    done = apply(cluster, ours, "--dry-run=server", "--validate=strict")
    # It would warn of pods that the namespace does not admit.
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == len(ours)


def test_the_files_of_a_release_are_what_a_cluster_takes(cluster: Cluster, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "invoke", "release", "--into", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=280)
    for name in OVERLAYS:
        manifests = list(yaml.safe_load_all((tmp_path / f"install-{name}.yaml").read_text()))
        assert apply(cluster, manifests, "--dry-run=server").stderr == ""


def test_a_wrong_one_is_refused(cluster: Cluster) -> None:
    worker = next(one for one in different() if one["kind"] == "Deployment")
    wrong = json.loads(json.dumps(worker).replace("IfNotPresent", "Sometimes"))
    with pytest.raises(AssertionError, match="imagePullPolicy"):
        apply(cluster, [wrong], "--dry-run=server")
