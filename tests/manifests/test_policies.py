"""Network policies let through just the connections that the stack makes."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import pytest
import yaml

from deploy.paths import ROOT
from tests.support.manifests import Manifest, pods, rendered

# Who calls whom, on which port: the arrows of the design, and nothing else.
CONNECTIONS = {
    ("worker", "rabbitmq", "amqp"),
    ("monitor", "rabbitmq", "amqp"),
    ("flower", "rabbitmq", "amqp"),
    ("flower", "rabbitmq", "management"),
    ("rabbitmq", "rabbitmq", "epmd"),
    ("rabbitmq", "rabbitmq", "distribution"),
}

# Who may be asked for names: pods of another namespace, or an address, with the ports on which they listen themselves.
SERVED = {("UDP", 53), ("TCP", 53)}
CLUSTER_DNS = SERVED | {("UDP", "dns"), ("TCP", "dns-tcp")}
NAMES = {
    ("kube-system", "k8s-app=kube-dns"): CLUSTER_DNS,
    ("kube-system", "k8s-app=node-local-dns"): CLUSTER_DNS,
    ("openshift-dns", "dns.operator.openshift.io/daemonset-dns=default"): {("UDP", 5353), ("TCP", 5353)},
    ("", "169.254.20.10/32"): SERVED,
    # What else is asked there, such as a cloud's passwords, goes to port 80.
    ("", "169.254.169.254/32"): SERVED,
}

Manifests = tuple[Manifest, ...]


@pytest.fixture(params=["dev+network-policies", "production"])
def policed(request: pytest.FixtureRequest) -> Manifests:
    return rendered(request.param)


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(rule["key"]) in rule["values"] for rule in selector.get("matchExpressions", [])
    )


def allowed(manifests: Manifests, direction: str, one: dict[str, str], other: dict[str, str], port: str) -> bool:
    """Whether a policy lets pods labelled ``one`` send (egress) to, or take (ingress) from, pods labelled ``other``."""
    where = "to" if direction == "egress" else "from"
    return any(
        selects(peer["podSelector"], other) and any(rule_port["port"] == port for rule_port in rule["ports"])
        for policy in manifests
        if policy["kind"] == "NetworkPolicy" and selects(policy["spec"]["podSelector"], one)
        for rule in policy["spec"].get(direction, [])
        for peer in rule.get(where, [])
        if "podSelector" in peer and "namespaceSelector" not in peer
    )


def test_what_is_not_allowed_is_denied_both_ways(policed: Manifests) -> None:
    (deny,) = (one for one in policed if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == "default-deny")
    assert deny["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_just_the_connections_in_use_are_allowed_at_both_ends(policed: Manifests) -> None:
    there = {workload["metadata"]["name"]: workload["spec"]["template"] for workload, _ in pods(policed)}
    found = {
        (caller, called, port["name"])
        for caller, calling in there.items()
        for called, taking in there.items()
        for container in taking["spec"]["containers"]
        for port in container.get("ports", [])
        if allowed(policed, "egress", calling["metadata"]["labels"], taking["metadata"]["labels"], port["name"])
        and allowed(policed, "ingress", taking["metadata"]["labels"], calling["metadata"]["labels"], port["name"])
    }
    assert found == CONNECTIONS


def test_every_address_that_a_pod_is_told_is_one_of_them(policed: Manifests) -> None:
    services = {one["metadata"]["name"]: one["spec"]["ports"] for one in policed if one["kind"] == "Service"}
    told = {
        (workload["metadata"]["name"], service, port["targetPort"])
        for workload, spec in pods(policed)
        for container in spec["containers"]
        for variable in container.get("env", [])
        for service, number in re.findall(r"://[^@]*@([a-z-]+):([0-9]+)", variable.get("value", ""))
        for port in services[service]
        if port["port"] == int(number)
    }
    assert told == {(caller, called, port) for caller, called, port in CONNECTIONS if caller != called}


def named_by(peer: dict[str, Any]) -> list[tuple[str, str]]:
    """Each namespace and label, or address, that a peer outside of the stack's own namespace is."""
    if "ipBlock" in peer:
        assert set(peer["ipBlock"]) == {"cidr"}
        return [("", peer["ipBlock"]["cidr"])]
    (namespace,) = peer["namespaceSelector"]["matchLabels"].items()
    assert namespace[0] == "kubernetes.io/metadata.name"
    selector = peer["podSelector"]
    labels = [*selector.get("matchLabels", {}).items()]
    labels += [(rule["key"], value) for rule in selector.get("matchExpressions", []) for value in rule["values"]]
    return [(namespace[1], f"{key}={value}") for key, value in labels]


