"""The stack as people outside of the cluster reach it: through the cluster's ingress controller."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.edge import Answer
from tests.support.login import basic

__all__ = ["Authority", "Ingress", "addresses"]

# Seconds. Whoever answers answers at once; a busy machine takes its time.
PATIENCE = 30

HOW = "E2E_INGRESS names no addresses of an ingress controller, HOST:PORT for http and HOST:PORT for https with a comma between"


def addresses() -> tuple[tuple[str, int], tuple[str, int]]:
    """Where the cluster's ingress controller listens for http and for https; without one the test is skipped."""
    plain, _, secure = os.environ.get("E2E_INGRESS", "").partition(",")
    if not secure:
        pytest.skip(HOW)
    found = [(host, int(port)) for host, _, port in (one.rpartition(":") for one in (plain, secure))]
    return found[0], found[1]


class Authority:
    """Signs certificates, as a company's own or a public one does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate = folder / "ca.crt"
        self._openssl("-x509", "-subj", "/CN=authority of the test", "-keyout", "ca.key", "-out", "ca.crt")

    def sign(self, name: str, *hosts: str) -> tuple[Path, Path]:
        """A certificate for ``hosts``, and its key."""
        names = ",".join(f"DNS:{host}" for host in hosts)
        self._openssl(
            *("-x509", "-CA", "ca.crt", "-CAkey", "ca.key", "-subj", f"/CN={name}"),
            *("-addext", f"subjectAltName={names}", "-addext", "basicConstraints=critical,CA:FALSE"),
            *("-keyout", f"{name}.key", "-out", f"{name}.crt"),
        )
        return self.folder / f"{name}.crt", self.folder / f"{name}.key"

    def _openssl(self, *arguments: str) -> None:
        made = ("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
        subprocess.run([*made, *arguments], cwd=self.folder, check=True, capture_output=True)


class Ingress:
    """One host of an ingress controller."""

    def __init__(self, host: str, password: str, ca: str | None) -> None:
        self.host = host
        self.flower_login = ("operator", password)
        self.plain, self.secure = addresses()
        self.url = f"https://{host}:{self.secure[1]}"
        # The test's own authority, or a certificate that stands for itself.
        self.trust = ssl.create_default_context(cadata=ca)

    def get(self, path: str, login: bool = False, token: str = "", lies: Mapping[str, str] | None = None) -> Answer:
        """What it answers over HTTPS, with a certificate that is checked; to ``lies``, headers, too."""
        headers = {**(lies or {}), "Host": self.host}
        if login or token:
            headers["Authorization"] = f"Bearer {token}" if token else basic(*self.flower_login)
        with (
            socket.create_connection(self.secure, PATIENCE) as plain,
            self.trust.wrap_socket(plain, server_hostname=self.host) as connected,
        ):
            return asked(self.host, connected, path, headers)

    def get_plain(self, path: str) -> Answer:
        """What it answers over HTTP."""
        with socket.create_connection(self.plain, PATIENCE) as connected:
            return asked(self.host, connected, path, {"Host": self.host})

    def certificate(self) -> str:
        """The one that it shows to browsers, as PEM."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection(self.secure, PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname=self.host) as connected,
        ):
            return ssl.DER_cert_to_PEM_cert(connected.getpeercert(binary_form=True) or b"")


def asked(host: str, connected: socket.socket, path: str, headers: dict[str, str]) -> Answer:
    connection = http.client.HTTPConnection(host, timeout=PATIENCE)
    connection.sock = connected
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return Answer(answer.status, answer.headers, answer.read())
