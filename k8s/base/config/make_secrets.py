"""Makes the Secret `warren` with all passwords and keys of this deployment, in one request.

With the word `keda` it makes `warren-keda` instead, the login of KEDA at the broker (components/keda). Run by Jobs with no
other right than to create Secrets in their own namespace. Where the Secret exists, by an earlier apply or because somebody
brought their own, nothing is changed. Needs Python alone, and openssl for a certificate.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

NAME = "warren"
KEDA = "warren-keda"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

# As in deploy/secrets.py; the users of the broker come first.
PASSWORDS = (
    *("admin", "worker", "producer", "monitor", "flower", "ops"),
    *("flower-login", "flower-cookie", "flower-metrics"),
    *("monitor-token", "monitor-operator", "monitor-viewer", "monitor-cookie", "monitor-webhook"),
    "erlang-cookie",
)

# 24 bytes are 32 characters of A-Z, a-z, 0-9, - and _: nothing that a URL would need quoted.
LENGTH = 24

# Seconds until the pod ends and is started again, at growing intervals. The role may come a moment after the pod.
PATIENCE = 60

# Ten years: nobody is there to renew a certificate that no authority signed. The component `tls` brings real ones.
DAYS = 3650


def password() -> str:
    # A leading dash would make a password look like an option.
    while (value := secrets.token_urlsafe(LENGTH)).startswith("-"):
        pass
    return value


def certificate(namespace: str) -> dict[str, str]:
    """A self-signed certificate of the stack's services, with its key.

    Raises:
        OSError: openssl is not there, or refuses.
    """
    names = [
        f"{service}{suffix}"
        for service in ("rabbitmq", "*.rabbitmq-nodes", "monitor", "flower")
        for suffix in ("", f".{namespace}", f".{namespace}.svc")
    ]
    # As the components `ingress` and `ingress-path` have them: a controller takes no certificate that does not name the host.
    names += ["flower.example.test", "monitor.example.test", "warren.example.test"]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                # Not the namespace's name: this one may have 64 characters at most. Who checks names reads those below.
                *("-days", str(DAYS), "-subj", "/CN=warren"),
                *("-addext", "subjectAltName=" + ",".join(f"DNS:{name}" for name in names)),
                *("-keyout", f"{folder}/tls.key", "-out", f"{folder}/tls.crt"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise OSError(f"openssl made no certificate: {done.stderr.strip()}")
        return {name: Path(folder, name).read_text() for name in ("tls.crt", "tls.key")}


def secret(namespace: str) -> dict[str, object]:
    values = {**{name: password() for name in PASSWORDS}, **certificate(namespace)}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        # Of this type any Ingress controller takes the certificate in it.
        "type": "kubernetes.io/tls",
        "metadata": {"name": NAME, "labels": {"app.kubernetes.io/part-of": "warren"}},
        "data": {name: base64.b64encode(value.encode()).decode() for name, value in values.items()},
    }


def login() -> dict[str, object]:
    """The Secret of KEDA. Its user is in deploy/rabbitmq/users.json."""
    values = {"username": "keda", "password": password()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/basic-auth",
        "metadata": {"name": KEDA, "labels": {"app.kubernetes.io/part-of": "warren"}},
        "stringData": values,
    }


def create(namespace: str, name: str) -> str:
    """Creates the Secret, unless it is there, and says which of the two.

    Raises:
        OSError: there is no certificate, or the API server can't be reached, or refuses.
    """
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    request = urllib.request.Request(
        f"https://{f'[{host}]' if ':' in host else host}:{port}/api/v1/namespaces/{namespace}/secrets",
        json.dumps(login() if name == KEDA else secret(namespace)).encode(),
        {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}", "Content-Type": "application/json"},
        method="POST",
    )
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    # The authorities of some clusters lack extensions that Python 3.13 insists on.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    try:
        urllib.request.urlopen(request, timeout=10, context=context).close()
    except urllib.error.HTTPError as error:
        if error.code != 409:
            raise OSError(f"{error.code} {error.read().decode()}") from error
        return f"the Secret {name} is there already; nothing is changed"
    return f"made the Secret {name}"


def main(arguments: list[str]) -> int:
    name = KEDA if arguments == ["keda"] else NAME
    until = time.monotonic() + PATIENCE
    while True:
        try:
            print(create(os.environ["NAMESPACE"], name))
            return 0
        except OSError as error:
            print(f"error: the Secret {name} can't be made: {error}", file=sys.stderr, flush=True)
            if time.monotonic() > until:
                return 1
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
