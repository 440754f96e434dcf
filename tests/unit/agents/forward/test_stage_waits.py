"""The forward stage: mails that wait on retry topics, and the order of their teams."""

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest

from agents.forward.decide import Policy
from agents.forward.retries import read_retry
from schemas.reasons import Reason
from streams.loops.client import Denied, Refused, Unavailable
from streams.stores.ledger import Entry, LedgerRow, Wait
from tests.forward_doubles import LONG, MIDDLE, SHORT, MemoryRetries, Stage
from tests.stage_doubles import (
    NOW,
    MemoryLedger,
    Record,
    id_of,
    record,
    team,
)
from tests.waiting import eventually


def blocked_by(stage: Stage, mail: Record, times: int = 10**6) -> Record:
    stage.loops.script(mail, *[Denied(403)] * times)
    return mail


async def test_forwarder_mail_that_is_denied_goes_to_the_first_tier_and_the_batch_is_done() -> None:
    stage, other = Stage(retry_seconds=(30.0, 300.0, 3600.0)), record(team=team(1), offset=8)
    mail = blocked_by(stage, record(team=team(0), offset=7))

    assert await stage.handle(mail, other) == Counter({Reason.WAITS: 1, Reason.SENT: 1})

    (written,) = stage.retries.written
    original, retry = read_retry(written)
    assert (written.topic, written.key, written.value) == (SHORT, mail.key, mail.value)
    assert retry is not None
    assert (original.topic, original.partition, original.offset) == ("audit.events", 0, 7)
    assert (retry.round, retry.attempts, retry.first_error, retry.last_error) == (1, 1, "answer 403", "answer 403")
    assert NOW < retry.due <= NOW + timedelta(seconds=30)
    row = stage.ledger.held[id_of(mail)]
    assert (row.classification, row.attempts, row.wait) == ("in_flight", 1, Wait(SHORT, retry.due, 1, 0, 7))
    assert "asha" not in str(written.headers)


async def test_forwarder_record_on_the_retry_topic_is_there_before_the_ledger_says_so() -> None:
    stage = Stage()
    mail = blocked_by(stage, record())

    class Crashed(MemoryRetries):
        async def write(self, *_: object) -> None:
            assert stage.ledger.held[id_of(mail)].wait is None
            raise ConnectionAbortedError

    stage.retries = Crashed()
    with pytest.raises(ConnectionAbortedError):
        await stage.restarted().handle([mail])


async def test_forwarder_mail_that_fails_again_and_again_climbs_the_tiers_and_is_sent_at_last() -> None:
    stage = Stage()
    mail = blocked_by(stage, record(), 5)

    assert await stage.handle(mail) == Counter({Reason.WAITS: 1})
    async with stage.retrying() as outcomes:
        await eventually(lambda: stage.loops.accepted)
        await eventually(lambda: outcomes.total() == 5)

    assert stage.retries.topics == [SHORT, MIDDLE, LONG, LONG, LONG]
    assert outcomes == Counter({Reason.WAITS: 4, Reason.SENT: 1})
    assert stage.ledger.held[id_of(mail)].attempts == 6
    assert stage.ledger.held[id_of(mail)].wait is None


async def test_forwarder_later_mails_of_a_team_wait_behind_the_first_and_go_in_order_when_it_is_settled() -> None:
    stage = Stage(retry_seconds=(0.01, 3600.0, 3600.0))
    mails = [record(team=team(0), offset=offset) for offset in range(5)]
    blocked_by(stage, mails[0], 1)
    other = record(team=team(1), offset=9)

    assert await stage.handle(mails[0], mails[1], other) == Counter({Reason.WAITS: 2, Reason.SENT: 1})
    assert await stage.restarted().handle(mails[2:]) == Counter({Reason.WAITS: 3}), "also after a restart"
    assert len(stage.loops.calls) == 2, "those behind are not even tried"
    assert stage.ledger.held[id_of(mails[4])].attempts == 0

    async with stage.retrying():
        await eventually(lambda: len(stage.loops.accepted) == 6)
    assert stage.loops.accepted == [str(id_of(mail)) for mail in (other, *mails)]


