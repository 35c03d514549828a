"""Passwords and keys: generated on first use, kept with mode 0600, never overwritten and never printed."""

from __future__ import annotations

import os
import secrets as random
from pathlib import Path

from deploy.errors import ExitCode, WarrenError
from deploy.paths import STATE, private_folder

__all__ = ["FOLDER", "KEDA", "ROLES", "Secrets", "load"]

FOLDER = STATE / "secrets"

ROLES = ("admin", "worker", "producer", "monitor", "flower", "ops")
# A user more, where KEDA asks the broker (k8s/components/keda), with a Secret of its own.
KEDA = "keda"
NAMES = (
    *ROLES,
    *("flower-login", "flower-cookie", "flower-metrics"),
    *("monitor-token", "monitor-operator", "monitor-viewer", "monitor-cookie", "monitor-webhook"),
)

# 24 bytes are 32 characters of A-Z, a-z, 0-9, - and _: nothing that a URL, a shell or an INI file would need quoted.
LENGTH = 24


class Secrets(dict[str, str]):
    """Secrets by name: a broker password for each role, logins of Flower and of the monitor, and the keys of both."""

    def __repr__(self) -> str:
        return f"Secrets({', '.join(self)})"


def generate() -> str:
    # A leading dash would make a password look like an option.
    while (value := random.token_urlsafe(LENGTH)).startswith("-"):
        pass
    return value


def load(folder: Path = FOLDER) -> Secrets:
    """All secrets; those that are missing are made.

    Raises:
        WarrenError: a file is empty or can't be read.
    """
    private_folder(folder)
    narrow(folder, 0o700)
    return Secrets({name: one(folder / name) for name in NAMES})


def narrow(path: Path, mode: int) -> None:
    """Takes from ``path`` the rights beyond ``mode``, which a copy or a backup may have given it."""
    if path.stat().st_mode & 0o777 & ~mode:
        path.chmod(mode)


def one(file: Path) -> str:
    try:
        try:
            value = file.read_text().strip()
            narrow(file, 0o600)
        except FileNotFoundError:
            # Linked into place: of two commands that start together, the second reads what the first one wrote.
            value = generate()
            part = file.with_name(f"{file.name}.{os.getpid()}")
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as stream:
                stream.write(value + "\n")
            try:
                os.link(part, file)
            except FileExistsError:
                value = file.read_text().strip()
            finally:
                part.unlink()
    except OSError as error:
        raise WarrenError(
            f"the secret {file} can't be used: {error.strerror}; check who owns it", ExitCode.SETTINGS
        ) from error
    except UnicodeDecodeError as error:
        raise WarrenError(
            f"the secret {file} is no text; write the password into it, or delete it for a new one", ExitCode.SETTINGS
        ) from error
    if not value:
        raise WarrenError(
            f"the secret {file} is empty; write the password into it, or delete it for a new one", ExitCode.SETTINGS
        )
    return value
