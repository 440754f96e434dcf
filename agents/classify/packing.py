"""Rows as they stand in memory and in the changelog: a format byte, the earliest coming time, then MessagePack.

The coming time stands in front so that the owner of a partition finds it without reading the row.
"""

from functools import reduce
from typing import Final

import msgspec

from agents.classify.history import ENDING, HALT, START, UNKNOWN, Fact, Subscription, subscription_of, unpacked
from agents.classify.registers import Claim, Import, Override, Row
from schemas.team_events import Version

_FORMAT: Final = b"\x03"
_SECOND_FORMAT: Final = b"\x02"
"""One status, one plan and the first version of each plan for each subscription, and no time in front."""

_FIRST_FORMAT: Final = b"\x01"
"""As the second, but with the plan's version beside an active status too."""

_TIME_BYTES: Final = 5
_HEAD_BYTES: Final = 1 + _TIME_BYTES
_UNTIMED: Final = _FORMAT + bytes(_TIME_BYTES)


class _Packed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A row as it is packed: of a subscription the number of its facts, and its history. A row without ``service_ids`` lacks them, and a
    release that does not know of them reads past them."""

    live: dict[str, tuple[int, bytes]] = {}
    ended: dict[str, Version] = {}
    paid: bool = False
    override: Override | None = None
    claim: Claim | None = None
    imported: Import | None = None
    unstarted: dict[str, Version] = {}
    service_ids: bytes = b""


class _FormerSubscription(msgspec.Struct, frozen=True, array_like=True, gc=False):
    status: int = 0  # 1 active, 2 halted, or 0 while only its coming end is known
    status_version: Version | None = None
    plan_id: str = ""
    plan_tier: int = 0
    plan_version: Version | None = None  # only while it is not active
    first_seen: dict[str, Version] = {}
    ends_at: int = 0


class _FormerRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    live: dict[str, _FormerSubscription] = {}
    ended: dict[str, Version] = {}
    paid: bool = False
    override: Override | None = None
    claim: Claim | None = None
    imported: Import | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packed).decode
_decode_former = msgspec.msgpack.Decoder(_FormerRow).decode


def pack(row: Row) -> bytes:
    """Return the row as it is kept."""
    live = {subscription_id: (subscription.count, subscription.history) for subscription_id, subscription in row.live.items()}
    ids = (row.service_ids,) if row.service_ids else ()
    packed = _encode((live, row.ended, row.paid, row.override, row.claim, row.imported, row.unstarted, *ids))
    time = _earliest_time(row)
    return (_UNTIMED if not time else _FORMAT + time.to_bytes(_TIME_BYTES)) + packed


def unpack(packed: bytes) -> Row:
    """Return the row that ``pack`` made, of this version or the ones before. Raises ValueError for another format."""
    row_format = packed[:1]
    if row_format == _FORMAT:
        known = _decode(memoryview(packed)[_HEAD_BYTES:])
        live = {subscription_id: subscription_of(unpacked(history, count)) for subscription_id, (count, history) in known.live.items()}
        return Row(live, known.ended, known.paid, known.override, known.claim, known.imported, known.unstarted, known.service_ids)
    if row_format in (_FIRST_FORMAT, _SECOND_FORMAT):
        return _carried_over(_decode_former(memoryview(packed)[1:]))
    raise ValueError(f"row format {row_format.hex()} is unknown; this version reads {_FIRST_FORMAT.hex()} to {_FORMAT.hex()}")


def due_at(packed: bytes) -> int:
    """Return the earliest coming time of a packed row, in Unix seconds; 0 when nothing is to come."""
    if packed.startswith(_UNTIMED):
        return 0
    if packed.startswith(_FORMAT):
        return int.from_bytes(packed[1:_HEAD_BYTES])
    return _earliest_time(unpack(packed))


def _earliest_time(row: Row) -> int:
    states = [subscription.state for subscription in row.live.values()]
    # Of most there is none, and nothing to work out.
    timed = [state for state in states if state.coming_end or state.until or state.trouble is not None]
    return min((time for state in timed for time in state.coming_times()), default=0) if timed else 0


def _carried_over(row: _FormerRow) -> Row:
    live = {subscription_id: subscription for subscription_id, known in row.live.items() if (subscription := _carried(known)).history}
    return Row(live, row.ended, row.paid, row.override, row.claim, row.imported)


def _carried(known: _FormerSubscription) -> Subscription:
    """Return a subscription that says the same: the run of the present plan begins where the former format had it, so that nobody's tier
    changes because a new version reads the row. A coming end was kept without its fact, and stands before all others."""
    newest_start = known.status_version if known.status == 1 else known.plan_version
    facts: list[Fact] = []
    if newest_start is not None:
        first = min(known.first_seen.get(known.plan_id, newest_start), newest_start)
        facts += [Fact(START, version, known.plan_id, known.plan_tier) for version in {first, newest_start}]
    if known.status == 2 and known.status_version is not None:
        seconds, rank, paid_count, event_id = known.status_version
        facts.append(Fact(HALT, (seconds, rank, max(paid_count, 1), event_id)))  # the former format counted every halt as an end
    if known.ends_at:
        facts.append(Fact(ENDING, (0, 0, 0, ""), at=known.ends_at))
    return reduce(Subscription.merged, facts, UNKNOWN)