async def test_forwarder_mail_behind_follows_the_first_of_its_team_to_another_tier() -> None:
    stage = Stage(retry_seconds=(0.01, 0.2, 3600.0))
    first, behind = record(team=team(0), offset=0), record(team=team(0), offset=1)
    blocked_by(stage, first, 2)
    await stage.handle(first, behind)

    async with stage.retrying():
        await eventually(lambda: len(stage.loops.accepted) == 2)

    assert stage.loops.accepted == [str(id_of(first)), str(id_of(behind))]


async def test_forwarder_mails_in_different_tiers_after_a_crash_go_in_the_teams_order() -> None:
    stage = Stage(retry_seconds=(0.01, 0.05, 0.05))
    mails = [record(team=team(0), offset=offset) for offset in range(3)]
    blocked_by(stage, mails[0], 1)
    await stage.handle(*mails)
    stage.retries.written.reverse()  # the last that was read comes first

    stage.restarted()
    async with stage.retrying():
        await eventually(lambda: len(stage.loops.accepted) == 3)
    assert stage.loops.accepted == [str(id_of(mail)) for mail in mails]


async def test_forwarder_two_records_of_a_mail_on_retry_topics_are_one_mail() -> None:
    stage = Stage(retry_seconds=(0.01, 0.02, 0.03))
    first, behind = record(team=team(0), offset=0), record(team=team(0), offset=1)
    blocked_by(stage, first, 2)
    await stage.handle(first, behind)
    stage.retries.written += [replace(written, offset=100 + written.offset, topic=LONG) for written in stage.retries.written]

    async with stage.retrying() as outcomes:
        await eventually(lambda: len(stage.loops.accepted) == 2)
        await eventually(lambda: outcomes.total() == len(stage.retries.written))

    assert stage.loops.accepted == [str(id_of(first)), str(id_of(behind))]
    assert outcomes[Reason.SENT] == 2
    assert outcomes[Reason.SUPERSEDED] + outcomes[Reason.ALREADY_FINAL] >= 2


async def test_forwarder_crash_between_the_record_on_the_retry_topic_and_its_row_sends_one_mail_and_keeps_the_order() -> None:
    stage = Stage()
    mails = [record(team=team(0), offset=offset) for offset in range(2)]
    blocked_by(stage, mails[0], 2)

    class Crashing(MemoryLedger):
        async def put(self, entry: Entry) -> LedgerRow | None:
            if entry.wait is not None:
                raise ConnectionAbortedError
            return await super().put(entry)

    stage.ledger = Crashing()
    with pytest.raises(ConnectionAbortedError):
        await stage.restarted().handle(mails)
    assert len(stage.retries.written) == 1

    after = MemoryLedger()
    after.held, stage.ledger = stage.ledger.held, after
    stage.restarted()
    async with stage.retrying():
        await stage.handle(*mails)
        await eventually(lambda: len(stage.loops.accepted) == 2)
    assert stage.loops.accepted == [str(id_of(mail)) for mail in mails]


async def test_forwarder_record_read_again_while_its_mail_waits_is_not_put_there_twice() -> None:
    stage = Stage()
    mail = blocked_by(stage, record())
    await stage.handle(mail)

    assert await stage.restarted().handle([mail]) == Counter({Reason.WAITS: 1})
    assert len(stage.retries.written) == len(stage.loops.calls) == 1


async def test_forwarder_mail_that_waits_until_loops_forgets_its_key_is_in_doubt_and_those_behind_it_go() -> None:
    stage = Stage()
    first, behind = record(team=team(0), offset=0), record(team=team(0), offset=1)
    blocked_by(stage, first)
    await stage.handle(first, behind)
    stage.clock.advance(hours=23, minutes=55)

    async with stage.retrying():
        await eventually(lambda: stage.loops.accepted)
    assert stage.ledger.classification(first) == "in_doubt"
    assert stage.loops.accepted == [str(id_of(behind))], "it was never tried, so its key is new"


