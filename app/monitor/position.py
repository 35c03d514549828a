"""The place in the event log up to which everything is done, kept in a file."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from zlib import crc32

import msgspec

from app.eventlog import Entry

__all__ = ["Position", "PositionFile"]

logger = logging.getLogger("warren.monitor")


class Position(msgspec.Struct, frozen=True):
    """The last message that is done."""

    offset: int
    # Of its body: another log that has grown to the same offset has another message there.
    checksum: int
    # When its events happened, by the clock of their host; 0 if it has none.
    time: float

    @classmethod
    def of(cls, entry: Entry, time: float) -> Position:
        return cls(entry.offset, crc32(entry.body), time)

    def is_of(self, entry: Entry) -> bool:
        return entry.offset == self.offset and crc32(entry.body) == self.checksum


class PositionFile:
    """`position.json` in a folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "position.json"
        self._failed = False

    def load(self) -> Position | None:
        """The saved position; None where there is none or it can't be read, which is said in a line."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Position)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            logger.warning(
                "the position in %s can't be read (%s): starting with the first event in the log", self.path, error
            )
            return None

    def save(self, position: Position) -> None:
        """Replaces the file as a whole, so that a kill leaves the old one or the new one.

        A folder that can't be written is said once, and does not end the monitor: what it prints is worth more.
        """
        part = self.path.with_suffix(".part")
        try:
            with part.open("wb") as file:
                file.write(msgspec.json.encode(position))
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)
        except OSError as error:
            if not self._failed:
                logger.error(
                    "the position can't be saved (%s): free space or give %s to this user; until then a restart repeats lines",
                    error,
                    self.path.parent,
                )
            self._failed = True
        else:
            if self._failed:
                logger.info("the position is saved again")
            self._failed = False