def test_outside_of_the_namespace_nobody_is_called_but_who_knows_names(policed: Manifests) -> None:
    found: dict[tuple[str, str], set[tuple[str, int | str]]] = {}
    for policy in (one for one in policed if one["kind"] == "NetworkPolicy"):
        for rule in policy["spec"].get("egress", []):
            if "to" not in rule:
                # To anywhere, on the API servers' ports.
                assert policy["metadata"]["name"] == "make-secrets"
                continue
            for peer in rule["to"]:
                if set(peer) != {"podSelector"}:
                    assert policy["metadata"]["name"] == "dns" and policy["spec"]["podSelector"] == {}
                    for who in named_by(peer):
                        found.setdefault(who, set()).update((port["protocol"], port["port"]) for port in rule["ports"])
    assert found == NAMES


def lets_in(manifests: Manifests, namespace: str, pod: dict[str, str], port: str) -> bool:
    """Whether pods of another ``namespace`` reach this ``port`` of pods labelled ``pod``."""
    labels = {"kubernetes.io/metadata.name": namespace}
    return any(
        selects(peer["namespaceSelector"], labels) and any(one["port"] == port for one in rule["ports"])
        for policy in manifests
        if policy["kind"] == "NetworkPolicy" and selects(policy["spec"]["podSelector"], pod)
        for rule in policy["spec"].get("ingress", [])
        for peer in rule.get("from", [])
        if "namespaceSelector" in peer
    )


def test_whoever_an_option_brings_from_another_namespace_gets_in() -> None:
    for monitor in (one["spec"] for one in rendered("production+monitoring") if one["kind"] == "PodMonitor"):
        for endpoint in monitor["podMetricsEndpoints"]:
            labels = monitor["selector"]["matchLabels"]
            assert lets_in(rendered("production+monitoring"), "monitoring", labels, endpoint["port"])
            assert not lets_in(rendered("production+monitoring"), "default", labels, endpoint["port"])
    broker = {"app.kubernetes.io/name": "rabbitmq"}
    assert lets_in(rendered("production+keda"), "keda", broker, "management")
    assert not lets_in(rendered("production+keda"), "keda", broker, "amqp")
    manifests = rendered("production+ingress")
    services = {one["metadata"]["name"]: one["spec"] for one in manifests if one["kind"] == "Service"}
    for ingress in (one["spec"] for one in manifests if one["kind"] == "Ingress"):
        for path in (path for rule in ingress["rules"] for path in rule["http"]["paths"]):
            service = services[path["backend"]["service"]["name"]]
            for port in service["ports"]:
                assert lets_in(manifests, "ingress", service["selector"], port["targetPort"])


def test_whom_docs_tell_to_let_in_beside_them_reaches_the_pages_and_nothing_else() -> None:
    text = (ROOT / "docs" / "kubernetes-production.md").read_text()
    (block,) = re.findall(r"^  ```yaml\n([^`]*CiliumNetworkPolicy[^`]*)^  ```$", text, re.M)
    cilium, nodes = (one["spec"] for one in yaml.safe_load_all(textwrap.dedent(block)))
    ports = {}
    for workload, spec in pods(rendered("production")):
        chosen = {
            selects(one, workload["spec"]["template"]["metadata"]["labels"])
            for one in (cilium["endpointSelector"], nodes["podSelector"])
        }
        assert len(chosen) == 1
        if chosen == {True}:
            (ports[workload["metadata"]["name"]],) = spec["containers"][0]["ports"]
    assert set(ports) == {"flower", "monitor"}
    (by_cilium,), (by_nodes,) = cilium["ingress"], nodes["ingress"]
    assert {int(one["port"]) for one in by_cilium["toPorts"][0]["ports"]} == {
        one["containerPort"] for one in ports.values()
    }
    assert {one["port"] for one in by_nodes["ports"]} == {one["name"] for one in ports.values()}


def test_broker_nodes_may_copy_streams_to_each_other(policed: Manifests) -> None:
    (policy,) = (one for one in policed if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == "rabbitmq")
    for direction in ("ingress", "egress"):
        (rule,) = policy["spec"][direction]
        assert {"protocol": "TCP", "port": 6000, "endPort": 6500} in rule["ports"]
