"""What an outcome means, in words for people: why something happened, or did not. Pure."""

from typing import Final

from schemas.reasons import Reason
from streams.operate.explain.entries import NOT_KNOWN, PENDING, Closing, Entry
from streams.stores.ledger import Classification

_OUTCOMES: Final[dict[str, str]] = {
    PENDING: "Not decided on yet: the stage has not come to this record.",
    NOT_KNOWN: "What became of it is not known: nothing is recorded, and the log does not reach back far enough to decide it again.",
    Reason.UPGRADED: "The plan in force gives a higher tier than before.",
    Reason.DOWNGRADED: "The plan in force gives a lower tier than before.",
    Reason.CANCELED: "The subscription ended, and no other one is in force.",
    Reason.CLAIMED: "The team was claimed.",
    Reason.ADMIN_CHANGED: "An admin set the tier by hand.",
    Reason.PASSED_THROUGH: "A service reported it; it changes no tier.",
    Reason.ENDED: "The subscription is over, so there was nothing to pay for.",
    Reason.PAUSED: "The subscription is paused, and gives no tier meanwhile.",
    Reason.MOVED: "The subscription belongs to another team from then on.",
    Reason.GRACE_STARTED: "A payment failed; the tier stays until the grace period is over.",
    Reason.GRACE_REMINDER: "The payment is still due; the tier stays until the grace period is over.",
    Reason.GRACE_RECOVERED: "The payment was made good within the grace period.",
    Reason.GRACE_TERMINATED: "The payment was not made good within the grace period.",
    Reason.RENEWAL: "A renewal of the plan that is in force: the tier stays as it was.",
    Reason.SUPERSEDED: "Another subscription of the team is newer, and says what the tier is.",
    Reason.SCHEDULED: "A change that comes later: nothing happens until then.",
    Reason.NOT_ACTIVE: "The subscription is not active, so its plan is not in force.",
    Reason.NOT_STARTED: "Nothing has been paid yet, so nothing begins or ends.",
    Reason.ENDS_LATER: "It is paid up to a later time, and ends then.",
    Reason.PAUSES_LATER: "It is paid up to a later time, and pauses then.",
    Reason.NOT_DUE: "A newer fact says that nothing is due any more.",
    Reason.ALREADY_ENDED: "The subscription had ended already: the team was told then.",
    Reason.PAYMENT_TROUBLE: "A payment failed, which alone changes nothing.",
    Reason.DUPLICATE: "The same event came before, so this one changed nothing.",
    Reason.STALE: "A newer fact was known already, so this one changed nothing.",
    Reason.IMPORTED: "A tier that was known from elsewhere: no audit row, no mail.",
    Reason.ADOPTED: "A subscription from before tierstream: taken over without audit row or mail.",
    Reason.NORMALISED: "Its team and its plan's tier were found.",
    Reason.IGNORED: "An event of a kind that concerns no tier.",
    Reason.MALFORMED: "The record can not be read.",
    Reason.UNKNOWN_TEAM: "Nothing says which team the subscription belongs to.",
    Reason.UNKNOWN_PLAN: "The plan is not in the plan file.",
    Reason.UNKNOWN_TIER: "The tier is none that tierstream knows.",
    Reason.UNKNOWN_KIND: "The event's type is none that tierstream knows.",
    Reason.FUTURE_TIME: "The event's time lies in the future.",
    Reason.ID_CONFLICT: "The id of an earlier event, with other content: the first one counts.",
    Reason.TOO_LARGE: "What follows from it is larger than Kafka takes.",
    Reason.HANDLER_FAILED: "The stage failed on it.",
}

_MAILS: Final[dict[str, str]] = {
    PENDING: "no mail yet: forward has not come to it",
    Classification.IN_FLIGHT: "not settled: a call is under way, or the mail is held and tried again",
    Classification.SENT: "Loops accepted it",
    Classification.ALREADY_SENT: "Loops had accepted it before",
    Classification.REFUSED: "Loops refuses it for good",
    Classification.NO_RECIPIENT: "not sent: the team has no contact",
    Classification.PLACEHOLDER_RECIPIENT: "not sent: the only address is Razorpay's placeholder",
    Classification.EXPIRED: "held: the fact was too old when its mail was first seen",
    Classification.SUPPRESSED: "suppressed: not sent",
    Classification.IN_DOUBT: "in doubt: it may have gone out or not, and nobody sends it again",
    Classification.DELIVERED: "Loops accepted it, and it was delivered",
    Classification.BOUNCED_SOFT: "Loops accepted it, and the recipient's server refused it for now",
    Classification.BOUNCED_HARD: "Loops accepted it, and the recipient's server refused it for good",
    Classification.COMPLAINT: "it was delivered, and reported as spam",
    Classification.UNSUBSCRIBED: "it was delivered, and the recipient unsubscribed by it",
}


def reasoning(entry: Entry) -> str:
    """Return why it ended so, in sentences: also what an operator did with its dead letter."""
    if entry.stage == "operate":
        said, more = entry.summary or "An operator did it.", entry.error and f"Because: {entry.error}"
    else:
        said = _OUTCOMES.get(entry.outcome, f"The outcome is {entry.outcome}.")
        more = entry.error
    return " ".join(_sentence(text) for text in (said, more, *map(_closing, entry.closings)) if text)


def _closing(closing: Closing) -> str:
    by = f" by {closing.by}" if closing.by else ""
    because = f": {closing.because}" if closing.because else ""
    return f"{closing.action.capitalize()} at {closing.at}{by}{because}"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def mail_words(entry: Entry) -> str | None:
    """Return what became of the mail, or None where the event is of a kind without one."""
    delivery, mail = entry.delivery, entry.mail
    if delivery is None:
        return None
    words = _MAILS.get(delivery, delivery)
    if mail is None:
        return words
    said = [words, f"to {mail.recipient}" if mail.recipient else "", f"{mail.attempts} attempt{'s' if mail.attempts != 1 else ''}"]
    said += [f"{name} {moment:%Y-%m-%d %H:%M:%SZ}" for name, moment in (("sent", mail.sent_at), ("delivered", mail.delivered_at)) if moment]
    if mail.last_error:
        said.append(f"last error: {mail.last_error}")
    return ", ".join(part for part in said if part)
