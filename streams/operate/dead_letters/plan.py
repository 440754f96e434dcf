"""What a command does with the dead letters that it is about, and in which order. Pure."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from schemas.reasons import Reason
from streams.operate.dead_letters.letters import Action, DeadLetter, Place
from streams.topics import (
    AUDIT_EVENTS,
    FORWARD_RETRY_1H,
    FORWARD_RETRY_5M,
    FORWARD_RETRY_30S,
    LOOPS_WEBHOOKS,
    RAZORPAY_WEBHOOKS,
    SUBSCRIPTION_LINKS,
    TEAM_EVENTS,
    Topic,
)

SOURCES: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        RAZORPAY_WEBHOOKS,
        SUBSCRIPTION_LINKS,
        TEAM_EVENTS,
        AUDIT_EVENTS,
        LOOPS_WEBHOOKS,
        FORWARD_RETRY_30S,
        FORWARD_RETRY_5M,
        FORWARD_RETRY_1H,
    )
}
"""Topics that a record is produced to again, by name: those that stages read."""


@dataclass(frozen=True, slots=True)
class Item:
    """A dead letter to be acted on, without its record. ``source`` is where its record was read; ``also`` are the identities of other dead
    letters of the same record; ``count`` is how many of all these the command is about."""

    place: Place
    identity: str
    source: Place
    also: tuple[str, ...] = ()
    count: int = 1


@dataclass
class Plan:
    """What a command does: ``items`` in order, and what is left alone, with the reason in a sentence.

    ``matched`` counts dead letters by the reason for which they were parked.
    """

    matched: Counter[str] = field(default_factory=Counter)
    quarantined: int = 0
    items: list[Item] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)

    @property
    def to_do(self) -> int:
        """How many dead letters the items close."""
        return sum(item.count for item in self.items)


def obstacle(letter: DeadLetter) -> str | None:
    """Return why a dead letter can not be replayed, in a sentence that says what to do instead; None when it can."""
    if letter.stage == "gateway" or letter.origin is None:
        return "What the gateway refused was never on a topic, so it can not be replayed: have the sender send it again, and discard it."
    if letter.origin.topic not in SOURCES:
        return f"Records of {letter.origin.topic[:100]} can not be replayed, for no stage reads that topic: discard them."
    if letter.stage == "forward" and letter.reason == Reason.REFUSED:
        return "A mail that Loops refused has its final row, so a replay would change nothing: see `tierstream deliveries resolve`."
    if letter.left_out:
        return (
            "A record too large for dead.letters stands there without its value, so it can not be replayed: take it from where it was read."
        )
    return None


def make_plan(
    letters: Iterable[DeadLetter],
    matches: Callable[[DeadLetter], bool],
    action: Action,
    *,
    quarantined: bool = False,
    limit: int | None = None,
) -> Plan:
    """Return what to do with those of the open ``letters`` that match, ``limit`` records at most.

    ``quarantined`` replays also what was replayed too often. One record may have dead letters of two stages, for audit and forward read the
    same topic: it is replayed once, and that closes both.
    """
    plan = Plan()
    by_source: dict[Place, Item] = {}
    others: dict[Place, list[str]] = {}
    for letter in letters:
        is_wanted, why_not = matches(letter), obstacle(letter) if action is Action.REPLAYED else None
        plan.matched[letter.reason] += is_wanted
        source = letter.origin or letter.place
        if action is Action.DISCARDED:
            if is_wanted:
                plan.items.append(Item(letter.place, letter.identity, source))
        elif why_not is not None:
            plan.left[why_not] += is_wanted
        elif is_wanted and letter.is_quarantined and not quarantined:
            plan.quarantined += 1
        elif is_wanted and source not in by_source:
            by_source[source] = Item(letter.place, letter.identity, source)
        elif is_wanted or source.topic == AUDIT_EVENTS.name:
            others.setdefault(source, []).append(letter.identity)
            if is_wanted:
                by_source[source] = replace(by_source[source], count=by_source[source].count + 1)
    plan.matched, plan.left = +plan.matched, +plan.left
    plan.items += (replace(item, also=tuple(others.get(source, ()))) for source, item in by_source.items())
    plan.items.sort(key=lambda item: (item.place.partition, item.source))
    if limit is not None and len(plan.items) > limit:
        beyond = plan.items[limit:]
        del plan.items[limit:]
        plan.left["More than --max matched: run the same command again for the rest."] += sum(item.count for item in beyond)
    return plan


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Yield ``items`` in their order, at most ``size`` at a time, each time of one partition of ``dead.letters``."""
    for _, of_partition in groupby(items, lambda item: item.place.partition):
        together = list(of_partition)
        for start in range(0, len(together), size):
            yield together[start : start + size]
