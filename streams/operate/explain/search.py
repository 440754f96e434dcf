"""Finding what is asked for, and what the logs hold of it: a bounded read of the partitions of its keys.

A team's facts are in the one partition of ``team.events`` that its id belongs to, its webhooks in those of its subscriptions. Only an event
that left no row behind, or an address without a mail, is searched for in all partitions.
"""

import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

import orjson

from agents.audit.record import parse_uuid
from agents.normalise.plans import load_rules
from agents.normalise.stage import NormaliseStage
from schemas.envelope import canonical_team_id
from schemas.kinds import Kind
from schemas.razorpay import MalformedWebhook, parse_webhook
from schemas.team_events import SubscriptionEvent
from streams.engine.replay import replay
from streams.errors import NotFound
from streams.kafka.partitioner import partition_of
from streams.kafka.records import Record
from streams.logging import mask_email
from streams.operate.explain.closings import audit_ids as decisions_of
from streams.operate.explain.entries import Explanation
from streams.operate.explain.timeline import Evidence, headers_of, origin_of, timeline
from streams.operate.logs import Bounds, Search
from streams.settings import Settings
from streams.stores.audit_log import AuditRow
from streams.stores.explanations import Mail
from streams.topics import AUDIT_EVENTS, DEAD_LETTERS, RAZORPAY_WEBHOOKS, SUBSCRIPTION_LINKS, TEAM_EVENTS, TIER_CURRENT, Topic

MAX_CANDIDATES = 10_000
"""Mails with a masked recipient of which the contact is looked at: the newest."""

_SUBSCRIPTION = "sub_"
"""What the id of every subscription begins with at Razorpay."""

_INPUTS = (("normalise", RAZORPAY_WEBHOOKS), ("classify", TEAM_EVENTS))


class Logs(Protocol):
    """The topics. ``KafkaLogs``, or a test's own."""

    def bounds(self, topic: Topic) -> Mapping[int, Bounds]:
        """Return how far each partition reaches now."""

    def committed(self, stage: str, topic: Topic) -> Mapping[int, int]:
        """Return the next offset of the stage's group on each partition; one without is absent."""

    def search(self, *searches: Search) -> dict[Topic, list[Record]]:
        """Return the committed records that each search lets through, by partition and offset."""


class Stores(Protocol):
    """The tables. ``Explanations``, or a test's own."""

    def rows_of_team(self, team_id: uuid.UUID) -> list[AuditRow]:
        """Return the team's audit rows, the oldest fact first."""

    def rows_of_event(self, event_id: str) -> list[AuditRow]:
        """Return the audit rows that name this event."""

    def row(self, audit_id: uuid.UUID) -> AuditRow | None:
        """Return one audit row."""

    def mails(self, audit_ids: Sequence[uuid.UUID]) -> list[Mail]:
        """Return the ledger's rows of these mails; those that were never seen are absent."""

    def mails_to(self, recipient: str) -> list[Mail]:
        """Return the ledger's rows of a masked recipient."""


def explain(settings: Settings, logs: Logs, stores: Stores, subject: str) -> Explanation:
    """Return the timeline of a team, or of the subscription, the event, the audit row or the address that ``subject`` is.

    Raises NotFound, with what was searched; KafkaUnavailable, PostgresUnavailable, ConfigurationError.
    """
    return _Search(settings, logs, stores).explain(subject.strip())


