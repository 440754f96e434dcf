"""Everything that can be wrong with a stack that did everything right, each with the one sentence that reports it."""

import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import orjson

from agents.classify.outputs import due_record
from agents.classify.packing import unpack
from schemas.kinds import Kind
from schemas.reasons import Reason
from schemas.team_events import SubscriptionEvent
from streams.engine.changelog import POSITION_PREFIX, decode_position, encode_position, position_key
from streams.kafka.records import Record
from streams.stores.accounts import LedgerLine
from streams.topics import (
    AUDIT_EVENTS,
    CLASSIFY_CHANGELOG,
    DEAD_LETTERS,
    NORMALISE_CHANGELOG,
    RAZORPAY_WEBHOOKS,
    TEAM_EVENTS,
    TIER_CURRENT,
    Topic,
)
from tests.pretended_stack import record as consumed
from tests.verify_doubles import PretendedLogs, Stack


def without(logs: PretendedLogs, topic: Topic, found: Callable[[Record], bool]) -> Record:
    """Take the last record that fits out of a topic."""
    taken = [record for record in logs.topics[topic.name] if found(record)][-1]
    logs.topics[topic.name].remove(taken)
    return taken


def added(logs: PretendedLogs, topic: Topic, like: Record, **changes: object) -> None:
    """Put a record that is like another, but for ``changes``, in the place before it (a place that a marker could have)."""
    records = logs.topics[topic.name]
    records.insert(records.index(like), replace(like, **changes))


def changed(logs: PretendedLogs, topic: Topic, found: Callable[[Record], bool], change: Callable[[bytes], bytes]) -> None:
    records = logs.topics[topic.name]
    (index, *_) = [index for index, record in reversed(list(enumerate(records))) if found(record)]
    records[index] = replace(records[index], value=change(records[index].value or b""))


def is_mailed(record: Record) -> bool:
    return Kind.UPGRADED.value.encode() in (record.value or b"")


def is_row(record: Record) -> bool:
    return not (record.key or b"").startswith(POSITION_PREFIX)


def is_position(record: Record) -> bool:
    return not is_row(record)


def is_parked(record: Record) -> bool:
    return ("dlq-stage", b"gateway") not in record.headers


def last_row(stack: Stack) -> uuid.UUID:
    return [row.id for row in stack[1].rows.values() if row.kind == Kind.UPGRADED][-1]


def lost_row(stack: Stack) -> None:
    del stack[1].rows[last_row(stack)]


def doubled_row(stack: Stack) -> None:
    rows = stack[1].rows
    other = uuid.UUID(int=7)
    rows[other] = rows[last_row(stack)]._replace(id=other)


def row_of_nobody(stack: Stack) -> None:
    rows = stack[1].rows
    other = uuid.UUID(int=7)
    rows[other] = rows[last_row(stack)]._replace(id=other, kind="something.else")


def changed_row(stack: Stack) -> None:
    rows, id = stack[1].rows, last_row(stack)
    rows[id] = rows[id]._replace(metadata=rows[id].metadata.replace('"to"', '"To"'))


def lost_mail(stack: Stack) -> None:
    del stack[1].lines[last_row(stack)]


def mail_of_nothing(stack: Stack) -> None:
    lines = stack[1].lines
    lines[uuid.UUID(int=7)] = lines[last_row(stack)]._replace(audit_id=uuid.UUID(int=7))


def mail_of_another_kind(stack: Stack) -> None:
    lines, id = stack[1].lines, last_row(stack)
    lines[id] = lines[id]._replace(kind=Kind.NEAR_QUOTA_WALL.value)


def mail_of_what_is_never_mailed(stack: Stack) -> None:
    (row, *_) = [row for row in stack[1].rows.values() if row.kind == Kind.CHARGE_UNDELIVERABLE]
    stack[1].lines[row.id] = LedgerLine(row.id, row.kind, "sent")


def refused_without_a_dead_letter(stack: Stack) -> None:
    lines, id = stack[1].lines, last_row(stack)
    lines[id] = lines[id]._replace(classification="refused")


def another_tier(stack: Stack) -> None:
    newest = {record.key: record for record in stack[0].topics[TIER_CURRENT.name]}
    (pro, *_) = [record for record in newest.values() if b'"tier":"pro"' in (record.value or b"")]
    changed(stack[0], TIER_CURRENT, lambda record: record is pro, lambda value: value.replace(b'"pro"', b'"growth"'))


