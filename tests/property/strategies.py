"""Scenarios of one team, small enough that facts meet: few subscriptions, few plans, few seconds, so that ties, ends, returns,
late arrivals, times that come, and overrides of each other are common and not rare."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from tests.factories import T0, Event, billing, due, imported, service

often = settings(max_examples=5 * settings().max_examples)
"""For the laws that everything rests on: five times the profile's examples."""

SECONDS = st.integers(0, 5)
FRACTIONS = st.sampled_from([0, 0.25, 0.5])
SUBSCRIPTIONS = st.sampled_from(["sub_A", "sub_A", "sub_A", "sub_B", "sub_B", "sub_C"])
PLANS = st.sampled_from(["plan_hobby", "plan_pro", "plan_pro", "plan_pro_yearly", "plan_growth"])
LABELS = st.sampled_from(["free", "hobby", "pro", "team"])
PAYMENTS = st.integers(0, 2)
NAMES = st.integers(0, 10**6)
LATEST = 8
"""No time in any fact lies more than so many seconds after ``T0``."""
TIMES = st.integers(0, LATEST)
REMINDERS = st.sets(st.integers(1, 3), max_size=2)


EVENTS = st.sampled_from(
    [
        *["charged"] * 6,
        *["updated", "paused", "resumed", "pending"] * 3,
        *["activated", "halted", "completed"] * 2,
        *["cancelled", "authenticated", "payment.failed", "moved"],
    ]
)


