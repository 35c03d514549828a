"""Writes the schemas beside this file anew, from the resource types of a cluster that has them.

    python tests/manifests/schemas/take.py CONTEXT

Each is what the operator's own release ships, of the version that is used, without its prose, its status and its rules
in CEL. Tests make them strict (tests/support/schemas.py).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

# What the cluster must have, and the release that it is from. After an upgrade there, say so here.
SOURCES = {
    "certificates.cert-manager.io": "cert-manager 1.21.2",
    "gateways.gateway.networking.k8s.io": "Gateway API 1.6.1, standard channel",
    "httproutes.gateway.networking.k8s.io": "Gateway API 1.6.1, standard channel",
    "issuers.cert-manager.io": "cert-manager 1.21.2",
    "podmonitors.monitoring.coreos.com": "Prometheus operator 0.85.0",
    "prometheusrules.monitoring.coreos.com": "Prometheus operator 0.85.0",
    "rabbitmqclusters.rabbitmq.com": "RabbitMQ cluster operator 2.20",
    "scaledobjects.keda.sh": "KEDA 2.21.0",
    "triggerauthentications.keda.sh": "KEDA 2.21.0",
}

# What a validator of JSON Schema knows, and the mark of free-form fields. `format` says nothing to it.
KEPT = {
    *("type", "properties", "additionalProperties", "items", "required", "enum", "pattern", "nullable"),
    *("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
    *("anyOf", "oneOf", "allOf", "not", "x-kubernetes-preserve-unknown-fields"),
}
WIDTH = 120


def bare(schema: Any) -> Any:
    if isinstance(schema, list):
        return [bare(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: bare(one) for name, one in value.items()} if key == "properties" else bare(value)
        for key, value in schema.items()
        if key in KEPT
    }


def text(value: Any, indent: int = 0) -> str:
    """As JSON, with on one line what fits there."""
    flat = json.dumps(value)
    if len(flat) + indent <= WIDTH or not isinstance(value, dict):
        return flat
    lines = [f"{' ' * (indent + 1)}{json.dumps(key)}: {text(value[key], indent + 1)}" for key in value]
    return "{\n" + ",\n".join(lines) + f"\n{' ' * indent}}}"


def main(context: str) -> None:
    for name, source in SOURCES.items():
        command = ["kubectl", "--context", context, "get", "customresourcedefinition", name, "--output", "json"]
        spec = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["spec"]
        (version,) = (one for one in spec["versions"] if one["storage"])
        schema = bare(version["schema"]["openAPIV3Schema"])
        schema["properties"].pop("status", None)
        schema["properties"] |= {
            "apiVersion": {"enum": [f"{spec['group']}/{version['name']}"]},
            "metadata": {"type": "object", "additionalProperties": True},
        }
        file = Path(__file__).parent / f"{spec['group']}-{spec['names']['kind'].lower()}.json"
        file.write_text(text({"$comment": f"{source}: {name}", **schema}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