async def test_forwarder_switched_off_while_mails_wait_leaves_the_tried_one_in_doubt_and_suppresses_the_others() -> None:
    stage = Stage()
    first, behind = record(team=team(0), offset=0), record(team=team(0), offset=1)
    blocked_by(stage, first)
    await stage.handle(first, behind)
    stage.policy = Policy(sending=False)

    stage.restarted()
    async with stage.retrying():
        await eventually(lambda: stage.ledger.classification(behind) == "suppressed")
        await eventually(lambda: stage.ledger.classification(first) == "in_doubt")
    assert stage.loops.accepted == []


async def test_forwarder_partition_of_a_retry_topic_of_which_as_many_wait_as_may_is_full_and_says_so() -> None:
    stage = Stage(most_waiting=2, retry_seconds=(3600.0, 3600.0, 3600.0))
    mails = [blocked_by(stage, record(team=team(number), offset=number)) for number in range(3)]
    await stage.handle(*mails)
    let_go = asyncio.Event()
    handling = asyncio.create_task(stage.forwarder.handle(stage.retries.written, let_go.set))

    await eventually(lambda: stage.forwarder.full == [(SHORT, 0)])
    assert not let_go.is_set()
    assert stage.forwarder.describe() == "mails that wait for a retry while others go on: 3 of subscription.upgraded (answer 403)"
    handling.cancel()
    await asyncio.gather(handling, return_exceptions=True)
    assert (stage.forwarder.describe(), list(stage.forwarder.full)) == ("", [])


async def test_forwarder_dead_letter_of_a_mail_that_waited_names_its_place_on_audit_events() -> None:
    stage, mail = Stage(), record(offset=7)
    stage.loops.script(mail, Denied(403), Refused(400, "no"))
    await stage.handle(mail)

    async with stage.retrying():
        await eventually(lambda: stage.dead_letters.written)
    ((letter, reason, _),) = stage.dead_letters.written
    assert (letter.topic, letter.offset, list(letter.headers), reason) == ("audit.events", 7, [], Reason.REFUSED)


async def test_forwarder_mail_that_alone_gets_no_answer_does_not_keep_the_next_batch_from_showing_that_others_do() -> None:
    stage = Stage()
    stuck, own, other = record(team=team(0), offset=0), record(team=team(0), offset=1), record(team=team(1), offset=2)
    stage.loops.script(stuck, *[Unavailable("answer 500")] * 10**6)
    let_go = asyncio.Event()
    first = asyncio.create_task(stage.forwarder.handle([stuck], let_go.set))
    await let_go.wait()
    second = asyncio.create_task(stage.forwarder.handle([own, other]))

    assert (await first, await second) == (Counter({Reason.WAITS: 1}), Counter({Reason.SENT: 1, Reason.WAITS: 1}))
    assert stage.loops.accepted == [str(id_of(other))], "its team's next mail is behind it, though its rows were read before it waited"


@pytest.mark.parametrize("steps", range(6))
async def test_forwarder_batch_that_is_given_up_at_any_step_leaves_its_partition_as_if_it_had_not_been(steps: int) -> None:
    stage = Stage(retry_seconds=(3600.0, 3600.0, 3600.0))
    await stage.handle(blocked_by(stage, record()))
    for records in ([record(offset=1)], stage.retries.written):
        given_up = asyncio.create_task(stage.forwarder.handle(records))
        for _ in range(steps):
            await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)

    let_go = asyncio.Event()
    handling = asyncio.create_task(stage.forwarder.handle(stage.retries.written, let_go.set))
    await asyncio.wait_for(let_go.wait(), 10)
    handling.cancel()
    await asyncio.gather(handling, return_exceptions=True)
