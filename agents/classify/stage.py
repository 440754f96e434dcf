"""The classify stage: ``team.events`` → ``audit.events``, ``tier.current``.

Reading, deciding and serialising are modules of their own; nothing here produces, commits or waits.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import msgspec

from agents.classify.decide import STAGE, decide
from agents.classify.facts import TeamEvent, Unreadable, read_team_event
from agents.classify.fast_path import usual_facts
from agents.classify.outputs import Owner, audit_events, due_record, initial_tier_changed, owner_of, tier_current
from agents.classify.packing import due_at, pack, unpack
from agents.classify.registers import EMPTY, Row, Standing, coming_times, first_fact_at, standing
from schemas.envelope import HEADERS
from schemas.reasons import Reason
from schemas.tiers import Tier, parse_tier
from streams.engine.table_stage import Effect, Run, SettingsChange, TableStage
from streams.engine.transactions import Output
from streams.errors import StageFailed
from streams.kafka.records import Record
from streams.settings import Settings
from streams.topics import AUDIT_EVENTS, TEAM_EVENTS, TIER_CURRENT

_CONFLICT = (
    "An event of {1} about this team came before with the id {0} and says something else; the first one counts. Find out who gave the id out "
    "twice; what is to be decided on after all needs another id."
)


class Team(msgspec.Struct, frozen=True, gc=False):
    """A team's row as classify decides on it: its one key, its registers, and what they say of its tier and of its owner."""

    team_id: str
    row: Row
    standing: Standing
    owner: Owner


class ClassifyStage(TableStage):
    """``team.events`` → ``audit.events``, ``tier.current``. The row of a team is its packed registers, the key its id."""

    name = STAGE
    by_key = True

    def __init__(self, settings: Settings) -> None:
        self._initial = settings.initial
        self.settings = settings.initial.label.encode()
        self._nobody = Team("", EMPTY, standing(EMPTY, self._initial), owner_of(EMPTY))
        self._team_events = TEAM_EVENTS.full_name(settings)
        self._audit_events = AUDIT_EVENTS.full_name(settings)
        self._tier_current = TIER_CURRENT.full_name(settings)

    def effect(self, record: Record, row: Team | None) -> Effect:
        """Decide on one event of one team."""
        try:
            event = read_team_event(record.value, record.timestamp // 1000)
        except Unreadable as error:
            return Effect(error.reason, error=str(error))
        team_id = event.team_id
        team = self._nobody if row is None else row
        if team_id != team.team_id:
            key = team_id.encode()
            if record.key != key:
                # Only the partition of its own key holds the team's row.
                return Effect(Reason.REROUTED, (Output(record.topic, key, record.value, record.headers),))
        known, before = team.row, team.standing
        decision = decide(known, event, self._initial, before)
        if decision.reason is Reason.ID_CONFLICT:
            return Effect(decision.reason, error=_CONFLICT.format(event.id, event.source))
        after, merged = decision.after, decision.row
        same_owner = merged.claim is known.claim and merged.imported is known.imported
        owner = team.owner if same_owner else owner_of(merged)
        outputs: Sequence[Output] = ()
        if decision.kind is not None or decision.grace is not None:
            outputs = [Output(self._audit_events, record.key, emitted, HEADERS) for emitted in audit_events(event, decision, owner)]
        if merged is known:
            return Effect(decision.reason, outputs)
        current = None
        if row is None or before.tier != after.tier or before.subscription_id != after.subscription_id:
            current = partial(self._current, record.key, event, after)
        return Effect(decision.reason, outputs, Team(team_id, merged, after, owner), current)

    def run(self, records: Sequence[Record], start: int, row: Team) -> Run | None:
        """Decide on the usual facts from ``start`` on."""
        usual = usual_facts(records, start, row.team_id, row.row, row.owner)
        if usual is None:
            return None
        key = records[start].key
        outputs = [Output(self._audit_events, key, emitted, HEADERS) for emitted in usual.audit_events]
        current = None if usual.tier_change is None else partial(self._current, key, *usual.tier_change)
        return Run(
            usual.records, usual.outcomes, outputs, Team(row.team_id, usual.row, usual.standing, row.owner), usual.growth_bytes, current
        )

    def _current(self, key: bytes | None, event: TeamEvent, after: Standing) -> Output:
        return Output(self._tier_current, key, tier_current(event, after), HEADERS)

    def pack(self, row: Team) -> bytes:
        """Return the team's registers, packed."""
        return pack(row.row)

    def unpack(self, key: bytes, packed: bytes) -> Team:
        """Return the team that ``pack`` made a row of."""
        row = unpack(packed)
        return Team(key.decode(), row, standing(row, self._initial), owner_of(row))

    def due_at(self, packed: bytes) -> int:
        """Return the earliest time that a subscription of the team waits for."""
        return due_at(packed)

    def due_records(self, key: bytes, packed: bytes, now: int) -> Sequence[Output]:
        """Return a record for each subscription that waits for a time that has passed: for the last such, where there are several."""
        row, team_id = unpack(packed), key.decode()
        found = []
        for subscription_id, times in coming_times(row).items():
            passed = max((time for time in times if time <= now), default=None)
            if passed is not None:
                state = row.state(subscription_id)
                value = due_record(team_id, subscription_id, state.plan_id, passed, state.email or None)
                found.append(Output(self._team_events, key, value, HEADERS))
        return found

    def settings_changed(self, former: bytes, rows: Mapping[bytes, bytes]) -> SettingsChange:
        """Say how many teams are on another tier than with the ``former`` initial tier; their ``tier.current`` is to be written anew."""
        was = parse_tier(former.decode())
        if was is None:
            raise StageFailed(
                f"The changelog of classify names the initial tier {former.decode(errors='replace')!r}, which the ladder does not have."
            )
        changed = {key for key, packed in rows.items() if self._differs(unpack(packed), was)}

        def outputs() -> Iterator[Output]:
            for key in changed:
                row = unpack(rows[key])
                after = standing(row, self._initial)
                since = after.since or first_fact_at(row)
                yield Output(self._tier_current, key, initial_tier_changed(key.decode(), was, after.tier, since), HEADERS)

        def refusal(affected: int, teams: int) -> str:
            return (
                f"TIERSTREAM_INITIAL_TIER is {self._initial.label}, and this worker's {teams} teams were decided with {was.label}: {affected} "
                "would change their tier without an event. Set it back, or start classify with --accept-initial-tier."
            )

        return SettingsChange(len(changed), outputs, refusal)

    def _differs(self, row: Row, was: Tier) -> bool:
        return standing(row, was).tier is not standing(row, self._initial).tier
