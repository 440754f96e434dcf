"""``tierstream verify`` on a pretended stack: clean when all is right, and one sentence for each thing that is not."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agents.audit import decide as audit
from schemas.kinds import Kind
from schemas.reasons import Reason
from streams.engine.changelog import POSITION_PREFIX
from streams.kafka.dead_letters import REPLAYS
from streams.kafka.records import Record
from streams.operate.actions import operator_event
from streams.operate.verify import Options
from streams.operate.verify.report import SHOWN, Check, Report
from streams.operate.verify.snapshot import Snapshot
from streams.stores.accounts import LedgerLine
from streams.stores.audit_log import AuditRow
from streams.topics import (
    AUDIT_EVENTS,
    CLASSIFY_CHANGELOG,
    DEAD_LETTERS,
    NORMALISE_CHANGELOG,
    RAZORPAY_WEBHOOKS,
    TEAM_EVENTS,
    Topic,
)
from tests.pretended_stack import record as consumed
from tests.verify_doubles import NOW, PRETENDED, SETTINGS, PretendedLogs, PretendedStores, Stack, read_from, verified, written_snapshot
from tests.verify_falsifications import (
    FALSIFICATIONS,
    added,
    another_row,
    another_tier,
    changed_row,
    doubled_row,
    is_mailed,
    is_parked,
    last_row,
    lost_mail,
    lost_row,
    position_rolled_back,
    topic_made_anew,
    unreadable_event,
    wrong_total,
)


def words(report: Report) -> str:
    return "\n".join(report.differences())


def check(report: Report, name: str) -> Check:
    (found,) = [each for each in report.checks if each.name == name]
    return found


def test_verify_a_stack_that_did_everything_right_is_clean_and_has_compared_everything() -> None:
    report = verified(read_from(PRETENDED), Options(orders=10, seed=1))

    assert report.clean, words(report)
    assert report.notes == []
    compared = {each.name: each.compared for each in report.checks}
    topics = {name: len(records) for name, records in PRETENDED.log.topics.items()}
    assert compared == {
        "positions": len({(r.partition, r.key) for name in (NORMALISE_CHANGELOG.name, CLASSIFY_CHANGELOG.name) for r in positions(name)}),
        "normalise: outcomes": topics["razorpay.webhooks"],
        "classify: outcomes": topics["team.events"],
        "normalise: table": 15,
        "classify: table": 15,
        "due records": 4,
        "tier.current": 15,
        "team.events": PRETENDED.counted["normalise"][Reason.NORMALISED] + 1,  # one webhook concerned two teams
        "audit.events": topics["audit.events"],
        "audit_log": len(PRETENDED.rows),
        "forwarder_sent": len(PRETENDED.ledger),
        "dead.letters": topics["dead.letters"],
        "orders": 150,
    }
    assert not any(each.pending or +each.unchecked for each in report.checks)


def positions(changelog: str) -> list[Record]:
    return [record for record in PRETENDED.log.topics[changelog] if (record.key or b"").startswith(POSITION_PREFIX)]


# Falsifications: each gives its sentence, and no other.


@pytest.mark.parametrize("name", FALSIFICATIONS)
def test_verify_says_in_one_sentence_what_differs(name: str) -> None:
    falsify, of, sentence = FALSIFICATIONS[name]
    stack = read_from(PRETENDED)
    falsify(stack)

    report = verified(stack)

    assert not report.clean
    (only,) = report.differences()
    assert re.fullmatch(sentence, only), only
    assert check(report, of).differing == 1


def test_verify_mail_of_a_net_change_may_have_another_direction_than_its_event() -> None:
    stack = read_from(PRETENDED)
    lines, id = stack[1].lines, last_row(stack)
    assert lines[id].kind == Kind.UPGRADED
    lines[id] = lines[id]._replace(kind=Kind.DOWNGRADED.value)

    assert verified(stack).clean


def test_verify_an_unreadable_audit_event_that_nobody_parked_is_reported_for_both_its_readers() -> None:
    stack = read_from(PRETENDED)
    unreadable_event(stack)

    found = sorted(verified(stack).differences())

    assert [line.rpartition(", which ")[2] for line in found] == ["audit parks.", "forward parks."]


def test_verify_a_topic_that_was_made_anew_is_reported_for_each_partition_and_nothing_else_is() -> None:
    stack = read_from(PRETENDED)
    topic_made_anew(stack)

    report = verified(stack)

    assert all("was deleted and made anew" in line for line in report.differences())
    assert check(report, "positions").differing == len({record.partition for record in PRETENDED.log.topics["team.events"]})
    assert report.notes == []


def test_report_emits_the_first_differences_of_each_sort_and_counts_the_rest() -> None:
    report = Report()
    made = report.check("rows", "all are there")
    for number in range(SHOWN + 5):
        made.differs("missing", f"{number} is missing.")
    made.differs("changed", "One is changed.")

    assert report.differences() == [
        *(f"{number} is missing." for number in range(SHOWN)),
        "… and 5 more like this (missing).",
        "One is changed.",
    ]
    assert made.differing == SHOWN + 6


# What is no difference


def test_verify_what_is_not_worked_in_yet_is_pending_and_no_difference() -> None:
    logs, stores = read_from(PRETENDED)
    (event, *_) = [record for record in logs.topics[TEAM_EVENTS.name] if b"tierstream/ingest" in (record.value or b"")]
    end = logs.bounds(TEAM_EVENTS)[event.partition].end
    logs.topics[TEAM_EVENTS.name].append(replace(event, offset=end))
    logs.offsets["audit", "audit.events"] = {}
    logs.offsets["forward", "audit.events"] = {}
    (open_, doubtful, *others) = [id for id in stores.lines if stores.rows[id].kind == Kind.UPGRADED]
    stores.lines = {open_: stores.lines[open_]._replace(classification="in_flight")}
    stores.lines[doubtful] = LedgerLine(doubtful, Kind.UPGRADED.value, "in_doubt")
    del stores.rows[others[0]]

    report = verified((logs, stores))

    assert report.clean, words(report)
    assert check(report, "classify: outcomes").pending == {"not worked in yet": 1}
    assert check(report, "audit_log").pending == {"not audited yet": 1}
    assert check(report, "forwarder_sent").pending == {"in flight": 1, "in doubt": 1, "not forwarded yet": len(PRETENDED.ledger) - 2}


def test_verify_what_loops_reported_of_a_mail_accounts_for_it_as_well() -> None:
    logs, stores = read_from(PRETENDED)
    reported = ("delivered", "bounced_soft", "bounced_hard", "complaint", "unsubscribed")
    for id, classification in zip(list(stores.lines), reported, strict=False):
        stores.lines[id] = stores.lines[id]._replace(classification=classification)

    assert verified((logs, stores)).clean


def test_verify_of_a_stack_that_has_received_nothing_is_clean() -> None:
    report = verified((PretendedLogs({}, SETTINGS.partitions), PretendedStores({}, {})))

    assert report.clean
    assert sum(each.compared for each in report.checks) == 0


@pytest.mark.parametrize(("stage", "lose"), [("audit", lost_row), ("forward", lost_mail)])
def test_verify_what_a_stage_gave_up_is_explained_by_its_dead_letter(stage: str, lose: Callable[[Stack], None]) -> None:
    logs, stores = read_from(PRETENDED)
    id = last_row((logs, stores))
    (event, *_) = [record for record in logs.topics[AUDIT_EVENTS.name] if str(id).encode() in (record.value or b"")]
    lose((logs, stores))
    headers = [("dlq-stage", stage.encode()), ("dlq-topic", b"audit.events"), ("dlq-partition", b"%d" % event.partition)]
    headers.append(("dlq-offset", b"%d" % event.offset))
    logs.topics[DEAD_LETTERS.name].append(consumed(DEAD_LETTERS.name, event.key, event.value, headers, offset=99))

    assert verified((logs, stores)).clean


def test_verify_a_dead_letter_that_was_replayed_is_beside_the_account() -> None:
    logs, stores = read_from(PRETENDED)
    (event, *_) = [record for record in logs.topics[AUDIT_EVENTS.name] if is_mailed(record)]
    added(logs, AUDIT_EVENTS, event, headers=[(REPLAYS, b"1")])

    assert verified((logs, stores)).clean


def test_verify_what_an_operator_did_needs_its_row_and_no_decision() -> None:
    logs, stores = read_from(PRETENDED)
    made = operator_event(
        SETTINGS, Kind.OPERATOR_REPLAYED, "x:0:1#1", team_id=None, summary="Replayed", because="it was wrong", by="asha", at=NOW, details={}
    )
    offset = logs.bounds(AUDIT_EVENTS)[0].end
    logs.topics[AUDIT_EVENTS.name].append(
        consumed(AUDIT_EVENTS.name, made.key, made.value, made.headers, partition=0, offset=offset, timestamp=int(NOW * 1000))
    )
    logs.commit_all()
    row = audit.decide(made.value)
    assert isinstance(row, AuditRow)

    assert words(verified((logs, stores))) == f"audit_log lacks the row {row.id} (operator.replayed)."
    stores.rows[row.id] = row
    assert words(verified((logs, stores))) == ""


def test_verify_while_the_stack_works_on_finds_nothing_but_what_is_pending() -> None:
    """The whole scenario arrives while classify's first partitions are being verified."""
    complete, stores = read_from(PRETENDED)
    growing = PretendedLogs({name: [] for name in complete.topics}, SETTINGS.partitions)
    moments = iter((0.3, 0.6, 0.8, 1.0))

    def work_on(topic: Topic, partition: int) -> None:
        if topic is CLASSIFY_CHANGELOG and partition % 2 == 0 and (upto := next(moments, None)) is not None:
            grow(growing, complete, upto)

    growing.on_read = work_on
    grow(growing, complete, 0.2)

    report = verified((growing, stores))

    assert report.clean, words(report)
    assert any(each.pending for each in report.checks)