class _Search:
    def __init__(self, settings: Settings, logs: Logs, stores: Stores) -> None:
        self._settings, self._logs, self._stores = settings, logs, stores
        self._rules = load_rules(settings)
        self._all = range(settings.partitions)

    def explain(self, subject: str) -> Explanation:
        if "@" in subject:
            return self._team(self._team_of_address(subject))
        id = parse_uuid(subject)
        if id is not None and (row := self._stores.row(id)) is not None:
            return self._audit(row)
        team_id = canonical_team_id(subject)
        if team_id is not None:
            found = self._team(team_id)
            if found.entries or found.since is not None:
                return found
        if subject.startswith(_SUBSCRIPTION) and (found_of := self._subscription(subject)) is not None:
            return found_of
        return self._event(subject)

    def _subscription(self, subscription_id: str) -> Explanation | None:
        """Return the timeline of the team that had a subscription last, else what became of its webhooks; None when there is nothing."""
        webhooks, links = self._webhooks([subscription_id])
        owners = [team for _, team in self._owners_by_replay(webhooks, links)]
        if not owners:
            needle = subscription_id.encode()
            owners = self._teams_of_facts(needle, lambda record: _data(record).get("subscription_id") == subscription_id)
        if owners:
            others = sorted({*owners} - {owners[-1]})
            return _with_note(
                self._team(owners[-1], [subscription_id]), f"The subscription {subscription_id} was of other teams too", others
            )
        found = self._nobodys([subscription_id], ())
        return found if found.entries else None

    def _audit(self, row: AuditRow) -> Explanation:
        found = self._team(str(row.team_id)) if row.team_id else self._nobodys(_subscriptions_of([row]), [row])
        return _narrowed(found, [entry.audit_id == str(row.id) for entry in found.entries])

    def _event(self, event_id: str) -> Explanation:
        rows = self._stores.rows_of_event(event_id)
        if rows:
            teams = {str(row.team_id) for row in rows if row.team_id}
            subscriptions = _subscriptions_of(rows)
        else:
            teams, subscriptions = self._owners_of_event(event_id)
        if not teams and not subscriptions:
            raise NotFound(
                f"There is no team, subscription, event or audit row {event_id[:100]}: audit_log, razorpay.webhooks, team.events and dead.letters were "
                f"searched{self._reach()}."
            )
        found = self._team(min(teams), subscriptions) if teams else self._nobodys(subscriptions, rows)
        narrowed = _narrowed(found, [entry.event_id == event_id for entry in found.entries])
        return _with_note(narrowed, f"The event {event_id} concerns other teams too", sorted(teams)[1:])

    def _owners_of_event(self, event_id: str) -> tuple[set[str], set[str]]:
        """Return the teams and the subscriptions that an event without a row concerns, by reading all of the partitions."""
        needle = event_id.encode()

        def is_webhook(record: Record) -> bool:
            return headers_of(record).get("razorpay-event-id") == event_id

        found = self._logs.search(
            Search(RAZORPAY_WEBHOOKS, self._all, {needle}, is_webhook),
            Search(DEAD_LETTERS, self._all, {needle}, lambda record: is_webhook(record) or event_id in _ids(record)),
        )
        teams, subscriptions = set[str](), set[str]()
        for record in (*found[RAZORPAY_WEBHOOKS], *found[DEAD_LETTERS]):
            team_id, subscription_id = self._named_by(record)
            teams |= {team_id} if team_id else set()
            subscriptions |= {subscription_id} if subscription_id else set()
        if subscriptions and not teams:
            teams = self._teams_by_links(subscriptions, event_id)
        if not teams and not subscriptions:
            teams = {*self._teams_of_facts(needle, lambda record: event_id in _ids(record))}
        return teams, subscriptions

    def _teams_of_facts(self, needle: bytes, passes: Callable[[Record], bool]) -> list[str]:
        """Return the teams of the facts that hold ``needle`` and pass, the oldest fact first, by reading all of the partitions."""
        facts = self._logs.search(Search(TEAM_EVENTS, self._all, {needle}, passes))[TEAM_EVENTS]
        facts.sort(key=lambda record: record.timestamp)
        return [team_id for record in facts if (team_id := _team_in_key(record)) is not None]

    def _named_by(self, record: Record) -> tuple[str | None, str | None]:
        """Return the team and the subscription that a webhook names, or a dead letter of one or of an event about a team."""
        value = record.value or b""
        origin = origin_of(record)
        if origin is not None and not origin[1][0].endswith(RAZORPAY_WEBHOOKS.name):
            return _team_in_key(record), None
        try:
            webhook = parse_webhook(value)
        except MalformedWebhook:
            return None, (record.key or b"").decode("utf-8", "replace") or None
        note = webhook.note(self._rules.team_note)
        subscription_id = webhook.subscription.id if webhook.subscription else (record.key or b"").decode("utf-8", "replace")
        return canonical_team_id(note) if note else None, subscription_id or None

    def _teams_by_links(self, subscriptions: Collection[str], event_id: str) -> set[str]:
        """Return whose a webhook without a note is, as normalise finds it."""
        owners = self._owners_by_replay(*self._webhooks(subscriptions))
        return {team_id for record, team_id in owners if headers_of(record).get("razorpay-event-id") == event_id}

    def _owners_by_replay(self, webhooks: Sequence[Record], links: Sequence[Record]) -> list[tuple[Record, str]]:
        """Return the records that normalise makes facts of, each with the team, in the order of the log."""
        merged = sorted((*webhooks, *links), key=lambda record: record.timestamp)
        return [
            (each.record, output.key.decode())
            for each in replay(NormaliseStage(self._settings, self._rules), merged, self._settings.partitions)
            for output in each.step.outputs
            if output.key and output.topic == TEAM_EVENTS.full_name(self._settings) and not _is_moved(output.value)
        ]

    def _team_of_address(self, address: str) -> str:
        """Return the team whose contact has an address: found by the masked recipients of mails, else by what the log says of contacts."""
        candidates = [mail for mail in self._stores.mails_to(mask_email(address)) if mail.team_id is not None]
        candidates.sort(key=lambda mail: mail.first_attempt_at.timestamp() if mail.first_attempt_at else 0, reverse=True)
        keys = {str(mail.team_id).encode() for mail in candidates[:MAX_CANDIDATES]}
        teams = self._teams_with(AUDIT_EVENTS, self._partitions(keys), address) if keys else set()
        if not teams:
            teams = self._teams_with(TEAM_EVENTS, self._all, address)
        if not teams:
            raise NotFound(
                f"No team has the address {mask_email(address)}: the ledger's recipients, the contacts on audit.events and those on team.events "
                f"were searched{self._reach()}."
            )
        if len(teams) > 1:
            raise NotFound(f"Several teams have the address {mask_email(address)}; name one of them: {', '.join(sorted(teams))}.")
        return teams.pop()

    def _teams_with(self, topic: Topic, partitions: Sequence[int], address: str) -> set[str]:
        needles = {address.encode(), address.lower().encode()}
        wanted = address.casefold()
        found = self._logs.search(Search(topic, partitions, needles, lambda record: wanted in _addresses(record)))[topic]
        return {record.key.decode() for record in found if record.key}

    def _team(self, team_id: str, subscriptions: Collection[str] = ()) -> Explanation:
        key = team_id.encode()
        home = [partition_of(key, self._settings.partitions)]

        def is_teams(record: Record) -> bool:
            return bool(record.key == key)

        found = self._logs.search(
            Search(TEAM_EVENTS, home, {key}, is_teams),
            Search(AUDIT_EVENTS, home, {key}, is_teams),
            Search(TIER_CURRENT, home, {key}, is_teams),
            Search(DEAD_LETTERS, self._all, None, lambda record: True),
        )
        rows = self._stores.rows_of_team(uuid.UUID(team_id))
        letters = found[DEAD_LETTERS]
        known = {*subscriptions, *_subscriptions_of(rows), *_subscriptions_on(found[TEAM_EVENTS])}
        known |= {
            record.key.decode("utf-8", "replace") for record in letters if record.key and key in (record.value or b"") and record.key != key
        }
        webhooks, links = self._webhooks(known)
        keys = {key, *(subscription.encode() for subscription in known)}
        current = found[TIER_CURRENT][-1].value if found[TIER_CURRENT] else None
        read = {TEAM_EVENTS: home, RAZORPAY_WEBHOOKS: self._partitions(subscription.encode() for subscription in known)}
        return self._timeline(
            read,
            team_id=team_id,
            webhooks=webhooks,
            links=links,
            facts=found[TEAM_EVENTS],
            audit_events=found[AUDIT_EVENTS],
            dead_letters=[record for record in letters if record.key in keys],
            rows=rows,
            current=orjson.loads(current)["data"] if current else None,
        )

    def _nobodys(self, subscriptions: Collection[str], rows: Sequence[AuditRow]) -> Explanation:
        """Return what became of the webhooks about subscriptions that no team is known to have."""
        keys = {subscription.encode() for subscription in subscriptions}

        def is_theirs(record: Record) -> bool:
            return record.key in keys

        found = self._logs.search(
            Search(DEAD_LETTERS, self._all, keys, is_theirs),
            Search(AUDIT_EVENTS, self._partitions(keys), keys, is_theirs),
        )
        webhooks, links = self._webhooks(subscriptions)
        return self._timeline(
            {RAZORPAY_WEBHOOKS: self._partitions(keys)},
            team_id=None,
            webhooks=webhooks,
            links=links,
            facts=(),
            audit_events=found[AUDIT_EVENTS],
            dead_letters=found[DEAD_LETTERS],
            rows=rows,
            current=None,
        )

    def _timeline(
        self,
        read: Mapping[Topic, Sequence[int]],
        *,
        team_id: str | None,
        webhooks: Sequence[Record],
        links: Sequence[Record],
        facts: Sequence[Record],
        audit_events: Sequence[Record],
        dead_letters: Sequence[Record],
        rows: Sequence[AuditRow],
        current: dict[str, object] | None,
    ) -> Explanation:
        worked_in = {
            (topic.full_name(self._settings), number): offset
            for stage, topic in _INPUTS
            for number, offset in self._logs.committed(stage, topic).items()
        }
        bounds = {topic: self._logs.bounds(topic) for topic in read}
        cut = frozenset(topic.name for topic, numbers in read.items() if any(bounds[topic][number].first for number in numbers))
        rows = self._with_rows_of_nobody(rows, dead_letters)
        mails = self._stores.mails([*{row.id for row in rows}, *_audit_ids(audit_events)])
        evidence = Evidence(team_id, webhooks, links, facts, audit_events, dead_letters, rows, mails, current, worked_in, cut)
        return timeline(evidence, self._settings, self._rules)

    def _with_rows_of_nobody(self, rows: Sequence[AuditRow], dead_letters: Sequence[Record]) -> list[AuditRow]:
        """Return ``rows`` with those without a team: of the charges that were parked, and of what operators did with the dead letters."""
        by_id = {row.id: row for row in rows}
        parked = {headers_of(letter).get("razorpay-event-id") for letter in dead_letters if origin_of(letter) is not None}
        for event_id in parked - {None}:
            of_event = self._stores.rows_of_event(str(event_id))
            by_id |= {row.id: row for row in of_event if row.team_id is None and row.kind == Kind.CHARGE_UNDELIVERABLE}
        for audit_id in map(uuid.UUID, decisions_of(self._settings, dead_letters)):
            if audit_id not in by_id and (row := self._stores.row(audit_id)) is not None:
                by_id[audit_id] = row
        return list(by_id.values())

    def _webhooks(self, subscriptions: Collection[str]) -> tuple[list[Record], list[Record]]:
        by_partition: dict[int, set[bytes]] = {}
        for subscription in subscriptions:
            key = subscription.encode()
            by_partition.setdefault(partition_of(key, self._settings.partitions), set()).add(key)
        searches = [
            Search(topic, [number], keys, partial(_has_key, keys))
            for number, keys in by_partition.items()
            for topic in (RAZORPAY_WEBHOOKS, SUBSCRIPTION_LINKS)
        ]
        found = self._logs.search(*searches)
        return found.get(RAZORPAY_WEBHOOKS, []), found.get(SUBSCRIPTION_LINKS, [])

    def _partitions(self, keys: Iterable[bytes]) -> list[int]:
        return sorted({partition_of(key, self._settings.partitions) for key in keys})

    def _reach(self) -> str:
        firsts = [self._logs.bounds(topic) for topic in (RAZORPAY_WEBHOOKS, TEAM_EVENTS)]
        cut = any(bounds.first for of_topic in firsts for bounds in of_topic.values())
        return ", of which retention has taken the beginning" if cut else ""


