"""Are the ports free that the stack is to listen on?"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from deploy.errors import ExitCode, WarrenError
from deploy.settings import PORTS as FIELDS
from deploy.settings import Settings

__all__ = ["FIELDS", "any_free", "free", "require_free"]


def free(host: str, port: int, variable: str = "WARREN_BIND") -> bool:
    """Whether a server can listen on ``port`` of ``host`` now, which ``variable`` names.

    Raises:
        WarrenError: ``host`` is no address of this host.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as server:
        # As servers do: what a server that has just ended left behind (TIME_WAIT) is no obstacle.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((host, port))
            server.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise WarrenError(
                    f"{variable}={host} is no address of this host; 127.0.0.1 always is", ExitCode.SETTINGS
                ) from error
            if error.errno == errno.EACCES:
                # A port below 1024, which this user may not listen on, but the engine may.
                return server.connect_ex((host, port)) != 0
            return False
    return True


def any_free(host: str, taken: set[int]) -> int:
    """A free port of ``host`` that is not in ``taken``."""
    while True:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as server:
            server.bind((host, 0))
            port = int(server.getsockname()[1])
        if port not in taken:
            return port


def require_free(settings: Settings, fields: Sequence[str] = FIELDS, bind: str = "bind") -> None:
    """Raises WarrenError naming the variable of the first port of ``fields`` that something else listens on.

    ``bind`` is the field of the address that they are to be open on.
    """
    for field in fields:
        port = getattr(settings, field)
        if not free(getattr(settings, bind), port, f"WARREN_{bind.upper()}"):
            raise taken(field, port)


def taken(field: str, port: int) -> WarrenError:
    """The error of a port that something else listens on."""
    # Further than the ports of the stack are from each other, so that it is none of those.
    other = port + 20000 if port < 45000 else port - 20000
    return WarrenError(
        f"port {port} is taken by another program; stop that, or choose another port: WARREN_{field.upper()}={other} in .env",
        ExitCode.PORT,
    )