def grow(growing: PretendedLogs, complete: PretendedLogs, share: float) -> None:
    """Let the topics hold what they held when this share of the webhooks had come. Every record has a time of its own, and what
    follows from a webhook comes before the next."""
    starts = sorted(record.timestamp for record in complete.topics[RAZORPAY_WEBHOOKS.name])
    until = starts[int(len(starts) * share)] if share < 1 else float("inf")
    for name, records in complete.topics.items():
        growing.topics[name] = [record for record in records if record.timestamp < until]


# A log that is shorter than the history


def test_verify_a_log_that_begins_late_says_so_in_one_sentence_and_checks_the_rest() -> None:
    stack = read_from(PRETENDED)
    stack[0].delete_all(RAZORPAY_WEBHOOKS)

    report = verified(stack)

    assert report.clean, words(report)
    (note,) = report.notes
    assert "razorpay.webhooks no longer reaches back" in note
    assert "normalise (6 of 8 partitions) could not be decided again" in note
    assert "give a snapshot" in note
    assert check(report, "classify: outcomes").compared == len(PRETENDED.log.topics["team.events"])
    lost_row(stack)
    assert len(verified(stack).differences()) == 1
    doubled_row(stack)
    assert len(verified(stack).differences()) == 2  # all but normalise's own kind must be explained by classify


