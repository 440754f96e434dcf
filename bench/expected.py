"""What the outputs must be: for each team its audit events, in order, as one digest, and its newest tier; and the reading of outputs.

A digest of a team's whole sequence says all at once: nothing missing, nothing wrong, nothing twice, nothing out of order. Of
``tier.current``, which is compacted, the newest record of a team counts: an engine may leave out what it would overwrite at once.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from orjson import loads

from bench.load import AuditRow, CurrentTier, LoadEvent
from streams.errors import TierstreamError
from tests.oracle import SequentialOracle

TRANSITIONS = frozenset({"subscription.upgraded", "subscription.downgraded", "subscription.canceled"})

SAMPLE_TEAMS = 100
"""Teams whose scenarios are given to the tests' oracle, which is exact and slow."""


class LoadDisputed(TierstreamError):
    """The load does not lead to what it says it leads to."""


class Sequence(msgspec.Struct):
    """All audit events of one team: how many, and the digest of them in their order."""

    records: int = 0
    digest: bytes = b""

    def add(self, record: tuple[str, ...]) -> None:
        """Append one record."""
        self.records += 1
        self.digest = hashlib.blake2b(self.digest + "\x1f".join(record).encode(), digest_size=16).digest()


class Tally(msgspec.Struct):
    """The contents of the two output topics."""

    audit: dict[str, Sequence] = {}
    current: dict[str, CurrentTier] = {}
    transitions: int = 0
    audit_records: int = 0
    current_records: int = 0

    @property
    def records(self) -> int:
        """Records on both topics."""
        return self.audit_records + self.current_records

    def add_audit(self, row: AuditRow) -> None:
        """Count one audit event in."""
        sequence = self.audit.get(row.team)
        if sequence is None:
            sequence = self.audit[row.team] = Sequence()
        sequence.add(row)
        self.audit_records += 1
        self.transitions += row.kind in TRANSITIONS

    def add_current(self, tier: CurrentTier) -> None:
        """Count one record of ``tier.current`` in."""
        self.current[tier.team] = tier
        self.current_records += 1

    def save(self, path: Path) -> None:
        """Write it to a file."""
        path.write_bytes(msgspec.msgpack.encode(self))

    def differences(self, expected: "Tally") -> list[str]:
        """Say what is not as expected; empty when all is."""
        found = []
        if wrong := sum(self.audit.get(team) != expected.audit.get(team) for team in self.audit.keys() | expected.audit.keys()):
            found.append(
                f"audit.events: {self.audit_records:,} records instead of {expected.audit_records:,}, "
                f"{wrong:,} teams of {len(expected.audit):,} differ"
            )
        if wrong := sum(self.current.get(team) != expected.current.get(team) for team in self.current.keys() | expected.current.keys()):
            found.append(f"tier.current: {wrong:,} teams of {len(expected.current):,} differ")
        return found


def load_tally(path: Path) -> Tally:
    """Read what ``save`` wrote."""
    return msgspec.msgpack.decode(path.read_bytes(), type=Tally)


@dataclass
class Reviewer:
    """Lays a sample of the load before the tests' oracle, which shares no code with it."""

    oracle: SequentialOracle = field(default_factory=SequentialOracle)
    teams: set[str] = field(default_factory=set)
    reasons: Counter[str] = field(default_factory=Counter)

    def see(self, event: LoadEvent) -> None:
        """Have the oracle judge one event, if its team is of the sample. Raises LoadDisputed when it judges otherwise."""
        if event.team not in self.teams:
            if len(self.teams) >= SAMPLE_TEAMS:
                return
            self.teams.add(event.team)
        outcome = self.oracle.feed(loads(event.value), event.timestamp // 1000)
        self.reasons[outcome.reason] += 1
        row, audit = (outcome.rows[0] if outcome.rows else None), event.audit
        same = len(outcome.rows) == (audit is not None)
        if row is not None and audit is not None:
            emitted = audit.before != ""
            same = (row.id, row.kind, row.team, row.reason, row.event_id) == (
                audit.id,
                audit.kind,
                audit.team,
                audit.reason,
                audit.event_id,
            )
            same &= (row.subscription or "", row.plan or "") == (audit.subscription, audit.plan)
            same &= not emitted or (row.from_tier, row.to_tier) == (audit.before, audit.after)
        current = outcome.current
        same &= (None if current is None else (current.tier, current.subscription or "")) == (
            None if event.current is None else (event.current.tier, event.current.subscription)
        )
        if not same:
            raise LoadDisputed(f"The oracle says {outcome} of {event.value.decode()}, and the load {audit} and {event.current}.")


def expectation(load: Iterable[LoadEvent]) -> Tally:
    """Return what ``load`` leads to, after a review of a sample. Raises LoadDisputed."""
    tally, reviewer = Tally(), Reviewer()
    for event in load:
        count_in(tally, reviewer, event)
    return tally


def count_in(tally: Tally, reviewer: Reviewer, event: LoadEvent) -> None:
    """Count what one event leads to."""
    reviewer.see(event)
    if event.audit is not None:
        tally.add_audit(event.audit)
    if event.current is not None:
        tally.add_current(event.current)


# Reading what a job wrote


class _Metadata(msgspec.Struct):
    reason: str
    event_id: str
    occurred_at: str
    before: str = msgspec.field(name="from", default="")
    after: str = msgspec.field(name="to", default="")
    subscription_id: str = ""
    plan_id: str = ""


class _AuditData(msgspec.Struct):
    actor: str
    summary: str
    created_at: str
    metadata: _Metadata


class _AuditEnvelope(msgspec.Struct):
    id: str
    type: str
    subject: str
    time: str
    source: str
    causationid: str
    correlationid: str
    data: _AuditData


class _CurrentData(msgspec.Struct):
    team_id: str
    tier: str
    since: str
    subscription_id: str | None


class _CurrentEnvelope(msgspec.Struct):
    id: str
    type: str
    subject: str
    data: _CurrentData


_audit = msgspec.json.Decoder(_AuditEnvelope).decode
_current = msgspec.json.Decoder(_CurrentEnvelope).decode


def read_audit(value: bytes) -> AuditRow:
    """Return what an audit event says. Raises msgspec.ValidationError when a field is missing."""
    envelope = _audit(value)
    metadata = envelope.data.metadata
    return AuditRow(
        envelope.id,
        envelope.type,
        envelope.subject,
        metadata.before,
        metadata.after,
        metadata.reason,
        metadata.subscription_id,
        metadata.plan_id,
        metadata.event_id,
        metadata.occurred_at,
    )


def read_current(value: bytes) -> CurrentTier:
    """Return what a record of ``tier.current`` says. Raises msgspec.ValidationError when a field is missing."""
    data = _current(value).data
    return CurrentTier(data.team_id, data.tier, data.since, data.subscription_id or "")