def lost_tier(stack: Stack) -> None:
    logs, records = stack[0], stack[0].topics[TIER_CURRENT.name]
    logs.topics[TIER_CURRENT.name] = [record for record in records if record.key != records[0].key]


def tier_of_nobody(stack: Stack) -> None:
    added(stack[0], TIER_CURRENT, stack[0].topics[TIER_CURRENT.name][0], key=str(uuid.UUID(int=7)).encode())


def another_row(stack: Stack) -> None:
    rows = [record for record in stack[0].topics[CLASSIFY_CHANGELOG.name] if is_row(record)]
    changed(stack[0], CLASSIFY_CHANGELOG, is_row, lambda value: next(r.value for r in rows if r.value != value) or b"")


def lost_table_row(stack: Stack) -> None:
    logs, records = stack[0], stack[0].topics[NORMALISE_CHANGELOG.name]
    (first, *_) = [record for record in records if is_row(record)]
    logs.topics[NORMALISE_CHANGELOG.name] = [record for record in records if record.key != first.key]


def row_of_no_event(stack: Stack) -> None:
    (first, *_) = [record for record in stack[0].topics[NORMALISE_CHANGELOG.name] if is_row(record)]
    added(stack[0], NORMALISE_CHANGELOG, first, key=b"sub_of_nobody")


def miscounted(reason: Reason, other: Reason) -> Callable[[bytes], bytes]:
    def change(value: bytes) -> bytes:
        position = decode_position(value)
        counts = Counter(position.outcomes)
        counts[reason] -= 1
        counts[other] += 1
        return encode_position(type(position)(position.topic_id, position.next_offset, dict(counts)))

    return change


def counts(reason: Reason) -> Callable[[Record], bool]:
    return lambda record: is_position(record) and reason.value in decode_position(record.value or b"").outcomes


def wrong_reason(stack: Stack) -> None:
    changed(stack[0], CLASSIFY_CHANGELOG, counts(Reason.RENEWAL), miscounted(Reason.RENEWAL, Reason.STALE))


def wrong_total(stack: Stack) -> None:
    def one_more(value: bytes) -> bytes:
        position = decode_position(value)
        return encode_position(position.advanced(position.next_offset, Counter([Reason.STALE])))

    changed(stack[0], CLASSIFY_CHANGELOG, is_position, one_more)


def position_rolled_back(stack: Stack) -> None:
    """The newest position row of a partition is an earlier one: the log lost the others."""
    records = stack[0].topics[CLASSIFY_CHANGELOG.name]
    last = [record for record in records if is_position(record)][-1]
    earlier = [r for r in records if is_position(r) and r.partition == last.partition and r is not last]
    without(stack[0], CLASSIFY_CHANGELOG, lambda record: record is last)
    assert earlier


def positions_lost(stack: Stack) -> None:
    records = stack[0].topics[CLASSIFY_CHANGELOG.name]
    (first, *_) = [record for record in records if is_position(record)]
    stack[0].topics[CLASSIFY_CHANGELOG.name] = [r for r in records if (r.key, r.partition) != (first.key, first.partition)]


def topic_made_anew(stack: Stack) -> None:
    stack[0].ids[TEAM_EVENTS.name] = "another"


def lost_event(stack: Stack) -> None:
    without(stack[0], AUDIT_EVENTS, is_mailed)


def changed_event(stack: Stack) -> None:
    changed(stack[0], AUDIT_EVENTS, is_mailed, lambda value: value.replace(b"asha@", b"someone@").replace(b'"contact"', b'"Contact"'))


def doubled_event(stack: Stack) -> None:
    (event, *_) = [record for record in stack[0].topics[AUDIT_EVENTS.name] if is_mailed(record)]
    added(stack[0], AUDIT_EVENTS, event)


def lost_fact(stack: Stack) -> None:
    """normalise counted a webhook that came again and wrote no fact: classify never saw one, as if its log had never held it."""
    logs = stack[0]
    webhooks = logs.topics[RAZORPAY_WEBHOOKS.name]
    (webhook, *_) = [record for record in webhooks if b"subscription.pending" in (record.value or b"")]
    at = webhooks.index(webhook)
    changelog = [
        record for record in logs.topics[NORMALISE_CHANGELOG.name] if record.partition == webhook.partition and is_position(record)
    ]
    last = changelog[-1]
    position = decode_position(last.value or b"").advanced(decode_position(last.value or b"").next_offset + 1, Counter([Reason.NORMALISED]))
    offset = position.next_offset - 1
    webhooks.insert(at + 1, replace(webhook, offset=offset, timestamp=last.timestamp + 1))
    webhooks.sort(key=lambda record: (record.partition, record.offset))
    key = position_key(RAZORPAY_WEBHOOKS.name)
    logs.topics[NORMALISE_CHANGELOG.name].append(
        consumed(NORMALISE_CHANGELOG.name, key, encode_position(position), partition=last.partition)
    )


