"""Where things are. Everything generated is below `.warren/`, which git ignores."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["ROOT", "STATE", "private_folder", "write_private"]

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".warren"


def private_folder(path: Path) -> Path:
    """``path`` as a folder that only this user can enter."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def write_private(path: Path, text: str) -> bool:
    """Writes ``text`` for this user's eyes only, all or nothing; says whether that changed anything."""
    private_folder(path.parent)
    if path.exists() and path.read_text() == text:
        return False
    # Of its own process: two commands may write the same file at the same time.
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    part.replace(path)
    return True