def _team_in_key(record: Record) -> str | None:
    return canonical_team_id((record.key or b"").decode("utf-8", "replace"))


def _is_moved(fact: bytes | None) -> bool:
    return _object(fact).get("type") == SubscriptionEvent.MOVED


def _with_note(found: Explanation, said: str, others: Sequence[str]) -> Explanation:
    if not others:
        return found
    return Explanation(found.team_id, found.tier, found.since, found.entries, (*found.notes, f"{said}: {', '.join(others)}."))


def _has_key(keys: Collection[bytes], record: Record) -> bool:
    return record.key in keys


def _narrowed(found: Explanation, wanted: Sequence[bool]) -> Explanation:
    entries = [entry for entry, is_wanted in zip(found.entries, wanted, strict=True) if is_wanted]
    return Explanation(found.team_id, found.tier, found.since, entries, found.notes)


def _subscriptions_of(rows: Iterable[AuditRow]) -> set[str]:
    return {id for row in rows if isinstance(id := _object(row.metadata).get("subscription_id"), str)}


def _subscriptions_on(facts: Iterable[Record]) -> set[str]:
    return {id for record in facts if isinstance(id := _data(record).get("subscription_id"), str)}


def _audit_ids(records: Iterable[Record]) -> set[uuid.UUID]:
    return {id for record in records if (id := parse_uuid(str(_object(record.value).get("id")))) is not None}


def _ids(record: Record) -> tuple[object, ...]:
    head = _object(record.value)
    return head.get("id"), head.get("correlationid"), _data(record).get("event_id")


def _addresses(record: Record) -> set[str]:
    """The addresses that a record of ``audit.events`` or ``team.events`` holds, to be compared and nothing else."""
    data = _data(record)
    contact = data.get("contact")
    found = (data.get("email"), contact.get("email") if isinstance(contact, dict) else None)
    return {address.strip().casefold() for address in found if isinstance(address, str)}


def _data(record: Record) -> dict[str, object]:
    data = _object(record.value).get("data")
    return data if isinstance(data, dict) else {}


def _object(text: bytes | str | None) -> dict[str, object]:
    try:
        found = orjson.loads(text or b"")
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
