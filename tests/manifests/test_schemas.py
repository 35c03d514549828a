"""Every manifest that any overlay or component makes, by the strictest reading of each Kubernetes that is supported."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.manifests.schemas import take
from tests.support.manifests import Manifest, different
from tests.support.schemas import TAKEN, VERSIONS, faults

# What the schemas of Kubernetes call just a string: a number with a unit.
QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?([KMGTP]i|[mkMGTP])?")
# As a part of a DNS name, which names of most kinds must be, and as a label's value.
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_field(version: str) -> None:
    assert [fault for one in different() for fault in faults(one, version)] == []


def test_every_schema_of_an_operator_is_needed_and_says_where_it_is_from() -> None:
    used = {f"{one['apiVersion'].rpartition('/')[0]}-{one['kind'].lower()}.json" for one in different()}
    there = {file.name: file.read_text() for file in TAKEN.glob("*.json")}
    assert set(there) <= used
    said = {text.split('"')[3] for text in there.values()}
    assert said == {f"{source}: {name}" for name, source in take.SOURCES.items()}


def one(kind: str) -> Manifest:
    return copy.deepcopy(next(each for each in different() if each["kind"] == kind))


def planted(kind: str, path: str, value: Any) -> Manifest:
    """A manifest of ``kind`` that has ``value`` at ``path``."""
    manifest: Any = one(kind)
    *above, last = (int(part) if part.isdigit() else part for part in path.split("."))
    place = manifest
    for part in above:
        place = place[part]
    place[last] = value
    return dict(manifest)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", "spec.replica", 1),
        ("Deployment", "spec.template.spec.containers.0.redinessProbe", {}),
        ("Deployment", "spec.template.spec.terminationGracePeriodSeconds", "330"),
        ("Service", "spec.ports.0.port", "http"),
        ("NetworkPolicy", "spec.egres", []),
        ("HorizontalPodAutoscaler", "spec.maxReplicas", "ten"),
        ("ScaledObject", "spec.maxReplicas", 10),
        ("ScaledObject", "spec.maxReplicaCount", "10"),
        ("ScaledObject", "metadata.label", {}),
        ("RabbitmqCluster", "spec.override.statefulSet.spec.template.spec.containers.0.enviroment", []),
        ("PodMonitor", "spec.podMetricsEndpoints.0.intervall", "30s"),
        ("PrometheusRule", "spec.groups.0.rules.0.expression", "up"),
        ("Certificate", "spec.dnsNames", "flower.example.test"),
        ("Issuer", "spec.ca.secret", "one"),
        ("Gateway", "spec.listeners.0.port", 70000),
        ("HTTPRoute", "spec.rules.0.backendRefs.0.service", "flower"),
    ],
)
def test_what_an_api_server_would_drop_or_refuse_is_found(kind: str, path: str, value: Any) -> None:
    for version in VERSIONS:
        (found, *_) = faults(planted(kind, path, value), version)
        assert found.startswith(f"{kind} ")
        assert path.rsplit(".", maxsplit=1)[-1] in found


def test_a_kind_that_nobody_knows_is_named() -> None:
    with pytest.raises(LookupError, match="no Sheep in farm/v1"):
        faults({"apiVersion": "farm/v1", "kind": "Sheep", "metadata": {}}, "1.36")


def walk(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from walk(inner, (*path, key))
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner, path)


def quantities(manifest: Manifest) -> Iterator[str]:
    for path, value in walk(manifest):
        if path[-1:] in {("sizeLimit",), ("divisor",)}:
            yield str(value)
        elif path[-1:] in {("requests",), ("limits",)} and isinstance(value, dict):
            yield from map(str, value.values())


def test_quantities_names_and_labels_have_the_form_that_they_must_have() -> None:
    for manifest in different():
        assert [each for each in quantities(manifest) if not QUANTITY.fullmatch(each)] == []
        assert NAME.fullmatch(manifest["metadata"]["name"])
        labels = [value for path, value in walk(manifest) if path[-1:] in {("labels",), ("matchLabels",)}]
        assert [each for pairs in labels for each in pairs.values() if not LABEL.fullmatch(each)] == []
    assert not QUANTITY.fullmatch("1Gib")
