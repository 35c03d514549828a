"""What holds for single components: that they fit the rest of the stack."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.paths import ROOT
from tests.support.docs import yaml_blocks
from tests.support.manifests import ALL, Manifest, render, rendered


@pytest.fixture
def option(tmp_path: Path) -> Any:
    """Renders a component on top of an overlay, as an overlay of a user's own does."""

    def added(name: str, overlay: str = "dev", **content: Any) -> list[Manifest]:
        up = Path(*[".."] * len(tmp_path.parts[1:]))
        k8s = up / ROOT.relative_to("/") / "k8s"
        # What a component adds is in no namespace by itself.
        content |= {
            "namespace": "warren",
            "resources": [f"{k8s}/overlays/{overlay}"],
            "components": [f"{k8s}/components/{name}"],
        }
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(content))
        return render(tmp_path)

    return added


def one(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = (each for each in manifests if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def test_an_external_broker_leaves_nothing_of_ours(option: Any) -> None:
    manifests = option("external-broker", "production")
    kinds = {(each["kind"], each["metadata"]["name"]) for each in manifests}
    assert not {("StatefulSet", "rabbitmq"), ("Service", "rabbitmq"), ("Service", "rabbitmq-nodes")} & kinds
    assert [each["metadata"]["name"] for each in manifests if each["kind"] == "PriorityClass"] == ["warren"]


@pytest.mark.parametrize(
    "pair", ["external-broker+tls", "rabbitmq-operator+tls", "external-broker+namespaced", "worker-pool+keda"]
)
def test_which_of_two_comes_first_is_left_to_the_user(pair: str) -> None:
    def found(*components: str) -> dict[tuple[str, str], Manifest]:
        return {(each["kind"], each["metadata"]["name"]): each for each in rendered("+".join(("dev", *components)))}

    first, second = pair.split("+")
    assert found(first, second) == found(second, first)


def test_addresses_of_an_external_broker_name_only_what_comes_before_them(option: Any) -> None:
    manifests = option("external-broker")
    files = {each["metadata"]["name"]: each["data"] for each in manifests if each["kind"] == "ConfigMap"}
    for name in ("worker", "monitor", "flower"):
        (container,) = one(manifests, "Deployment", name)["spec"]["template"]["spec"]["containers"]
        known = set()
        for source in container["envFrom"]:
            known |= set(files.get(source.get("configMapRef", {}).get("name"), {}))
        addresses = 0
        for variable in container["env"]:
            if variable["name"] not in ("LOGIN_PASSWORD", "FLOWER_BASIC_AUTH"):
                asked = set(re.findall(r"\$\((\w+)\)", variable.get("value", "")))
                assert asked <= known, f"{name}: {variable['name']}"
                addresses += "BROKER_HOST" in asked
            known.add(variable["name"])
        assert addresses == {"worker": 2, "monitor": 3, "flower": 2}[name]
        assert "@rabbitmq:" not in yaml.safe_dump(container)


def test_who_has_one_namespace_is_asked_for_nothing_of_the_clusters() -> None:
    for what in (one for one in ALL if one.endswith("+namespaced")):
        assert {each["metadata"].get("namespace") for each in rendered(what)} == {"warren"}, what
        # All else is there.
        whole = rendered(what.removesuffix("+namespaced"))
        left_out = {each["kind"] for each in whole if each["kind"] not in {one["kind"] for one in rendered(what)}}
        assert left_out == {"Namespace", "PriorityClass"}
        assert len(rendered(what)) == sum("namespace" in each["metadata"] for each in whole)


def test_the_operators_broker_gets_what_ours_would(option: Any) -> None:
    manifests = option("rabbitmq-operator", "production")
    # Which makes its own under the same names.
    ours = {("StatefulSet", "rabbitmq"), ("Service", "rabbitmq"), ("Service", "rabbitmq-nodes")}
    assert not ours & {(each["kind"], each["metadata"]["name"]) for each in manifests}
    cluster = one(manifests, "RabbitmqCluster", "rabbitmq")["spec"]
    pod = cluster["override"]["statefulSet"]["spec"]["template"]["spec"]
    (configure,), (broker,) = pod["initContainers"], pod["containers"]
    nodes = [
        each["value"] for part in (configure, broker) for each in part["env"] if each["name"] == "WARREN_RABBITMQ_NODES"
    ]
    assert nodes == [str(cluster["replicas"])] * 2
    (memory,) = (each["value"] for each in configure["env"] if each["name"] == "WARREN_RABBITMQ_MEMORY_MB")
    assert cluster["resources"]["limits"]["memory"] == f"{int(memory) // 1024}Gi"
    # Their names end in a hash, which kustomize puts in only where it is told that a name stands there.
    there = {each["metadata"]["name"]: each for each in manifests if each["kind"] == "ConfigMap"}
    assert {source["configMapRef"]["name"] for source in configure["envFrom"]} <= set(there)
    (scripts,) = (volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume)
    assert {"start", "join"} <= set(there[scripts]["data"])
    mounted = {Path(mount["subPath"]).name for mount in broker["volumeMounts"] if mount.get("subPath")}
    written = {file.name for file in (ROOT / "deploy" / "rabbitmq" / "conf.d").glob("*.conf")}
    assert mounted == {*written, "definitions.json", "30-settings.conf"}
    # Of a probe that stands here the operator takes nothing of its own.
    assert all({"exec", "tcpSocket"} & set(probe) for name, probe in broker.items() if name.endswith("Probe"))


def test_routes_of_the_gateway_lead_to_services_that_are_there(option: Any) -> None:
    manifests = option("gateway")
    for name in ("flower", "monitor"):
        (rule,) = one(manifests, "HTTPRoute", name)["spec"]["rules"]
        (backend,) = rule["backendRefs"]
        service = one(manifests, "Service", backend["name"])
        assert backend["port"] in [port["port"] for port in service["spec"]["ports"]]
        (parent,) = one(manifests, "HTTPRoute", name)["spec"]["parentRefs"]
        listeners = one(manifests, "Gateway", parent["name"])["spec"]["listeners"]
        assert [each["protocol"] for each in listeners if each["name"] == parent["sectionName"]] == ["HTTPS"]


@pytest.mark.parametrize("name", ["ingress", "ingress-path"])
def test_the_ingress_leads_to_services_that_are_there_with_the_certificate_of_the_first_apply(
    option: Any, name: str
) -> None:
    manifests = option(name)
    ingresses = [each for each in manifests if each["kind"] == "Ingress"]
    reached = set()
    script = (ROOT / "k8s/base/config/make_secrets.py").read_text()
    for each in (ingress["spec"] for ingress in ingresses):
        # The cluster's default serves it.
        assert "ingressClassName" not in each
        (rule,), (tls,) = each["rules"], each["tls"]
        assert (tls["hosts"], tls["secretName"]) == ([rule["host"]], "warren")
        assert f'"{rule["host"]}"' in script
        for path in rule["http"]["paths"]:
            service = path["backend"]["service"]
            assert service["port"]["name"] in [
                port["name"] for port in one(manifests, "Service", service["name"])["spec"]["ports"]
            ]
            reached.add((service["name"], path["path"]))
    assert {service for service, _ in reached} == {"flower", "monitor"}
    assert all("annotations" not in ingress["metadata"] for ingress in ingresses)
    # No controller rewrites paths without being told how: who is behind one serves below it.
    files = {file["metadata"]["name"]: file["data"] for file in manifests if file["kind"] == "ConfigMap"}
    for service, path in reached:
        (container,) = one(manifests, "Deployment", service)["spec"]["template"]["spec"]["containers"]
        (data,) = (
            files[source["configMapRef"]["name"]]
            for source in container["envFrom"]
            if source.get("configMapRef", {}).get("name", "").startswith(f"warren-{service}-")
        )
        assert data[f"{service.upper()}_URL_PREFIX"] == path.rstrip("/")


# What docs/kubernetes-production.md says to write where TLS ends before the controller.
(PLAIN,) = yaml_blocks("kubernetes-production.md", "WARREN_HTTPS_ONLY")


# What it says of other queues and another concurrency than KEDA and the workers have by themselves.
(SCALED,) = yaml_blocks("kubernetes-production.md", "maxReplicaCount")


def test_what_the_docs_patch_of_keda_is_one_number_in_both_places(option: Any) -> None:
    manifests = option("keda", **yaml.safe_load(SCALED))
    (trigger,) = one(manifests, "ScaledObject", "worker")["spec"]["triggers"]
    (container,) = one(manifests, "Deployment", "worker")["spec"]["template"]["spec"]["containers"]
    # The API server takes none that is there twice, where it is applied on the server.
    said = [each["value"] for each in container["env"] if each["name"] == "WARREN_WORKER_CONCURRENCY"]
    assert said == [trigger["metadata"]["value"]] == ["4"]


@pytest.mark.parametrize("name", ["ingress", "ingress-path", "gateway"])
def test_behind_a_proxy_all_come_by_https_unless_an_overlay_says_otherwise(option: Any, name: str) -> None:
    for content, said in (({}, "true"), (yaml.safe_load(PLAIN), "false")):
        manifests = option(name, **content)
        files = {each["metadata"]["name"]: each["data"] for each in manifests if each["kind"] == "ConfigMap"}
        told = {
            (service, data["WARREN_HTTPS_ONLY"])
            for service in ("worker", "flower", "monitor")
            for source in one(manifests, "Deployment", service)["spec"]["template"]["spec"]["containers"][0]["envFrom"]
            if "WARREN_HTTPS_ONLY" in (data := files.get(source.get("configMapRef", {}).get("name"), {}))
        }
        assert told == {("flower", said), ("monitor", said)}
        environment = one(manifests, "Deployment", "monitor")["spec"]["template"]["spec"]["containers"][0]["env"]
        assert {"name": "MONITOR_BEHIND_PROXY", "value": "on"} in environment


def test_cpu_at_which_workers_are_added_is_below_what_one_may_use(option: Any) -> None:
    manifests = option("hpa", "production")
    (metric,) = one(manifests, "HorizontalPodAutoscaler", "worker")["spec"]["metrics"]
    worker = one(manifests, "Deployment", "worker")["spec"]
    (container,) = worker["template"]["spec"]["containers"]
    target = int(metric["resource"]["target"]["averageValue"].removesuffix("m"))
    assert target < int(container["resources"]["limits"]["cpu"]) * 1000
    assert "replicas" not in worker


def test_the_brokers_certificate_is_for_the_names_that_clients_use(option: Any) -> None:
    manifests = option("tls")
    certificate = one(manifests, "Certificate", "rabbitmq")["spec"]
    assert {"rabbitmq", "rabbitmq.warren"} <= set(certificate["dnsNames"])
    pod = one(manifests, "StatefulSet", "rabbitmq")["spec"]["template"]["spec"]
    assert certificate["secretName"] in [volume.get("secret", {}).get("secretName") for volume in pod["volumes"]]
    ports = {port["name"]: port for port in one(manifests, "Service", "rabbitmq")["spec"]["ports"]}
    assert ports["amqps"]["port"] == 5671
    assert {"amqp", "management"} <= set(ports)