@st.composite
def _billing(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    event = draw(EVENTS)
    at = draw(SECONDS)
    fields: dict[str, Any] = {
        "event": event,
        "at": at,
        "subscription": draw(SUBSCRIPTIONS),
        "plan": draw(PLANS),
        "paid_count": draw(PAYMENTS),
        "adopt": draw(st.integers(0, 7)) == 0,
    }
    if event == "updated":
        fields["status"] = draw(st.sampled_from(["active", "active", "active", "halted"]))
        fields["has_scheduled_changes"] = draw(st.integers(0, 4)) == 0
    if event == "resumed":
        fields["status"] = draw(st.sampled_from(["active", "active", "active", "paused"]))
    if event in ("halted", "completed", "cancelled", "paused"):  # only a completion and a pause may count later
        fields["current_end"] = draw(st.sampled_from([None, T0 + at - 1, T0 + at, T0 + at + 1, T0 + at + 3]))
    if event in ("pending", "payment.failed"):
        fields |= draw(_grace(at))
    if event in ("halted", "cancelled", "completed", "paused", "pending", "payment.failed", "moved") and draw(st.booleans()):
        fields["plan"] = None
    elif draw(st.integers(0, 9)) == 0:
        fields["tier"] = draw(LABELS)  # the plan means another tier by now
    return "billing", fields


@st.composite
def _grace(draw: st.DrawFn, at: int) -> dict[str, Any]:
    """Return what normalise writes into a failed payment: nothing, or the end of a grace period, and perhaps reminders before it."""
    length = draw(st.sampled_from([None, 0, 1, 2, 3, 3]))  # a length of 0 is no grace
    if length is None:
        return {}
    return {"grace_ends_at": T0 + at + length, "grace_reminders_at": [T0 + at + after for after in sorted(draw(REMINDERS))]}


def _spec(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    return st.tuples(st.just(kind), st.fixed_dictionaries(fields))


MOMENTS = st.builds(lambda seconds, fraction: seconds + fraction, SECONDS, FRACTIONS)
_OVERRIDE = _spec("admin.tier_changed", at=MOMENTS, to=LABELS, admin=st.just("admin-7"))
_CLAIM = _spec("onboarding.claimed", at=MOMENTS, email=st.just("owner@example.com"), tier=st.none() | LABELS)
_IMPORT = _spec("team.imported", at=MOMENTS, tier=LABELS, plan_id=st.none() | PLANS, subscription_id=st.none() | SUBSCRIPTIONS)
_PASSED = _spec("near_quota_wall", at=MOMENTS, resource_type=st.just("seats"), used=st.just(9), limit=st.just(10))
_DUE = _spec("subscription.due", at=TIMES, subscription=SUBSCRIPTIONS)
_SPECS = st.sampled_from([_billing()] * 12 + [_DUE] * 4 + [_OVERRIDE, _OVERRIDE, _CLAIM, _IMPORT, _IMPORT, _PASSED]).flatmap(
    lambda specs: specs
)


@st.composite
def _life(draw: st.DrawFn) -> list[tuple[str, dict[str, Any]]]:
    """Return what a subscription may live through: it is paid for, something begins that ends later, and times come. Without it, hardly
    any stream would hold all of that of one subscription, in this order."""
    subscription, plan, begin = draw(SUBSCRIPTIONS), draw(PLANS), draw(st.integers(1, 3))
    ends = begin + draw(st.integers(2, LATEST - 4))
    event = draw(st.sampled_from(["pending", "pending", "payment.failed", "paused", "completed"]))
    trouble: dict[str, Any] = {"current_end": T0 + ends}
    if event in ("pending", "payment.failed"):
        trouble = {"grace_ends_at": T0 + ends, "grace_reminders_at": [T0 + at for at in range(begin + 1, ends)]}
    common = {"subscription": subscription, "plan": plan}
    times = draw(st.lists(st.integers(begin + 1, ends), min_size=1, max_size=3))
    end = draw(st.sampled_from([None, None, "charged", "resumed", "halted", "moved"]))
    return [
        ("billing", {"event": "charged", "at": draw(st.integers(0, 1)), **common}),
        ("billing", {"event": event, "at": begin, **common, **trouble}),
        *[("subscription.due", {"at": at, "subscription": subscription}) for at in times],
        *([] if end is None else [("billing", {"event": end, "at": draw(st.integers(begin, LATEST)), "status": "active", **common})]),
    ]


def _event(spec: tuple[str, dict[str, Any]], name: str) -> Event:
    kind, fields = spec
    if kind == "billing":
        return billing(**fields, event_id=f"evt_{name}")
    if kind == "subscription.due":
        return due(**fields)  # its id follows from its time: classify makes each once
    if kind == "team.imported":
        return imported(**fields, id=name)
    return service(kind, **fields, id=name)


@st.composite
def facts(draw: st.DrawFn, max_size: int = 14) -> list[Event]:
    """Return different events of one team; their ids say nothing of their order."""
    life = draw(st.just([]) | _life())[: max_size - 1]
    specs = life + draw(st.lists(_SPECS, min_size=1, max_size=max_size - len(life)))
    names = draw(st.permutations(range(len(specs))))
    events = [_event(spec, f"{name:04}") for spec, name in zip(specs, names, strict=True)]
    return list({event["id"]: event for event in events}.values())


@st.composite
def logs_with_conflicts(draw: st.DrawFn, max_size: int = 14) -> list[Event]:
    """Return a log in which services and imports have also given ids out twice, with the same to say at another time, or something else."""
    log = draw(logs(max_size))
    for event in [event for event in log if "event_id" not in event["data"]]:
        other = {**event, "time": draw(st.sampled_from(log))["time"]}
        if draw(st.booleans()):
            kind, fields = draw(st.sampled_from([_OVERRIDE, _CLAIM, _IMPORT, _PASSED]).flatmap(lambda spec: spec))
            other = {**_event((kind, fields), event["id"]), "source": event["source"]}
        log.insert(draw(st.integers(0, len(log))), other)
    return log


@st.composite
def logs(draw: st.DrawFn, max_size: int = 14) -> list[Event]:
    """Return the events of one team as a log may hold them: in any order or nearly in that of their times, some of them more than
    once."""
    events = draw(facts(max_size))
    again = draw(st.lists(st.sampled_from(events), max_size=5))
    log = draw(st.permutations(events + again))
    return sorted(log, key=lambda event: str(event["time"])[:19]) if draw(st.booleans()) else log
