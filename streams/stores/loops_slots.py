"""The table ``loops_slots``: the account's limit, shared by all forwarders. The rules are those of ``streams.loops.slots.SlotTable``.

All times are PostgreSQL's, so the clocks of the workers do not matter. A clock that is set forward frees slots too soon, once.
"""

from collections.abc import Sequence
from datetime import timedelta

from streams.loops.slots import AHEAD_SECONDS, LONGEST_SECONDS, OTHERS_WINDOWS, Grant, Limit, Return, return_step
from streams.stores.pool import Connection, PostgresPool

_MAKE = "insert into loops_slots (slot) select generate_series(0, $1::int - 1) on conflict do nothing"

_TAKE = """
with clock as materialized (select clock_timestamp() as now),
free as (
    select slot, case when greatest(ours_until, others_until) > now + $4::interval then now
        else greatest(ours_until, others_until, now) end as starts, now
    from loops_slots, clock
    where slot < $1 and (greatest(ours_until, others_until) <= now + $2::interval or greatest(ours_until, others_until) > now + $4::interval)
    order by greatest(ours_until, others_until), slot
    limit 1
    for update of loops_slots skip locked
)
update loops_slots as held set use = use + 1, started_at = starts, ours_until = starts + $3::interval
from free where held.slot = free.slot
returning held.slot, held.use, extract(epoch from starts - now)::float8
"""

_GIVE_BACK = """
with clock as materialized (select clock_timestamp() as now),
held as materialized (select * from loops_slots where slot < $1 order by slot for update),
given as materialized (
    select held.slot, hold, started_at, remaining
    from unnest($2::int[], $3::bigint[], $4::interval[], $5::float8[]) as given (slot, use, hold, remaining) join held using (slot, use)
),
others as (
    select coalesce(max(floor(($6 - remaining) * $1 / $6) - (select count(*) from held where held.ours_until > given.started_at)), 0) as used
    from given where remaining is not null
),
left_to_others as (
    select slot, row_number() over (order by others_until desc, ours_until, slot) <= used as is_left from held, others
),
freed as (
    select held.slot, coalesce(now + given.hold, ours_until) as ours,
        greatest(others_until, case when is_left then now + $7::interval else '-infinity' end) as others
    from clock, held join left_to_others using (slot) left join given using (slot)
),
stopped as (
    select slot, now + $8::interval + (row_number() over (order by greatest(ours, others), slot) - 1) * $9::interval as until from freed, clock
)
update loops_slots as changed set
    ours_until = ours,
    others_until = case when $8::interval > interval '0' then greatest(others, until) else others end
from freed join stopped using (slot)
where changed.slot = freed.slot and ($8::interval > interval '0' or (ours, others) is distinct from (changed.ours_until, changed.others_until))
"""


class PostgresSlots:
    """The slots in PostgreSQL. Waits while PostgreSQL is away."""

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool
        self._made = 0

    async def take(self, limit: Limit, lease: float) -> Grant | None:
        """See ``Slots.take``."""
        found = await self._pool.run(lambda connection: self._take(connection, limit.slots, lease))
        return Grant(found[0], found[1], found[2]) if found else None

    async def _take(self, connection: Connection, slots: int, lease: float) -> Sequence[int] | None:
        arguments = (slots, timedelta(seconds=AHEAD_SECONDS), timedelta(seconds=lease), timedelta(seconds=LONGEST_SECONDS))
        found = await connection.fetchrow(_TAKE, *arguments) if self._made == slots else None
        if found is None:
            # They may have been made by nobody yet, or have gone with a table that was dropped.
            await connection.execute(_MAKE, slots)
            self._made = slots
            found = await connection.fetchrow(_TAKE, *arguments)
        return None if found is None else tuple(found.values())

    async def give_back(self, limit: Limit, returns: Sequence[Return], stop: float) -> None:
        """See ``Slots.give_back``."""
        numbers, uses, holds, remaining = zip(*returns, strict=True) if returns else ((), (), (), ())
        await self._pool.run(
            lambda connection: connection.execute(
                _GIVE_BACK,
                limit.slots,
                numbers,
                uses,
                [timedelta(seconds=hold) for hold in holds],
                remaining,
                float(limit.requests),
                timedelta(seconds=OTHERS_WINDOWS * limit.seconds),
                timedelta(seconds=stop),
                timedelta(seconds=return_step(limit)),
            )
        )
