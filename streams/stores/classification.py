"""What the ledger says of a mail, and which word may follow which. Pure.

| held | who may change it, and into what |
| --- | --- |
| nothing | the forwarder: any of its own |
| ``in_flight`` | the forwarder alone: any of its own that is final, or ``in_doubt`` |
| ``in_doubt`` | feedback: any of its own, for then Loops has sent it; an operator |
| ``sent``, ``already_sent`` | feedback: any of its own |
| one of feedback's | feedback: one further up in ``_RANK`` |
| ``refused``, ``expired`` | an operator |
| ``no_recipient``, ``placeholder_recipient``, ``suppressed`` | nobody |

What feedback says is a join: the order in which it comes and how often it comes make no difference.
"""

from collections.abc import Iterable
from enum import StrEnum


class Classification(StrEnum):
    """What the ledger says of a mail. Whatever is not IN_FLIGHT or IN_DOUBT is final for the forwarder."""

    IN_FLIGHT = "in_flight"
    """A call is under way, or a worker died in it, or an operator has asked for one."""
    SENT = "sent"
    ALREADY_SENT = "already_sent"
    REFUSED = "refused"
    NO_RECIPIENT = "no_recipient"
    PLACEHOLDER_RECIPIENT = "placeholder_recipient"
    EXPIRED = "expired"
    SUPPRESSED = "suppressed"
    IN_DOUBT = "in_doubt"
    """A call may have been accepted, and Loops has forgotten its key by now: an operator decides, nobody sends."""
    DELIVERED = "delivered"
    BOUNCED_SOFT = "bounced_soft"
    BOUNCED_HARD = "bounced_hard"
    COMPLAINT = "complaint"
    UNSUBSCRIBED = "unsubscribed"


_RANK: dict[Classification, int] = {
    Classification.IN_DOUBT: 0,
    Classification.SENT: 1,
    Classification.ALREADY_SENT: 1,
    Classification.BOUNCED_SOFT: 2,  # Loops tries again: a delivery may follow
    Classification.DELIVERED: 3,
    Classification.UNSUBSCRIBED: 4,
    Classification.BOUNCED_HARD: 5,  # also after a delivery: the recipient's own server may send it back later
    Classification.COMPLAINT: 6,
}
"""The rows that feedback may be about, in the order in which it may take them. What is not here was never with Loops, or is still
being called for."""

MATCHABLE = frozenset(_RANK) | {Classification.IN_FLIGHT}
"""A mail of which feedback may speak. One that is in flight is waited for."""

RESOLVABLE = frozenset({Classification.IN_DOUBT, Classification.REFUSED, Classification.EXPIRED})
"""A mail of which an operator may decide what becomes of it: SENT, SUPPRESSED, or IN_FLIGHT once more."""


def after_feedback(held: Classification, said: Iterable[Classification]) -> Classification:
    """Return what the ledger says of a mail once feedback has ``said`` these things of it. In any order, any number of times.

    A row that is in flight stays so, and so does one that was never with Loops.
    """
    if held not in _RANK:
        return held
    return max((held, *(one for one in said if one in _RANK)), key=lambda one: (_RANK[one], one == held))