def is_due(record: Record) -> bool:
    return SubscriptionEvent.DUE.value.encode() in (record.value or b"")


def changed_due_record(stack: Stack) -> None:
    """It says the same in other bytes: whoever produced it, it was not classify."""
    changed(stack[0], TEAM_EVENTS, is_due, lambda value: value.replace(b"{", b"{ ", 1))


def early_due_record(stack: Stack) -> None:
    """It stands two minutes before the time that it says has come."""
    records = stack[0].topics[TEAM_EVENTS.name]
    (due, *_) = [record for record in records if is_due(record)]
    at = int(orjson.loads(due.value or b"")["data"]["occurred_at"])
    records[records.index(due)] = replace(due, timestamp=(at - 120) * 1000)


def invented_due_record(stack: Stack) -> None:
    """It is about a subscription that has ended, so that classify makes nothing of it, and has counted it."""
    logs = stack[0]
    rows = {record.key: record for record in logs.topics[CLASSIFY_CHANGELOG.name] if is_row(record)}
    (row, *_) = [record for record in rows.values() if unpack(record.value or b"").ended]
    (subscription_id, *_) = unpack(row.value or b"").ended
    value = due_record((row.key or b"").decode(), subscription_id, "plan_hobby", PAST, None)
    last = [record for record in logs.topics[TEAM_EVENTS.name] if record.partition == row.partition][-1]
    position = [record for record in logs.topics[CLASSIFY_CHANGELOG.name] if record.partition == row.partition and is_position(record)][-1]
    logs.topics[TEAM_EVENTS.name].append(replace(last, key=row.key, value=value, offset=last.offset + 1))
    counted = decode_position(position.value or b"").advanced(last.offset + 2, Counter([Reason.NOT_DUE]))
    logs.topics[CLASSIFY_CHANGELOG.name].append(replace(position, value=encode_position(counted), offset=position.offset + 1))
    logs.commit_all()


def lost_dead_letter(stack: Stack) -> None:
    without(stack[0], DEAD_LETTERS, is_parked)


def doubled_dead_letter(stack: Stack) -> None:
    (dead_letter, *_) = [record for record in stack[0].topics[DEAD_LETTERS.name] if is_parked(record)]
    added(stack[0], DEAD_LETTERS, dead_letter)


def dead_letter_of(stack: Stack, **headers: bytes) -> None:
    (dead_letter, *_) = [record for record in stack[0].topics[DEAD_LETTERS.name] if is_parked(record)]
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    added(stack[0], DEAD_LETTERS, dead_letter, headers=[*({**dict(dead_letter.headers), **named}.items())])


def dead_letter_of_what_is_not_parked(stack: Stack) -> None:
    (event, *_) = stack[0].topics[TEAM_EVENTS.name]
    dead_letter_of(
        stack, dlq_stage=b"classify", dlq_topic=b"team.events", dlq_partition=b"%d" % event.partition, dlq_offset=b"%d" % event.offset
    )


def dead_letter_of_another_topic(stack: Stack) -> None:
    dead_letter_of(stack, dlq_stage=b"classify", dlq_topic=b"razorpay.webhooks")


def dead_letter_without_an_origin(stack: Stack) -> None:
    dead_letter_of(stack, dlq_offset=b"somewhere")


def unreadable_event(stack: Stack) -> None:
    """Nobody parked it."""
    records = stack[0].topics[AUDIT_EVENTS.name]
    partition = records[0].partition
    offset = max(record.offset for record in records if record.partition == partition) + 1
    records.append(consumed(AUDIT_EVENTS.name, b"poison", b"no JSON", partition=partition, offset=offset))
    stack[0].commit_all()


PAST = 1_700_000_000
"""Unix seconds before the scenario begins."""

ID = r"[0-9a-f-]{36}"
PLACE = r"[a-z.]+, partition \d, offset \d+"

