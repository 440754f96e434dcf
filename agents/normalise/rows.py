"""The row of a subscription: whose it is over time, and which webhooks about it came before. As it is read, and as it is kept."""

from typing import Final

import msgspec

from agents.normalise.ownership import NOBODYS, Claim, Ownership

_FORMAT: Final = b"\x01"
"""First byte of a packed row. The format before it was the team's id as text, and no such text begins with this."""

_BEFORE_ALL: Final = -1  # seconds of a claim whose version is not known


class Row(msgspec.Struct, frozen=True, gc=False):
    """``deliveries`` is as ``agents.normalise.deliveries`` writes it."""

    ownership: Ownership = NOBODYS
    deliveries: bytes = b""


EMPTY: Final = Row()


class _Packed(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a release that knows of no deliveries wrote lacks them, and it reads past them."""

    claims: tuple[Claim, ...] = ()
    learned: str | None = None
    deliveries: bytes = b""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packed).decode


def pack(row: Row) -> bytes:
    """Return the row as the table holds it."""
    ownership = row.ownership
    return _FORMAT + _encode((ownership.claims, ownership.learned, row.deliveries))


def unpack(packed: bytes) -> Row:
    """Return the row that ``pack`` made; one of the former format is a team's id, whose claim is older than anything."""
    if packed.startswith(_FORMAT):
        known = _decode(memoryview(packed)[1:])
        return Row(Ownership(known.claims, known.learned), known.deliveries)
    return Row(Ownership((Claim(packed.decode(), _BEFORE_ALL, 0, 0, "", "receipt"),)))
