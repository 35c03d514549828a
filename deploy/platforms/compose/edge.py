"""The edge: Caddy with TLS in front of the stack's pages, and what changes behind it."""

from __future__ import annotations

import hashlib
import ipaddress

from deploy.output import note
from deploy.paths import ROOT
from deploy.platforms.base import in_url
from deploy.platforms.compose.image import sources
from deploy.settings import Settings

__all__ = [
    "BEHIND",
    "CA",
    "CA_INSIDE",
    "CLOSED",
    "FILE",
    "address",
    "advise",
    "endpoints",
    "inner_bind",
    "own_ca",
    "variables",
]

FILE = "deploy/edge/compose.yaml"

# The certificate of the edge's own CA, for browsers and programs to trust.
CA = ".warren/edge-ca.crt"
CA_INSIDE = "/data/caddy/pki/authorities/local/root.crt"

# What services are told of it: who asks, and by which address, is what the edge says.
BEHIND = {
    "flower": {"FLOWER_URL_PREFIX": "flower", "FLOWER_XHEADERS": "true"},
    "monitor": {"MONITOR_BEHIND_PROXY": "on"},
}

# The ports of the stack that are published without it only: pages that it serves itself, and what no command asks.
CLOSED = frozenset({"flower_port", "prometheus_port"})

# Endings of names that no public CA gives certificates for.
PRIVATE = ("localhost", "local", "internal", "lan", "home.arpa", "test", "example", "invalid")


def own_ca(settings: Settings) -> bool:
    """Whether certificates come from a CA of the edge's own; else they come by ACME."""
    if settings.edge_tls != "auto":
        return settings.edge_tls == "internal"
    name = host(settings)
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "." not in name or name.endswith(tuple(f".{one}" for one in PRIVATE))
    return True


def host(settings: Settings) -> str:
    """Its name as clients ask for it in TLS."""
    return settings.edge_host.lower()


def address(settings: Settings) -> str:
    """Where browsers find it."""
    port = "" if settings.edge_https_port == 443 else f":{settings.edge_https_port}"
    return f"https://{host(settings)}{port}"


def endpoints(settings: Settings) -> dict[str, str]:
    """Of the stack's endpoints, those that it adds."""
    if settings.edge == "off":
        return {}
    return {"edge": address(settings), "ca": CA if own_ca(settings) else ""}


def inner_bind(settings: Settings) -> str:
    """The address of this host that all other ports are open on: with the edge none that other hosts reach."""
    if settings.edge == "off" or ipaddress.ip_address(settings.bind).is_loopback:
        return settings.bind
    return "127.0.0.1"


def variables(settings: Settings) -> dict[str, str]:
    """The variables of its Compose file; none where it is off."""
    if settings.edge == "off":
        return {}
    by_mail = "acme-email" if settings.edge_email else "acme"
    content = b"".join(file.read_bytes() for file in sources(ROOT / "deploy" / "edge"))
    return {
        "WARREN_CADDY_IMAGE": settings.caddy_image,
        "WARREN_EDGE_HOST": host(settings),
        "WARREN_EDGE_TLS": "internal" if own_ca(settings) else by_mail,
        "WARREN_EDGE_EMAIL": settings.edge_email,
        "WARREN_EDGE_ADDRESS": address(settings),
        "WARREN_EDGE_BIND": in_url(settings.edge_bind),
        "WARREN_EDGE_HTTP_PORT": str(settings.edge_http_port),
        "WARREN_EDGE_HTTPS_PORT": str(settings.edge_https_port),
        "WARREN_EDGE_DIGEST": hashlib.sha256(content).hexdigest()[:12],
    }


def advise(settings: Settings) -> None:
    """Says what is likely to surprise."""
    if settings.edge == "off":
        return
    if inner_bind(settings) != settings.bind:
        note(
            f"WARREN_BIND={settings.bind} does not hold while the edge is on: broker and monitor listen on "
            f"{inner_bind(settings)}, the edge on WARREN_EDGE_BIND={settings.edge_bind}"
        )
    usual = (settings.edge_http_port, settings.edge_https_port) == (80, 443)
    if not own_ca(settings) and not (usual and not ipaddress.ip_address(settings.edge_bind).is_loopback):
        note(
            f"the certificate of {settings.edge_host} comes by ACME, which asks for it at ports 80 and 443 from outside; "
            "unless something leads these here, set WARREN_EDGE_BIND=0.0.0.0, WARREN_EDGE_HTTP_PORT=80 and "
            "WARREN_EDGE_HTTPS_PORT=443"
        )
