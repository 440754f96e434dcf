"""Records in a spool's files: each in a frame that says where it begins, how long it is, and whether it is whole.

    magic (4 bytes) | length of the payload (uint32, little endian) | CRC-32 of length and payload (uint32) | payload

The magic holds bytes that no UTF-8 text holds, so that no JSON can look like the beginning of a frame.
"""

import struct
from typing import NamedTuple
from zlib import crc32

MAGIC = b"\xf5TS\xff"
HEADER = struct.Struct("<4sII")
_LENGTH = struct.Struct("<I")


class Frame(NamedTuple):
    """A whole frame: where it begins and ends in its bytes, and what it holds."""

    begin: int
    end: int
    payload: bytes


def framed(payload: bytes) -> bytes:
    """Return ``payload`` in its frame."""
    length = len(payload)
    return HEADER.pack(MAGIC, length, crc32(payload, crc32(_LENGTH.pack(length)))) + payload


def frame_at_or_after(data: bytes, at: int) -> Frame | None:
    """Return the first whole frame of ``data`` that begins at ``at`` or later; what is damaged or torn is passed over."""
    while (at := data.find(MAGIC, at)) >= 0:
        begin, at = at, at + 1
        payload_at = begin + HEADER.size
        if payload_at > len(data):
            return None
        _, length, checksum = HEADER.unpack_from(data, begin)
        end = payload_at + length
        if end > len(data):
            continue
        payload = data[payload_at:end]
        if crc32(payload, crc32(_LENGTH.pack(length))) == checksum:
            return Frame(begin, end, payload)
    return None


def is_torn(data: bytes, at: int) -> bool:
    """Whether the bytes from ``at`` on are the beginning of one frame whose end was never written."""
    head = data[at : at + HEADER.size]
    if len(head) < HEADER.size:
        return MAGIC.startswith(head[: len(MAGIC)])
    magic, length, _ = HEADER.unpack(head)
    return bool(magic == MAGIC and at + HEADER.size + length > len(data))
