"""Decide what a webhook of Loops says, and which mail of the ledger it is about. Pure.

Loops gives no key of ours back, so a mail is found by its recipient, by when it was sent, and by its kind where the name of the workflow holds it.
Only one mail can be meant, or none is taken: what is left between several is counted as ambiguous.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from agents.audit.record import DeadLetter
from schemas.loops_webhooks import LoopsReport, MalformedReport, read_loops_report
from schemas.reasons import Reason
from schemas.recipients import address_hash
from streams.stores.feedback import AddressFact, Candidate, MailFact, MailFacts, Matched, Report, Unmatched

CLOCK_SKEW = timedelta(seconds=30)
"""Loops gives whole seconds, and its clock is not ours."""

KEY_LIFETIME = timedelta(hours=24)
"""For so long after its first attempt a mail may be accepted whose ledger row does not say when it was."""

SENDING = timedelta(hours=1)
"""From an accepted event to the workflow's mail. A workflow that waits for longer is not matched: name the kind, or do not let it wait."""

DELIVERING = timedelta(days=5)
"""From an accepted event to what a recipient's server says in the end (RFC 5321 has it tried for four to five days); used only as long as nothing has said
when Loops sent the mail."""

MAIL_FACTS: Mapping[str, MailFact] = {
    "loop.email.sent": MailFact.SENT,
    "email.delivered": MailFact.DELIVERED,
    "email.softBounced": MailFact.BOUNCED_SOFT,
    "email.hardBounced": MailFact.BOUNCED_HARD,
    "email.spamReported": MailFact.COMPLAINT,
    "email.unsubscribed": MailFact.UNSUBSCRIBED,
}
ADDRESS_FACTS: Mapping[str, AddressFact] = {
    "email.hardBounced": AddressFact.BOUNCED_HARD,
    "email.spamReported": AddressFact.COMPLAINT,
    "email.unsubscribed": AddressFact.UNSUBSCRIBED,
    "contact.unsubscribed": AddressFact.UNSUBSCRIBED,
    "email.resubscribed": AddressFact.RESUBSCRIBED,
}
"""What events say of an address, whoever sent the mail. ``contact.mailingList.*`` is about one list, and says nothing of the others."""


def read_report(value: bytes | None, webhook_id: str) -> Report | Reason | DeadLetter:
    """Return what a webhook says of a mail or an address, the outcome of one that says nothing of them, or the dead letter. Pure.

    A mail without an id is taken for one of its own, named by ``webhook_id``.
    """
    try:
        report = read_loops_report(value)
    except MalformedReport as error:
        return DeadLetter(Reason.MALFORMED, str(error))
    mail_fact = MAIL_FACTS.get(report.name) if report.is_workflow else None
    address_fact = _address_fact(report)
    if mail_fact is None and address_fact is None:
        return Reason.IGNORED
    if report.email is None:
        return Reason.UNMATCHED
    mail_id = report.mail_id or f"webhook:{webhook_id}"
    return Report(address_hash(report.email), report.at, mail_id, mail_fact, report.kind, address_fact)


def _address_fact(report: LoopsReport) -> AddressFact | None:
    if report.name == "contact.created" and report.is_subscribed:
        return AddressFact.RESUBSCRIBED
    return ADDRESS_FACTS.get(report.name)


def match(mail: MailFacts, candidates: Sequence[Candidate]) -> Matched | Unmatched:
    """Return which of the mails to the same address Loops speaks of, if it can be but one. Pure.

    A workflow may send several mails for one event, so a mail that another report was matched with stays a candidate.
    """
    found = [one for one in candidates if (mail.kind is None or one.kind == mail.kind) and _may_be(mail, one)]
    if len(found) == 1:
        return Matched(found[0].audit_id)
    return Unmatched(Reason.AMBIGUOUS if found else Reason.UNMATCHED)


def _may_be(mail: MailFacts, candidate: Candidate) -> bool:
    accepted_by = candidate.sent_at or candidate.first_attempt_at + KEY_LIFETIME
    latest = accepted_by + (SENDING if mail.is_sent_known else DELIVERING)
    return candidate.first_attempt_at - CLOCK_SKEW <= mail.since <= latest + CLOCK_SKEW