FALSIFICATIONS: dict[str, tuple[Callable[[Stack], None], str, str]] = {
    "a lost row": (lost_row, "audit_log", rf"audit_log lacks the row {ID} \(subscription\.upgraded\)\."),
    "a row doubled under another id": (doubled_row, "audit_log", rf"audit_log holds the row {ID} \(subscription\.upgraded\), which no audit event explains\."),
    "a row of another kind": (row_of_nobody, "audit_log", rf"audit_log holds the row {ID} \(unknown kind\), which no audit event explains\."),
    "a changed row": (changed_row, "audit_log", rf"audit_log holds the row {ID} \(subscription\.upgraded\) with other content than its audit event\."),
    "a lost mail": (lost_mail, "forwarder_sent", rf"forwarder_sent lacks {ID} \(subscription\.upgraded\)\."),
    "a mail of nothing": (mail_of_nothing, "forwarder_sent", rf"forwarder_sent holds {ID} \(subscription\.upgraded\), which no audit event explains\."),
    "a mail of another kind": (mail_of_another_kind, "forwarder_sent", rf"forwarder_sent holds {ID} as near_quota_wall, and it is subscription\.upgraded\."),
    "a mail of what is never mailed": (mail_of_what_is_never_mailed, "forwarder_sent", rf"forwarder_sent holds {ID} \(billing\.charge_undeliverable\), of a kind that is never mailed\."),
    "a refusal without its letter": (refused_without_a_dead_letter, "dead.letters", rf"dead\.letters lacks the mail {ID} \(subscription\.upgraded\), which Loops refused\."),
    "another tier": (another_tier, "tier.current", rf"tier\.current has team {ID} on growth by sub_\w+, and its row is on pro by sub_\w+\."),
    "a lost tier": (lost_tier, "tier.current", rf"tier\.current lacks team {ID}, which is on \w+\."),
    "a tier of nobody": (tier_of_nobody, "tier.current", rf"tier\.current holds team {ID}, of which there is no row\."),
    "another row of the table": (another_row, "classify: table", rf"tierstream\.classify-teams-changelog, partition \d, holds another row of {ID} than a replay gives\."),
    "a lost row of the table": (lost_table_row, "normalise: table", r"tierstream\.normalise-links-changelog, partition \d, lacks the row of sub_\w+\."),
    "a row of no event": (row_of_no_event, "normalise: table", r"tierstream\.normalise-links-changelog, partition \d, holds a row of sub_of_nobody, which no event explains\."),
    "a wrong reason": (wrong_reason, "classify: outcomes", r"classify counted of team\.events, partition \d: renewal \d+ \(a replay: \d+\), stale \d+ \(a replay: \d+\)\."),
    "a wrong total": (wrong_total, "classify: outcomes", r"classify counted \d+ outcomes of team\.events, partition \d, which holds \d+ records up to there\."),
    "a position rolled back": (position_rolled_back, "positions", r"The table's position \d+ for team\.events, partition \d, is behind the \d+ that its group has read: .*"),
    "a lost position": (positions_lost, "positions", r"The table has no position for team\.events, partition \d, yet its group has read up to \d+: .*"),
    "a lost audit event": (lost_event, "audit.events", rf"audit\.events lacks {ID}, which classify decides from {PLACE}\."),
    "a changed audit event": (changed_event, "audit.events", rf"{ID} stands with other content \({PLACE}\) than classify decides from {PLACE}\."),
    "a doubled audit event": (doubled_event, "audit.events", rf"audit\.events holds {ID} 2 times instead of 1 \({PLACE}\)\."),
    "a lost fact": (lost_fact, "team.events", rf"team\.events lacks {ID}, which normalise decides from razorpay\.webhooks, partition \d, offset \d+\."),
    "a changed due record": (changed_due_record, "due records", rf"{PLACE}, is a due record of other content than classify produces\."),
    "an early due record": (early_due_record, "due records", rf"{PLACE}, says that a time has come 120 s before it came\."),
    "an invented due record": (invented_due_record, "due records", rf"{PLACE}, says that a time has come that the row of its team never waited for\."),
    "a lost dead letter": (lost_dead_letter, "dead.letters", rf"dead\.letters lacks {PLACE}, which normalise parks\."),
    "a doubled dead letter": (doubled_dead_letter, "dead.letters", rf"dead\.letters holds {PLACE} of normalise 2 times\."),
    "a dead letter of what is not parked": (dead_letter_of_what_is_not_parked, "dead.letters", rf"dead\.letters holds {PLACE}, which classify does not park\."),
    "a dead letter of another topic": (dead_letter_of_another_topic, "dead.letters", rf"dead\.letters holds {PLACE}, which classify does not read\."),
    "a dead letter without an origin": (dead_letter_without_an_origin, "dead.letters", r"dead\.letters, partition \d, offset \d+, does not say whose it is\."),
}  # fmt: skip
