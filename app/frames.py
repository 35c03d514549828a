"""Messages cut from what a broker sent, as AMQP 0-9-1 frames them: the part of a client that reads streams fast."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TypeAlias

from amqp.basic_message import Message

__all__ = ["messages", "offset_of"]

# Type, channel and size; the payload is followed by one octet more.
FRAME = struct.Struct(">BHI")
BASIC_DELIVER = b"\0\x3c\0\x3c"
OFFSET_KEY = b"\x0fx-stream-offset"
OFFSET = struct.Struct(">q")
SIZE = struct.Struct(">Q")

Delivery: TypeAlias = tuple[int, int, bytes]
Frame: TypeAlias = tuple[int, int, bytes]


def messages(data: bytes) -> Iterator[tuple[int, Delivery | None, Frame | None]]:
    """Cuts AMQP frames: yields the position after each, with the delivery (tag, offset, body) or the frame that is none."""
    position, size = 0, len(data)
    while position + 8 <= size:
        kind, channel, length = FRAME.unpack_from(data, position)
        after = position + length + 8
        if after > size:
            return
        payload = data[position + 7 : after - 1]
        if kind != 1 or payload[:4] != BASIC_DELIVER:
            position = after
            yield position, None, (kind, channel, payload)
            continue
        if (cut := content(data, after)) is None:
            return
        position, header, body = cut
        tag_at = 5 + payload[4]
        offset = offset_of(header)
        yield position, (SIZE.unpack_from(payload, tag_at)[0], -1 if offset is None else offset, body), None


def content(data: bytes, position: int) -> tuple[int, bytes, bytes] | None:
    """The end, the header and the body of the message whose header frame is at ``position``; None if it is incomplete."""
    size = len(data)
    header, body, expected = b"", b"", -1
    while expected != len(body):
        if position + 8 > size:
            return None
        _, _, length = FRAME.unpack_from(data, position)
        after = position + length + 8
        if after > size:
            return None
        payload = data[position + 7 : after - 1]
        if expected < 0:
            header = payload
            expected = SIZE.unpack_from(header, 4)[0]
        else:
            body = body + payload if body else payload
        position = after
    return position, header, body


def offset_of(header: bytes) -> int | None:
    """The value of x-stream-offset in the header frame of a message, or None."""
    at = header.find(OFFSET_KEY)
    after = at + len(OFFSET_KEY)
    # Once, as a long integer: the broker's. Whatever else a sender may have written in its headers is parsed properly.
    if at >= 0 and header[after : after + 1] == b"l" and header.find(OFFSET_KEY, after) < 0:
        return int(OFFSET.unpack_from(header, after + 1)[0])
    message = Message()
    message.inbound_header(header)
    offset = (message.properties.get("application_headers") or {}).get("x-stream-offset")
    return offset if isinstance(offset, int) else None
