"""How far the event log was taken."""

from __future__ import annotations

from typing import NamedTuple
from zlib import crc32

__all__ = ["Position"]


class Position(NamedTuple):
    """The last message of the log that was taken."""

    offset: int
    checksum: int
    """Of its body: another log that has grown to the same offset has another message there."""

    def is_of(self, offset: int, body: bytes) -> bool:
        return offset == self.offset and crc32(body) == self.checksum
