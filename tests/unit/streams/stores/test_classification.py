"""Which word of the ledger may follow which."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.stores.classification import MATCHABLE, RESOLVABLE, Classification, after_feedback

C = Classification
SAID = (C.SENT, C.DELIVERED, C.BOUNCED_SOFT, C.BOUNCED_HARD, C.COMPLAINT, C.UNSUBSCRIBED)


@pytest.mark.parametrize(
    ("held", "said", "after"),
    [
        (C.SENT, C.SENT, C.SENT),
        (C.ALREADY_SENT, C.SENT, C.ALREADY_SENT),
        (C.SENT, C.DELIVERED, C.DELIVERED),
        (C.ALREADY_SENT, C.BOUNCED_SOFT, C.BOUNCED_SOFT),
        (C.BOUNCED_SOFT, C.DELIVERED, C.DELIVERED),
        (C.DELIVERED, C.BOUNCED_SOFT, C.DELIVERED),
        (C.DELIVERED, C.BOUNCED_HARD, C.BOUNCED_HARD),
        (C.DELIVERED, C.UNSUBSCRIBED, C.UNSUBSCRIBED),
        (C.BOUNCED_HARD, C.UNSUBSCRIBED, C.BOUNCED_HARD),
        (C.UNSUBSCRIBED, C.COMPLAINT, C.COMPLAINT),
        (C.COMPLAINT, C.DELIVERED, C.COMPLAINT),
        (C.IN_DOUBT, C.SENT, C.SENT),
        (C.IN_DOUBT, C.DELIVERED, C.DELIVERED),
    ],
)
def test_feedback_moves_a_mail_that_was_accepted(held: C, said: C, after: C) -> None:
    assert after_feedback(held, [said]) is after


@pytest.mark.parametrize("held", [C.IN_FLIGHT, C.REFUSED, C.NO_RECIPIENT, C.PLACEHOLDER_RECIPIENT, C.EXPIRED, C.SUPPRESSED])
def test_feedback_leaves_a_mail_that_was_not(held: C) -> None:
    assert all(after_feedback(held, order) is held for order in permutations(SAID, 2))


@given(st.sampled_from(C), st.lists(st.sampled_from(SAID)), st.randoms(use_true_random=False))
def test_feedback_ends_the_same_in_any_order_and_any_number_of_times(held: C, said: list[C], random: object) -> None:
    once = after_feedback(held, said)
    again = [*said, *said]
    random.shuffle(again)  # type: ignore[attr-defined]

    one_by_one = held
    for event in again:
        one_by_one = after_feedback(one_by_one, [event])

    assert one_by_one is once
    assert once is not C.IN_FLIGHT or held is C.IN_FLIGHT


def test_what_an_operator_decides_on_is_not_the_forwarders() -> None:
    assert C.IN_FLIGHT not in RESOLVABLE
    assert {one for one in RESOLVABLE if one in MATCHABLE} == {C.IN_DOUBT}
