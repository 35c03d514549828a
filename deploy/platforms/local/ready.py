"""Is a program of the stack ready? Told from what it does, never from how long it runs."""

from __future__ import annotations

import http.client
import json
import socket

from app import health
from deploy.platforms.local.addresses import LOOPBACK, Ports, reach
from deploy.platforms.local.places import log_file, record_file
from deploy.platforms.local.programs import folders, service_of
from deploy.platforms.local.supervisor import Process
from deploy.services import kind
from deploy.wait import amqp_answers

__all__ = ["last_line", "log_size", "ready"]

# Seconds. Local answers take milliseconds.
PATIENCE = 2

# Bytes of a log's end that are read to find its last line.
TAIL = 4096


def listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=PATIENCE):
            return True
    except OSError:
        return False


def healthy(host: str, port: int, path: str) -> bool:
    """Whether a server answers that it is well."""
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def launched(process: Process) -> bool:
    """Whether launch.py has made way for ``process``: before, health files may be those of the one before it."""
    try:
        return bool(json.loads(record_file(process.name).read_text())["pid"] == process.pid)
    except (OSError, ValueError):
        return False


def ready(process: Process, bind: str, ports: Ports) -> bool:
    """Whether ``process`` serves."""
    if not process.up or not launched(process):
        return False
    match kind(service_of(process.name)):
        case "epmd":
            return listens(LOOPBACK, ports.epmd_port)
        case "rabbitmq":
            return amqp_answers(reach(bind), ports.amqp_port)
        case "worker":
            return health.ready(str(folders()["health"] / process.name))
        case "flower":
            return healthy(reach(bind), ports.flower_port, "/readyz")
        case _:
            return healthy(reach(bind), ports.monitor_port, "/healthz")


def log_size(name: str) -> int:
    """Where the next line of a program's log will stand."""
    file = log_file(name)
    return file.stat().st_size if file.exists() else 0


def last_line(name: str, since: int = 0) -> str:
    """The last line that a program wrote after position ``since`` of its log; empty if none."""
    file = log_file(name)
    if not file.exists():
        return ""
    size = file.stat().st_size
    with file.open("rb") as stream:
        # A log that got shorter was rotated: all of it is new.
        stream.seek(max(since if since <= size else 0, size - TAIL))
        lines = [line.strip() for line in stream.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""