def test_verify_everything_deleted_and_no_snapshot_is_clean_but_hardly_checked() -> None:
    stack = read_from(PRETENDED)
    stack[0].delete_all(RAZORPAY_WEBHOOKS, TEAM_EVENTS, AUDIT_EVENTS, DEAD_LETTERS)

    report = verified(stack)

    assert report.clean, words(report)
    assert len(report.notes) == 1
    assert check(report, "audit_log").unchecked == {"decided before the replay begins": len(PRETENDED.rows)}
    assert check(report, "tier.current").compared == 15
    another_tier(stack)
    assert check(verified(stack), "tier.current").differing == 1


def test_verify_everything_deleted_is_checked_from_a_snapshot(tmp_path: Path) -> None:
    stack = read_from(PRETENDED)
    assert written_snapshot(stack, tmp_path / "taken").clean
    stack[0].delete_all(RAZORPAY_WEBHOOKS, TEAM_EVENTS, AUDIT_EVENTS, DEAD_LETTERS)

    with Snapshot(tmp_path / "taken") as snapshot:
        report = verified(stack, Options(snapshot=snapshot))

        assert report.clean, words(report)
        assert report.notes == []
        for falsify, sentence in ((lost_row, "lacks the row"), (changed_row, "other content"), (doubled_row, "no audit event explains"),
                                  (lost_mail, "forwarder_sent lacks"), (another_row, "another row"), (another_tier, "tier.current has"),
                                  (wrong_total, "classify counted"), (position_rolled_back, "behind")):  # fmt: skip
            falsified = read_from(PRETENDED)
            falsified[0].deleted = stack[0].deleted
            falsify(falsified)
            (only,) = verified(falsified, Options(snapshot=snapshot)).differences()
            assert sentence in only


