"""The forward stage: what becomes of a mail, and what the forwarder does with a batch."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import pytest

from agents.audit.record import AuditRecord, read_audit_record
from agents.forward.decide import KEY_LIFETIME, KEY_MARGIN, Close, Decision, Policy, Send, Skip, decide
from agents.forward.stage import CONCURRENT_CALLS, Forwarder
from schemas.kinds import Kind
from schemas.loops import LoopsPayload
from schemas.reasons import Reason
from streams.errors import LoopsKeyRejected
from streams.loops.client import AlreadyAccepted, KeyRejected, RateLimited, Refused, Reply, Unavailable
from streams.stores.ledger import Classification, Entry, LedgerRow
from tests.stage_doubles import (
    NOW,
    Clock,
    MemoryLedger,
    OpenLimiter,
    Record,
    RecordingDeadLetters,
    ScriptedLoops,
    Sleeps,
    id_of,
    impatient,
    record,
    team,
)
from tests.waiting import eventually

DAY = timedelta(hours=24)
POLICY = Policy(sending=True, max_age=DAY)
OFF = Policy(sending=False, max_age=DAY)


def read(consumed: Record) -> AuditRecord:
    found = read_audit_record(consumed.value)
    assert isinstance(found, AuditRecord)
    return found


def held(classification: str, age: timedelta = timedelta(0)) -> LedgerRow:
    return LedgerRow(uuid.UUID(int=1), classification, 1, NOW - age)


class Stage:
    """A forwarder with doubles all round."""

    def __init__(self, *answers: Unavailable | RateLimited | Refused | KeyRejected | AlreadyAccepted, policy: Policy = POLICY) -> None:
        self.ledger = MemoryLedger()
        self.loops = ScriptedLoops(*answers)
        self.limiter = OpenLimiter()
        self.dead_letters = RecordingDeadLetters()
        self.clock = Clock()
        self.sleeps = Sleeps()
        self.policy = policy
        self.forwarder = self.restarted()

    def restarted(self) -> Forwarder:
        """A new forwarder on the same world: what a worker is after a crash."""
        waiting = impatient("loops", self.sleeps)
        self.forwarder = Forwarder(self.ledger, self.loops, self.limiter, self.dead_letters, self.policy, waiting, clock=self.clock)
        return self.forwarder

    async def handle(self, *records: Record) -> Counter[Reason]:
        return await self.forwarder.handle(records)


# decide


def test_decide_new_mail_is_sent() -> None:
    decision = decide(read(record(email="asha@example.com")), None, NOW, POLICY)

    assert isinstance(decision, Send)
    assert (decision.payload.email, decision.payload.event_name) == ("asha@example.com", "subscription.upgraded")


def test_decide_claim_is_greeted_by_name() -> None:
    decision = decide(read(record(Kind.CLAIMED, contact={"email": "asha@example.com", "name": "Asha"}, email=None)), None, NOW, POLICY)

    assert isinstance(decision, Send)
    assert decision.payload.event_properties["name"] == "Asha"


@pytest.mark.parametrize("row", [None, held("sent"), held("in_flight")])
@pytest.mark.parametrize("policy", [POLICY, OFF])
def test_decide_operators_kind_is_never_mailed(row: LedgerRow | None, policy: Policy) -> None:
    assert decide(read(record(Kind.CHARGE_UNDELIVERABLE, team=None)), row, NOW, policy) == Skip(Reason.NEVER_MAILED)


@pytest.mark.parametrize(
    ("email", "decision"),
    [
        (None, Close(Classification.NO_RECIPIENT)),
        ("", Close(Classification.NO_RECIPIENT)),
        ("  ", Close(Classification.NO_RECIPIENT)),
        ("void@razorpay.com", Close(Classification.PLACEHOLDER_RECIPIENT)),
        (" VOID@Razorpay.COM ", Close(Classification.PLACEHOLDER_RECIPIENT)),
    ],
)
def test_decide_without_a_real_recipient_no_call_is_made(email: str | None, decision: Decision) -> None:
    assert decide(read(record(email=email)), None, NOW, POLICY) == decision


@pytest.mark.parametrize(
    ("age", "sent"), [(timedelta(0), True), (DAY, True), (DAY + timedelta(seconds=1), False), (timedelta(days=15), False), (-DAY, True)]
)
def test_decide_fact_older_than_the_maximum_is_expired(age: timedelta, sent: bool) -> None:
    decision = decide(read(record(created_at=NOW - age)), None, NOW, POLICY)

    assert isinstance(decision, Send) if sent else decision == Close(Classification.EXPIRED)


def test_decide_old_fact_that_was_seen_in_time_is_tried_to_the_end() -> None:
    mail = read(record(created_at=NOW - DAY - timedelta(hours=1)))

    assert isinstance(decide(mail, held("in_flight", timedelta(hours=2)), NOW, POLICY), Send)


def test_decide_switched_off_new_mail_is_suppressed() -> None:
    assert decide(read(record()), None, NOW, OFF) == Close(Classification.SUPPRESSED)
    assert decide(read(record()), held("suppressed"), NOW, POLICY) == Skip(Reason.ALREADY_FINAL), "and stays so when it is switched on"
    assert decide(read(record()), held("in_flight"), NOW, OFF) == Close(Classification.IN_DOUBT)


@pytest.mark.parametrize(
    "final", ["sent", "already_sent", "refused", "no_recipient", "placeholder_recipient", "expired", "suppressed", "hard_bounced"]
)
def test_decide_final_row_makes_no_call(final: str) -> None:
    assert decide(read(record()), held(final), NOW, POLICY) == Skip(Reason.ALREADY_FINAL)


def test_decide_row_in_doubt_stays_with_the_operator() -> None:
    assert decide(read(record()), held("in_doubt"), NOW, POLICY) == Skip(Reason.IN_DOUBT)


@pytest.mark.parametrize(
    ("age", "sent"), [(timedelta(0), True), (KEY_LIFETIME - KEY_MARGIN - timedelta(seconds=1), True), (KEY_LIFETIME - KEY_MARGIN, False)]
)
def test_decide_call_that_was_cut_off_is_repeated_while_loops_remembers_its_key(age: timedelta, sent: bool) -> None:
    decision = decide(read(record()), held("in_flight", age), NOW, POLICY)

    assert isinstance(decision, Send) if sent else decision == Close(Classification.IN_DOUBT)


# the forwarder


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
    stage, mail = Stage(policy=OFF), record()

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


async def test_forwarder_rejected_key_stops_it_and_leaves_the_row_in_flight() -> None:
    stage, mails = Stage(), [record(team=team(number)) for number in range(3)]
    for mail in mails:
        stage.loops.script(mail, KeyRejected(401))

    with pytest.raises(LoopsKeyRejected, match=r"^Loops rejects the API key \(401\)"):
        await stage.handle(*mails)

    assert {stage.ledger.classification(mail) for mail in mails} == {"in_flight"}
    assert stage.dead_letters.written == []
    assert len(stage.loops.calls) <= 3, "a bad key is not tried again"


async def test_forwarder_mails_of_a_team_go_out_in_order_whatever_is_retried() -> None:
    mails = [record(team=team(number % 3), offset=number) for number in range(30)]
    stage = Stage()
    for mail in mails[::4]:
        stage.loops.script(mail, Unavailable("answer 500"), Unavailable("answer 500"))

    await stage.handle(*mails)

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
    stage.ledger.held[id_of(mail)] = LedgerRow(id_of(mail), "in_flight", 1, NOW - DAY)

    assert await stage.handle(mail) == Counter({Reason.IN_DOUBT: 1})
    assert await stage.handle(mail) == Counter({Reason.IN_DOUBT: 1})
    assert stage.loops.calls == []


async def test_forwarder_row_that_another_worker_finished_meanwhile_makes_no_call() -> None:
    stage, mail = Stage(), record()

    class Late(MemoryLedger):
        async def rows(self, audit_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, LedgerRow]:
            found = await super().rows(audit_ids)
            await self.put(Entry(id_of(mail), None, "kind", None, Classification.SENT, NOW))
            return found

    stage.ledger = Late()

    assert await stage.restarted().handle([mail]) == Counter({Reason.ALREADY_FINAL: 1})
    assert stage.loops.calls == []


async def test_forwarder_emits_the_limiter_what_loops_says_of_the_limit() -> None:
    stage = Stage()

    await stage.handle(record())

    assert stage.limiter.observed == [(10.0, 9.0)]
