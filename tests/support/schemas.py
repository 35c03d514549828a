"""Manifests against the schemas of Kubernetes and of the operators that the components name, as strictly as an API server.

Those of Kubernetes come with the package kubernetes-validate, one file for all kinds of a version. Those of operators are in
tests/manifests/schemas; what stands there is said by its `take.py`.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from typing import Any

from jsonschema import Draft202012Validator

from deploy.paths import ROOT
from tests.support.manifests import Manifest

__all__ = ["TAKEN", "VERSIONS", "faults", "strict"]

VERSIONS = ("1.33", "1.34", "1.35", "1.36", "1.37")
TAKEN = ROOT / "tests" / "manifests" / "schemas"


def faults(manifest: Manifest, version: str) -> list[str]:
    """What ``manifest`` says that Kubernetes ``version`` does not know, or can't take, each with the place where it says it."""
    group, _, _ = manifest["apiVersion"].rpartition("/")
    ours = TAKEN / f"{group}-{manifest['kind'].lower()}.json"
    if ours.exists():
        # Its metadata are Kubernetes' own, which a ConfigMap has too.
        plain = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": manifest["metadata"]}
        found = [
            *operators(ours.name).iter_errors(manifest),
            *kubernetes(version, "v1", "ConfigMap").iter_errors(plain),
        ]
    else:
        found = list(kubernetes(version, manifest["apiVersion"], manifest["kind"]).iter_errors(manifest))
    where = f"{manifest['kind']} {manifest['metadata'].get('name')}"
    return [f"{where}: {fault.json_path}: {fault.message[:300]}" for fault in found]


@functools.cache
def definitions(version: str) -> dict[str, Any]:
    schemas = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema"
    found: dict[str, Any] = json.loads((schemas / f"v{version}.0-local-strict" / "_definitions.json").read_text())
    return found


@functools.cache
def kubernetes(version: str, api: str, kind: str) -> Draft202012Validator:
    """
    Raises:
        LookupError: that version has no such kind.
    """
    group, _, its_version = api.rpartition("/")
    wanted = {"group": group, "kind": kind, "version": its_version}
    for name, schema in definitions(version)["$defs"].items():
        if wanted in schema.get("x-kubernetes-group-version-kind", []):
            return Draft202012Validator({**definitions(version), "$ref": f"#/$defs/{name}"})
    raise LookupError(f"Kubernetes {version} has no {kind} in {api}, and {TAKEN} neither; see its take.py")


@functools.cache
def operators(file: str) -> Draft202012Validator:
    return Draft202012Validator(strict(json.loads((TAKEN / file).read_text())))


def strict(schema: Any) -> Any:
    """The schema of a resource type as JSON Schema has it, which refuses fields that an API server would drop."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items() if key != "properties"}
    if "properties" in schema:
        found["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
    known = {"additionalProperties", "x-kubernetes-preserve-unknown-fields"}
    if schema.get("type") == "object" and not known & schema.keys():
        found["additionalProperties"] = False
    if schema.get("nullable"):
        found["type"] = [schema["type"], "null"]
    return found
