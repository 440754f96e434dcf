"""What tierstream knows of subscriptions: the rows of normalise (whose they are) and of classify (what became of them), from the changelogs.

These are what decides. ``tier.current`` names only the subscription that governs, and neither its plan nor whether it is in force.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from agents.classify.packing import unpack as unpack_team
from agents.classify.registers import Row
from agents.normalise.rows import unpack as unpack_subscription
from streams.operate.logs import Logs
from streams.topics import CLASSIFY_CHANGELOG, NORMALISE_CHANGELOG, RAZORPAY_WEBHOOKS, TEAM_EVENTS, Topic


@dataclass(frozen=True, slots=True)
class Undecided:
    """Records that a stage has not worked in yet."""

    webhooks: int
    team_events: int


def undecided(logs: Logs) -> Undecided:
    """Count what waits before normalise and classify. Raises KafkaUnavailable."""
    return Undecided(_behind(logs, "normalise", RAZORPAY_WEBHOOKS), _behind(logs, "classify", TEAM_EVENTS))


def _behind(logs: Logs, stage: str, topic: Topic) -> int:
    committed = logs.committed(stage, topic)
    # Counted one by one, for the ends of transactions take offsets too.
    return sum(
        sum(1 for _ in logs.read(topic, number, max(bounds.first, committed.get(number, 0)), bounds.end))
        for number, bounds in logs.bounds(topic).items()
    )


def owners(logs: Logs, subscriptions: Collection[str]) -> dict[str, str]:
    """Return whose each of these subscriptions is, as far as earlier webhooks and imports say. Raises KafkaUnavailable."""
    wanted = {subscription_id.encode() for subscription_id in subscriptions}
    found: dict[str, str] = {}
    for key, packed in _newest(logs, NORMALISE_CHANGELOG, wanted).items():
        ownership = unpack_subscription(packed).ownership
        team_id = ownership.claims[-1].team_id if ownership.claims else ownership.learned
        if team_id is not None:
            found[key.decode()] = team_id
    return found


def teams(logs: Logs, team_ids: Collection[str]) -> dict[str, Row]:
    """Return the rows of these teams. Raises KafkaUnavailable."""
    wanted = {team_id.encode() for team_id in team_ids}
    return {key.decode(): unpack_team(packed) for key, packed in _newest(logs, CLASSIFY_CHANGELOG, wanted).items()}


def _newest(logs: Logs, changelog: Topic, wanted: Collection[bytes]) -> Mapping[bytes, bytes]:
    rows: dict[bytes, bytes] = {}
    for partition, bounds in logs.bounds(changelog).items():
        for record in logs.read(changelog, partition, bounds.first, bounds.end):
            if record.key not in wanted:
                continue
            if record.value:
                rows[record.key] = record.value
            else:
                rows.pop(record.key, None)
    return rows
