"""The forward stage: what the forwarder does with a batch."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import pytest
from prometheus_client import REGISTRY

from agents.forward.decide import Policy
from agents.forward.delivery import CONCURRENT_CALLS
from schemas.kinds import Kind
from schemas.loops import LoopsPayload
from schemas.reasons import Reason
from streams.loops.client import AlreadyAccepted, Denied, RateLimited, Refused, Reply, Unavailable, key_rejected
from streams.runtime.waiting import services_away
from streams.stores.ledger import Asked, Classification, Entry, LedgerRow
from tests.forward_doubles import Stage
from tests.stage_doubles import (
    NOW,
    MemoryLedger,
    Record,
    RecordingDeadLetters,
    ScriptedLoops,
    Sleeps,
    id_of,
    record,
    team,
)
from tests.waiting import eventually

DAY = timedelta(hours=24)


def paused() -> float | None:
    return REGISTRY.get_sample_value("tierstream_forward_paused", {"reason": "key_rejected"})


async def test_forwarder_mail_is_sent_under_its_audit_id_and_recorded() -> None:
    stage, mail = Stage(), record(email="asha@example.com")

    assert await stage.handle(mail) == Counter({Reason.SENT: 1})

    assert stage.loops.accepted == [str(id_of(mail))]
    assert [entry.classification for entry in stage.ledger.entries] == [Classification.IN_FLIGHT, Classification.SENT]
    assert {entry.recipient for entry in stage.ledger.entries} == {"a***@example.com"}


async def test_forwarder_every_record_has_exactly_one_outcome() -> None:
    stage, mail = Stage(), record()

    outcomes = await stage.handle(
        mail, mail, record(email=None), record(Kind.CHARGE_UNDELIVERABLE), record("unknown"), Record(None), record(team=None)
    )

    assert outcomes == Counter(
        {
            Reason.SENT: 1,
            Reason.ALREADY_FINAL: 1,
            Reason.NO_RECIPIENT: 1,
            Reason.NEVER_MAILED: 1,
            Reason.UNKNOWN_KIND: 1,
            Reason.MALFORMED: 1,
            Reason.UNKNOWN_TEAM: 1,
        }
    )
    assert len(stage.loops.calls) == 1
    assert len(stage.ledger.held) == 2, "a kind that is never mailed has no row"


async def test_forwarder_batch_read_again_makes_no_call() -> None:
    stage, batch = Stage(), [record(team=team(number)) for number in range(5)]
    await stage.handle(*batch)

    assert await stage.restarted().handle(batch) == Counter({Reason.ALREADY_FINAL: 5})
    assert len(stage.loops.calls) == 5


async def test_forwarder_same_id_under_two_teams_is_one_mail() -> None:
    audit_id = str(uuid.uuid4())
    stage = Stage()

    await stage.handle(record(id=audit_id, team=team(1)), record(id=audit_id, team=team(2)))

    assert len(stage.loops.calls) == 1


async def test_forwarder_switched_off_sends_nothing_and_records_it() -> None:
    stage, mail = Stage(policy=Policy(sending=False)), record()

    assert await stage.handle(mail) == Counter({Reason.SUPPRESSED: 1})
    assert stage.loops.calls == []
    assert stage.ledger.classification(mail) == "suppressed"


async def test_forwarder_already_accepted_key_counts_as_sent_before() -> None:
    stage, mail = Stage(AlreadyAccepted()), record()

    assert await stage.handle(mail) == Counter({Reason.ALREADY_SENT: 1})
    assert stage.ledger.classification(mail) == "already_sent"


async def test_forwarder_refused_mail_is_recorded_and_a_dead_letter() -> None:
    stage, mail = Stage(Refused(400, "Contact a***@example.com not found.")), record()

    assert await stage.handle(mail) == Counter({Reason.REFUSED: 1})
    assert stage.ledger.classification(mail) == "refused"
    assert stage.dead_letters.written == [(mail, Reason.REFUSED, "Loops refuses the event (400: Contact a***@example.com not found.).")]
    assert len(stage.loops.calls) == 1


async def test_forwarder_refusal_is_a_dead_letter_before_the_row_is_final() -> None:
    stage, mail = Stage(Refused(400, "no")), record()

    class Crashed(RecordingDeadLetters):
        async def write(self, *_: object) -> None:
            assert stage.ledger.classification(mail) == "in_flight", "else a crash here would lose the dead letter"
            raise ConnectionAbortedError

    stage.dead_letters = Crashed()
    with pytest.raises(ConnectionAbortedError):
        await stage.restarted().handle([mail])


async def test_forwarder_unavailable_loops_is_tried_again_with_the_same_key() -> None:
    stage, mail = Stage(Unavailable("answer 500"), Unavailable("no answer within 10 s")), record()

    assert await stage.handle(mail) == Counter({Reason.SENT: 1})

    assert {key for key, _ in stage.loops.calls} == {str(id_of(mail))}
    assert stage.ledger.held[id_of(mail)].attempts == 3
    assert [entry.error for entry in stage.ledger.entries] == [None, "answer 500", "no answer within 10 s", None]
    assert len(stage.sleeps.seconds) == 2
    assert stage.limiter.answered == [False, False, True]


async def test_forwarder_rate_limited_call_waits_for_the_limiter_and_not_in_the_ledger() -> None:
    stage, mail = Stage(RateLimited(3.0), RateLimited(None)), record()

    assert await stage.handle(mail) == Counter({Reason.SENT: 1})
    assert stage.limiter.rejections == [3.0, None]
    assert stage.limiter.starts == 3
    assert stage.ledger.held[id_of(mail)].attempts == 1


async def test_forwarder_rejected_key_pauses_it_and_what_waited_is_sent_once_it_works() -> None:
    stage, mails = Stage(), [record(team=team(number)) for number in range(3)]
    for mail in mails:
        stage.loops.script(mail, Denied(401))
    stage.loops.key_error = key_rejected(401)
    handling = asyncio.create_task(stage.handle(*mails))

    await eventually(lambda: services_away(stage.name) == ["loops api key"])
    await eventually(lambda: stage.loops.key_checks > 5)
    assert not handling.done()
    assert paused() == 1.0
    assert {stage.ledger.classification(mail) for mail in mails} == {"in_flight"}
    assert len(stage.loops.calls) <= 3, "a bad key is not tried with mails"

    stage.loops.key_error = None
    assert await handling == Counter({Reason.SENT: 3})
    assert (paused(), services_away(stage.name)) == (0.0, [])
    assert (stage.dead_letters.written, stage.retries.written) == ([], [])


async def test_forwarder_mails_of_a_team_go_out_in_order_whatever_is_retried() -> None:
    mails = [record(team=team(number % 3), offset=number) for number in range(30)]
    stage = Stage()
    for mail in mails[::4]:
        stage.loops.script(mail, Unavailable("answer 500"), Unavailable("answer 500"))

    async with stage.retrying():
        await stage.handle(*mails)
        await eventually(lambda: len(stage.loops.accepted) == 30)

    for number in range(3):
        mine = [str(id_of(mail)) for mail in mails[number::3]]
        assert [key for key in stage.loops.accepted if key in mine] == mine


async def test_forwarder_team_that_waits_for_a_retry_does_not_hold_up_the_others() -> None:
    stuck, others = record(team=team(0)), [record(team=team(number)) for number in range(1, 100)]
    stage = Stage()
    stage.loops.script(stuck, *[Unavailable("answer 500")] * 10**6)
    running = asyncio.create_task(stage.handle(stuck, *others))

    await eventually(lambda: len(stage.loops.accepted) == 99)

    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert stage.ledger.classification(stuck) == "in_flight"


async def test_forwarder_teams_are_served_together_within_a_bound() -> None:
    stage = Stage()

    await stage.handle(*(record(team=team(number)) for number in range(200)))

    assert CONCURRENT_CALLS // 2 < stage.loops.most_under_way <= CONCURRENT_CALLS


async def test_forwarder_loops_away_longer_than_it_remembers_keys_leaves_the_mail_in_doubt() -> None:
    stage, mail = Stage(*[Unavailable("no answer within 10 s")] * 1_000), record()

    class Hours(Sleeps):
        async def __call__(self, seconds: float) -> None:
            stage.clock.advance(hours=1)
            await super().__call__(seconds)

    stage.sleeps = Hours()

    assert await stage.restarted().handle([mail]) == Counter({Reason.IN_DOUBT: 1})
    assert len(stage.loops.calls) == 24, "one now, and one each hour up to the 23rd"
    assert stage.ledger.entries[-1].error == "no answer within 10 s"


@pytest.mark.parametrize("crash_at", ["before the call", "after the call"])
async def test_forwarder_crash_between_ledger_and_outcome_sends_no_second_mail(crash_at: str) -> None:
    stage, mail = Stage(), record()

    class Crashing(ScriptedLoops):
        async def send(self, payload: LoopsPayload, idempotency_key: str) -> Reply:
            if crash_at == "after the call":
                await super().send(payload, idempotency_key)
            raise ConnectionAbortedError

    crashing, stage.loops = stage.loops, Crashing()
    with pytest.raises(ConnectionAbortedError):
        await stage.restarted().handle([mail])
    assert stage.ledger.classification(mail) == "in_flight"

    crashing.accepted = stage.loops.accepted
    stage.loops = crashing
    stage.clock.advance(hours=2)
    outcomes = await stage.restarted().handle([mail])

    assert outcomes == Counter({Reason.ALREADY_SENT if crash_at == "after the call" else Reason.SENT: 1})
    assert stage.loops.accepted.count(str(id_of(mail))) == 1


async def test_forwarder_crash_seen_only_after_a_day_is_held_for_an_operator() -> None:
    stage, mail = Stage(), record()
    stage.ledger.held[id_of(mail)] = LedgerRow(id_of(mail), "in_flight", 1, NOW - timedelta(hours=24))

    assert await stage.handle(mail) == Counter({Reason.IN_DOUBT: 1})
    assert await stage.handle(mail) == Counter({Reason.IN_DOUBT: 1})
    assert stage.loops.calls == []


async def test_forwarder_row_that_another_worker_finished_meanwhile_makes_no_call() -> None:
    stage, mail = Stage(), record()

    class Late(MemoryLedger):
        async def rows(self, mails: Sequence[Asked]) -> dict[uuid.UUID, LedgerRow]:
            found = await super().rows(mails)
            await self.put(Entry(id_of(mail), None, "kind", None, Classification.SENT, NOW))
            return found

    stage.ledger = Late()

    assert await stage.restarted().handle([mail]) == Counter({Reason.ALREADY_FINAL: 1})
    assert stage.loops.calls == []


async def test_forwarder_emits_the_limiter_what_loops_says_of_the_limit() -> None:
    stage = Stage()

    await stage.handle(record())

    assert stage.limiter.observed == [(10.0, 9.0)]