def test_verify_from_a_snapshot_in_mid_scenario_decides_the_rest_again(tmp_path: Path) -> None:
    complete, stores = read_from(PRETENDED)
    early = PretendedLogs({name: [] for name in complete.topics}, SETTINGS.partitions)
    grow(early, complete, 0.5)
    early.offsets = {}  # nothing is audited yet: all of it is pending, and stays expected
    assert written_snapshot((early, PretendedStores({}, {})), tmp_path / "early").clean
    for topic in (RAZORPAY_WEBHOOKS, TEAM_EVENTS, AUDIT_EVENTS, DEAD_LETTERS):
        for number, bounds in early.bounds(topic).items():
            complete.deleted[topic.name, number] = bounds.end

    with Snapshot(tmp_path / "early") as snapshot:
        report = verified((complete, stores), Options(snapshot=snapshot, orders=3))

        assert report.clean, words(report)
        assert report.notes == []
        assert 0 < check(report, "classify: outcomes").compared < len(PRETENDED.log.topics["team.events"])
        assert written_snapshot((complete, stores), tmp_path / "late", snapshot).clean
        for id in list(stores.rows):
            row = stores.rows.pop(id)
            (only,) = verified((complete, stores), Options(snapshot=snapshot)).differences()
            assert str(id) in only
            stores.rows[id] = row
    with Snapshot(tmp_path / "late") as snapshot:
        assert verified((complete, stores), Options(snapshot=snapshot)).clean


def test_verify_of_an_input_that_was_deleted_beyond_the_snapshot_asks_for_a_newer_one(tmp_path: Path) -> None:
    complete, stores = read_from(PRETENDED)
    early = PretendedLogs({name: [] for name in complete.topics}, SETTINGS.partitions)
    grow(early, complete, 0.5)
    written_snapshot((early, PretendedStores({}, {})), tmp_path / "early")
    complete.delete_all(TEAM_EVENTS)

    with Snapshot(tmp_path / "early") as snapshot:
        report = verified((complete, stores), Options(snapshot=snapshot))

    assert report.clean, words(report)
    assert "the snapshot is older than that" in report.notes[0]


def test_verify_an_event_that_retention_took_before_it_was_audited_and_forwarded_is_missed() -> None:
    """The groups have nothing before them any more, and go on without a word."""
    stack = read_from(PRETENDED)
    id = last_row(stack)
    lost_mail(stack)
    lost_row(stack)
    stack[0].delete_all(AUDIT_EVENTS)

    assert sorted(verified(stack).differences()) == [
        f"audit_log lacks the row {id} (subscription.upgraded).",
        f"forwarder_sent lacks {id} (subscription.upgraded).",
    ]


@pytest.mark.parametrize("topic", [AUDIT_EVENTS, DEAD_LETTERS])
def test_verify_outputs_that_retention_took_are_reported_from_those_that_are_lost(topic: Topic) -> None:
    """Of one lane the older outputs are deleted; one that is missing behind the oldest that is left is lost."""
    logs, stores = read_from(PRETENDED)
    records = logs.topics[topic.name]
    ours = [record for record in records if topic is AUDIT_EVENTS or is_parked(record)]
    (partition, count), *_ = Counter(record.partition for record in ours).most_common(1)
    lane = sorted((record for record in ours if record.partition == partition), key=lambda record: record.offset)
    logs.deleted[topic.name, partition] = lane[0].offset + 1

    assert verified((logs, stores)).clean
    if count >= 3:
        records.remove(lane[2])
        assert not verified((logs, stores)).clean
