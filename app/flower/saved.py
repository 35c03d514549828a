"""The file that Flower's state is kept in, and the copy before it: written whole or not at all, checked when read."""

from __future__ import annotations

import io
import logging
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["Damaged", "Saved"]

# Its number grows with every change that an older version could not read, or this one of an older.
MAGIC = b"warren flower state 1\n"
KIND = MAGIC[: MAGIC.index(b"1")]
DIGEST = 32

T = TypeVar("T")

logger = logging.getLogger("warren.flower")


class Damaged(Exception):
    """The file is not what was written. The text says why."""


class Plain(pickle.Unpickler):
    """Reads plain data. Pickle is what takes every text and number that JSON events may hold, at a tenth of json's time."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no plain data")


class Saved:
    """``path`` and ``path.previous``. Used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.previous = path.with_name(path.name + ".previous")
        self._new = path.with_name(path.name + ".new")
        # Whether what stands at `path` is worth being kept as the copy.
        self._good = False
        self._trouble: str | None = None

    def load(self, use: Callable[[Iterator[Any]], T]) -> T | None:
        """What ``use`` makes of the newest good file; None, after saying why, where there is none."""
        reasons = []
        for path in (self.path, self.previous):
            try:
                found = use(iter(read(path)))
            except FileNotFoundError:
                continue
            except (Damaged, OSError) as error:
                reasons.append(f"{path} ({error})")
            except Exception as error:
                # Right by its checksum, and still not what a state is made of.
                reasons.append(f"{path} (it holds something else: {type(error).__name__} {error})")
            else:
                self._good = path == self.path
                if reasons:
                    logger.warning("Flower's state is damaged: %s; going on with the copy before it", reasons[0])
                return found
        if reasons:
            logger.warning("Flower's state is damaged: %s; reading all of the event log instead", ", ".join(reasons))
        return None

    def save(self, pieces: Iterable[Any]) -> bool:
        """Writes a new file, and keeps the one before; whether it could. What goes wrong is said once, and when it is over."""
        try:
            self._write(pieces)
        except OSError as error:
            if self._trouble is None:
                logger.warning(
                    "Flower's state can't be saved in %s (%s): make it writable, or free space; "
                    "nothing is lost while the event log holds it, but the next start reads all of that; "
                    "trying again until it works",
                    *(self.path.parent, error.strerror or error),
                )
            self._trouble = str(error)
            with suppress(OSError):
                self._new.unlink(missing_ok=True)
            return False
        if self._trouble is not None:
            logger.info("Flower's state is saved in %s again", self.path.parent)
            self._trouble = None
        return True

    def _write(self, pieces: Iterable[Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        body = b"".join(pickle.dumps(piece, pickle.HIGHEST_PROTOCOL) for piece in pieces)
        # Arguments and results are nobody else's business.
        with open(self._new, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as stream:
            stream.write(MAGIC)
            stream.write(sha256(body).digest())
            stream.write(body)
            stream.flush()
            os.fsync(stream.fileno())
        if self._good:
            self.path.replace(self.previous)
        self._new.replace(self.path)
        self._good = True
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            # The new names; without it a host that loses power may have neither.
            os.fsync(folder)
        finally:
            os.close(folder)


def read(path: Path) -> list[Any]:
    """The pieces in a file.

    Raises:
        Damaged: it is not a whole file of this version.
        OSError: it can't be read.
    """
    data = path.read_bytes()
    if not data.startswith(MAGIC):
        if data.startswith(KIND):
            raise Damaged(f"of another version, {data[len(KIND) : len(KIND) + 8].split()[0].decode(errors='replace')}")
        raise Damaged("not a state of Flower's" if data else "empty")
    body = data[len(MAGIC) + DIGEST :]
    if sha256(body).digest() != data[len(MAGIC) : len(MAGIC) + DIGEST]:
        raise Damaged("truncated or changed")
    stream = io.BytesIO(body)
    pieces = []
    try:
        while stream.tell() < len(body):
            pieces.append(Plain(stream).load())
    except Exception as error:
        raise Damaged(str(error)) from error
    return pieces
