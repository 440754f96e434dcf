"""Which mails of a team belong together."""

import uuid
from typing import Any

import pytest

from agents.audit.record import AuditRecord
from agents.forward.settle import (
    NO_NET_CHANGE,
    RECOVERED_AT_ONCE,
    Change,
    Mail,
    Suppress,
    net_change,
    settle,
    settles,
    welcome,
    window,
)
from schemas.audit import AuditData
from schemas.kinds import Kind
from tests.stage_doubles import NOW, TEAM

UP, DOWN, CANCELED, ADMIN = Kind.UPGRADED, Kind.DOWNGRADED, Kind.CANCELED, Kind.ADMIN_TIER_CHANGED


def event(kind: Kind, before: str | None = None, after: str | None = None, *, number: int = 1, **metadata: Any) -> AuditRecord:
    tiers = {"from": before, "to": after} if before is not None else {}
    data = AuditData(summary="", metadata={**tiers, **metadata}, created_at=NOW)
    return AuditRecord(uuid.UUID(int=number), kind, uuid.UUID(TEAM), data)


def change(number: int, kind: Kind, before: str | None, after: str | None, *, at: float = 0.0, row: str | None = None) -> Change:
    return Change(event(kind, before, after, number=number), at, row)


@pytest.mark.parametrize(
    ("first", "last", "net"),
    [
        ((UP, "hobby", "pro"), (DOWN, "pro", "hobby_plus"), (UP, "hobby", "hobby_plus")),
        ((UP, "hobby", "pro"), (CANCELED, "pro", "free"), (CANCELED, "hobby", "free")),
        ((CANCELED, "pro", "free"), (UP, "free", "hobby"), (DOWN, "pro", "hobby")),
        ((DOWN, "pro", "hobby"), (DOWN, "hobby", "free"), (DOWN, "pro", "free")),
        ((CANCELED, "anonymous", "free"), (CANCELED, "pro", "hobby"), (UP, "anonymous", "hobby")),
        ((UP, "free", "pro"), (ADMIN, "pro", "team"), (ADMIN, "free", "team")),
        ((ADMIN, "free", "team"), (DOWN, "team", "pro"), (UP, "free", "pro")),
        ((UP, "hobby", "pro"), (DOWN, "pro", "hobby"), None),
        ((UP, "hobby", "pro"), (DOWN, "pro", "hobby_yearly"), None),
    ],
)
def test_net_change_goes_from_the_firsts_to_the_lasts_tier_and_its_kind_fits(first: Any, last: Any, net: Any) -> None:
    found = net_change(event(*first, plan_id="a"), event(*last, number=2, plan_id="b"))

    if net is None:
        assert found is None
        return
    assert found is not None
    assert (found.kind, found.data.metadata["from"], found.data.metadata["to"]) == net
    assert (found.id, found.data.metadata["plan_id"]) == (uuid.UUID(int=2), "b")


def test_settle_lone_change_is_mailed_as_it_is() -> None:
    alone = change(1, UP, "free", "pro")

    assert settle([alone]) == [Mail(alone.event)]


def test_settle_changes_are_one_mail_ahead_of_what_is_suppressed_for_it() -> None:
    group = [change(1, UP, "free", "hobby"), change(2, UP, "hobby", "team"), change(3, DOWN, "team", "pro")]

    mail, *others = settle(group)

    assert mail == Mail(event(UP, "free", "pro", number=3))
    assert others == [Suppress(each.event, f"settled into {uuid.UUID(int=3)}") for each in group[:2]]


def test_settle_changes_that_cancel_each_other_out_are_no_mail() -> None:
    group = [change(1, UP, "free", "pro"), change(2, CANCELED, "pro", "free")]

    assert settle(group) == [Suppress(each.event, NO_NET_CHANGE) for each in group]


def test_settle_mail_that_may_have_gone_out_ends_its_part_of_the_window() -> None:
    group = [
        change(1, UP, "free", "hobby"),
        change(2, UP, "hobby", "team", row="in_flight"),
        change(3, DOWN, "team", "pro"),
        change(4, DOWN, "pro", "free"),
    ]

    assert settle(group) == [
        Mail(event(UP, "free", "team", number=2)),
        Suppress(group[0].event, f"settled into {uuid.UUID(int=2)}"),
        Mail(event(DOWN, "team", "free", number=4)),
        Suppress(group[2].event, f"settled into {uuid.UUID(int=4)}"),
    ]


def test_settle_mail_under_way_is_made_even_if_nothing_is_left_of_the_change() -> None:
    group = [change(1, UP, "free", "pro"), change(2, CANCELED, "pro", "free", row="in_flight")]

    assert settle(group)[0] == Mail(group[1].event)


def test_settle_what_was_suppressed_counts_still_after_a_crash() -> None:
    group = [change(1, UP, "free", "hobby", row="suppressed"), change(2, UP, "hobby", "team")]

    assert settle(group)[0] == Mail(event(UP, "free", "team", number=2))


def test_settle_grace_period_that_recovered_in_the_window_is_no_mail() -> None:
    group = [change(1, Kind.GRACE_STARTED, "pro", "pro"), change(2, Kind.GRACE_RECOVERED, "pro", "pro")]

    assert settle(group) == [Suppress(each.event, RECOVERED_AT_ONCE) for each in group]
    assert settle(group[:1]) == [Mail(group[0].event)]
    sent, reminder = Change(group[0].event, 0.0, "sent"), change(3, Kind.GRACE_REMINDER, "pro", "pro")
    told = [sent, reminder, group[1]]
    assert settle(told) == [Mail(each.event) for each in told], "who heard of it hears that it is over"


def test_window_takes_in_what_follows_of_its_kind_until_its_end() -> None:
    events = [
        change(1, UP, "free", "hobby", at=10.0),
        change(2, Kind.NEAR_QUOTA_WALL, None, None, at=11.0),
        change(3, UP, "hobby", "pro", at=70.0),
        change(4, DOWN, "pro", "hobby", at=70.1),
    ]

    assert window(events, 60.0) == (0, 2)


def test_window_of_a_grace_period_is_that_subscriptions() -> None:
    events = [
        Change(event(Kind.GRACE_STARTED, subscription_id="a"), 0.0),
        Change(event(Kind.GRACE_STARTED, subscription_id="b", number=2), 1.0),
        Change(event(Kind.GRACE_RECOVERED, subscription_id="a", number=3), 2.0),
    ]

    assert window(events, 60.0) == (0, 2)


@pytest.mark.parametrize(
    ("each", "does"),
    [
        (event(UP, "free", "pro"), True),
        (event(ADMIN, "free", "pro"), True),
        (event(Kind.GRACE_STARTED), True),
        (event(Kind.GRACE_RECOVERED), False),
        (event(Kind.CLAIMED), False),
        (event(UP), False),
        (event(UP, "free", "gold"), False),
    ],
)
def test_settles_are_changes_that_name_both_tiers_and_starts_of_grace(each: AuditRecord, does: bool) -> None:
    assert settles(each) is does


def test_welcome_is_given_once() -> None:
    claim, other = event(Kind.CLAIMED), uuid.UUID(int=9)
    team = uuid.UUID(TEAM)

    assert welcome(claim, None, {}) == Mail(claim)
    assert welcome(claim, None, {team: claim.id}) == Mail(claim)
    assert welcome(claim, "in_flight", {team: other}) == Mail(claim), "it was begun, and is ended"
    assert welcome(claim, None, {team: other}) == Suppress(claim, f"the team was welcomed by {other}")
