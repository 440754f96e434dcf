"""The feedback stage's handler: outcomes, dead letters, and reports that wait for the answer to their mail."""

import asyncio
import uuid
from collections import Counter

from agents.feedback.stage import FeedbackHandler
from schemas.reasons import Reason
from streams.errors import RowRejected
from streams.stores.feedback import InFlight, Matched, Noted, Report, Unmatched
from tests.feedback_factories import landed, webhook
from tests.stage_doubles import RecordingDeadLetters, Sleeps

ID = uuid.UUID(int=1)


class ScriptedStore:
    """Answers in turn, the last answer for ever."""

    def __init__(self, *answers: Noted | RowRejected) -> None:
        self.answers = list(answers)
        self.noted: list[Report] = []

    async def note(self, report: Report) -> Noted:
        self.noted.append(report)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, RowRejected):
            raise answer
        return answer


def handler(*answers: Noted | RowRejected) -> tuple[FeedbackHandler, ScriptedStore, RecordingDeadLetters]:
    store, dead_letters = ScriptedStore(*answers), RecordingDeadLetters()
    return FeedbackHandler(store, dead_letters, sleep=Sleeps()), store, dead_letters


async def test_each_webhook_has_one_outcome() -> None:
    feedback, store, dead_letters = handler(Matched(ID), Unmatched(Reason.AMBIGUOUS), Unmatched(Reason.UNMATCHED), None)
    batch = [*(webhook("email.delivered") for _ in range(3)), webhook("email.resubscribed"), webhook("email.opened"), landed(b"[]")]

    outcomes = await feedback.handle(batch)

    assert outcomes == Counter([Reason.MATCHED, Reason.AMBIGUOUS, Reason.UNMATCHED, Reason.ADDRESS_NOTED, Reason.IGNORED, Reason.MALFORMED])
    assert len(store.noted) == 4
    assert dead_letters.reasons == [Reason.MALFORMED]
    assert feedback.progress == 6


async def test_report_that_postgresql_refuses_is_a_dead_letter() -> None:
    feedback, _, dead_letters = handler(RowRejected("PostgreSQL refuses the row."))

    assert await feedback.handle([webhook("email.delivered")]) == Counter([Reason.REJECTED])
    assert dead_letters.reasons == [Reason.REJECTED]


async def test_report_on_a_mail_in_flight_waits_beside_the_others() -> None:
    feedback, store, _ = handler(InFlight(ID), Matched(ID))
    let_go = asyncio.Event()

    outcomes = await feedback.handle([webhook("email.delivered"), webhook("email.delivered")], let_go.set)

    assert let_go.is_set()
    assert outcomes == Counter({Reason.MATCHED: 2})
    assert len(store.noted) == 3
    assert feedback.describe() == ""


async def test_report_that_waits_says_so_and_ends_with_its_worker() -> None:
    feedback, _, _ = handler(InFlight(ID))
    let_go = asyncio.Event()
    handling = asyncio.create_task(feedback.handle([webhook("email.delivered")], let_go.set))

    await let_go.wait()
    assert feedback.describe() == "reports on mails that are in flight still: 1"

    handling.cancel()
    await asyncio.wait({handling})
    assert feedback.describe() == ""
