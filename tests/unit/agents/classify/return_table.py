"""The lines of the decision table about runs, pauses, moves, coming ends and grace periods, as cases (``docs/classification.md``)."""

from schemas.kinds import Kind
from schemas.reasons import Reason
from tests.factories import T0, Event, billing, override
from tests.unit.agents.classify.decision_table import B, Case, cancelled, charged, completed, halted, updated

DAY = 86_400


def paused(at: int, until: int | None = None, subscription: str = "sub_A") -> Event:
    return billing("paused", at, subscription, status="paused", current_end=None if until is None else T0 + until)


def resumed(at: int, plan: str = "plan_pro", subscription: str = "sub_A") -> Event:
    return billing("resumed", at, subscription, plan, status="active")


def moved(at: int, subscription: str = "sub_A") -> Event:
    return billing("moved", at, subscription)


def due(at: int, subscription: str = "sub_A") -> Event:
    return billing("due", at, subscription, time_source="due", paid_count=0)


def pending(at: int, subscription: str = "sub_A", event: str = "pending", email: str | None = None) -> Event:
    """A failed payment with a grace of ten seconds, and reminders after three and six."""
    reminders = [T0 + at + 3, T0 + at + 6]
    return billing(event, at, subscription, grace_ends_at=T0 + at + 10, grace_reminders_at=reminders, email=email)


RETURNS = [
    # a return to a former plan, or from a halt, begins a new run: later than an override made in between
    Case(
        "back on a former plan after an override",
        [charged(0, "plan_hobby"), override(3, "team"), charged(5, "plan_pro")],
        charged(9, "plan_hobby"),
        Reason.DOWNGRADED,
        "pro > hobby",
    ),
    Case(
        "charged again after a halt and an override",
        [charged(0), halted(5), override(7, "hobby_plus")],
        charged(9, paid_count=2),
        Reason.UPGRADED,
        "hobby_plus > pro",
    ),
    Case(
        "a late fact that splits a run shows that the override is older",
        [charged(0), override(3, "team"), charged(9, paid_count=2)],
        charged(5, "plan_growth", paid_count=2),
        Reason.DOWNGRADED,
        "team > pro",
    ),
    Case(
        "renewal of the run that the override is later than",
        [charged(0), charged(2, "plan_hobby"), charged(4), override(6, "team")],
        charged(9, paid_count=2),
        Reason.SUPERSEDED,
        "team > team",
    ),
    Case("a charge of the middle of a run again", [charged(0), charged(3), charged(9)], charged(3), Reason.DUPLICATE, "pro > pro"),
]

PAUSES = [
    Case("paused, paid up to later", [charged(0)], paused(5, 30), Reason.PAUSES_LATER, "pro > pro"),
    Case("paused, and its time comes", [charged(0), paused(5, 30)], due(30), Reason.PAUSED, "pro > hobby", Kind.DOWNGRADED),
    Case("paused, without a time", [charged(0)], paused(5), Reason.PAUSED, "pro > hobby", Kind.DOWNGRADED),
    Case("paused, its time in the past", [charged(0)], paused(5, 4), Reason.PAUSED, "pro > hobby", Kind.DOWNGRADED),
    Case("paused on hobby", [charged(0, "plan_hobby")], paused(5), Reason.PAUSED, "hobby > hobby"),
    Case(
        "paused beside another",
        [charged(0, "plan_hobby", B), charged(1)],
        paused(5),
        Reason.PAUSED,
        "pro > hobby",
        Kind.DOWNGRADED,
    ),
    Case("paused beside a newer one", [charged(0), charged(1, "plan_team", B)], paused(5), Reason.SUPERSEDED, "team > team"),
    Case("paused beside another on a higher plan", [charged(0, "plan_team", B), charged(1)], paused(5), Reason.UPGRADED, "pro > team"),
    Case("paused twice", [charged(0), paused(5, 30)], paused(5, 30), Reason.DUPLICATE, "pro > pro"),
    Case("paused, older than its charge", [charged(9)], paused(5, 30), Reason.STALE, "pro > pro"),
    Case("paused while halted", [charged(0), halted(5)], paused(9), Reason.ALREADY_ENDED, "hobby > hobby"),
    Case("paused, never seen", [], paused(5, 30), Reason.NOT_STARTED, "free > free"),
    Case("paused after its end", [charged(0), cancelled(5)], paused(9), Reason.ALREADY_ENDED, "hobby > hobby"),
    Case("paused, older than its end", [charged(0), cancelled(5)], paused(3), Reason.STALE, "hobby > hobby"),
    Case("resumed after it fell", [charged(0), paused(5)], resumed(9), Reason.UPGRADED, "hobby > pro"),
    Case("resumed before it fell", [charged(0), paused(5, 30)], resumed(9), Reason.RENEWAL, "pro > pro"),
    Case(
        "resumed before it fell, an override in between",
        [charged(0), paused(5, 30), override(7, "team")],
        resumed(9),
        Reason.DOWNGRADED,
        "team > pro",
    ),
    Case("its time comes after it resumed", [charged(0), paused(5, 30), resumed(9)], due(30), Reason.NOT_DUE, "pro > pro"),
    Case("its time comes twice", [charged(0), paused(5, 30), due(30)], due(30), Reason.DUPLICATE, "hobby > hobby"),
    Case("its time comes after its end", [charged(0), paused(5, 30), cancelled(9)], due(30), Reason.NOT_DUE, "hobby > hobby"),
    Case("halted while paused", [charged(0), paused(5, 30)], halted(9), Reason.CANCELED, "pro > hobby"),
    Case("cancelled while paused", [charged(0), paused(5, 30)], cancelled(9), Reason.CANCELED, "pro > hobby"),
    Case("cancelled after the pause fell", [charged(0), paused(5)], cancelled(9), Reason.ALREADY_ENDED, "hobby > hobby"),
    Case(
        "the override outlives the pause",
        [charged(0), override(7, "team")],
        paused(5),
        Reason.PAUSED,
        "team > team",
    ),
]

COMING_ENDS = [
    Case("completed, and its end comes", [charged(0), completed(5, ends_at=30)], due(30), Reason.CANCELED, "pro > hobby"),
    Case(
        "its end comes beside another",
        [charged(0, "plan_hobby", B), charged(1), completed(5, ends_at=30)],
        due(30),
        Reason.DOWNGRADED,
        "pro > hobby",
    ),
    Case(
        "its end comes, a newer one governs",
        [charged(0), charged(1, "plan_team", B), completed(5, ends_at=30)],
        due(30),
        Reason.SUPERSEDED,
        "team > team",
    ),
    Case("a time before its end comes", [charged(0), completed(5, ends_at=30)], due(20), Reason.NOT_DUE, "pro > pro"),
    Case(
        "cancelled after its end came",
        [charged(0), completed(5, ends_at=30), due(30)],
        cancelled(40),
        Reason.ALREADY_ENDED,
        "hobby > hobby",
    ),
    Case(
        "charged after its end came",
        [charged(0), completed(5, ends_at=30), due(30)],
        charged(40),
        Reason.ENDED,
        "hobby > hobby",
        Kind.CHARGE_UNDELIVERABLE,
    ),
    Case(
        "updated after its end came",
        [charged(0), completed(5, ends_at=30), due(30)],
        updated(40, "plan_team"),
        Reason.ENDED,
        "hobby > hobby",
    ),
    Case(
        "completed again after its end came",
        [charged(0), completed(5, ends_at=30), due(30)],
        completed(40, 90),
        Reason.ALREADY_ENDED,
        "hobby > hobby",
    ),
    Case("late charge after its end came", [charged(0), completed(5, ends_at=30), due(30)], charged(3), Reason.STALE, "hobby > hobby"),
]

NEVER_BEGUN = [
    Case("cancelled, never seen, never paid", [], cancelled(9, paid_count=0), Reason.NOT_STARTED, "free > free"),
    Case("halted, never seen, never paid", [], halted(9, paid_count=0), Reason.NOT_STARTED, "free > free"),
    Case(
        "an abandoned checkout leaves the override",
        [override(0, "pro")],
        cancelled(9, paid_count=0),
        Reason.NOT_STARTED,
        "pro > pro",
    ),
    Case(
        "its late start shows that it was an end",
        [override(0, "pro"), cancelled(9, paid_count=0)],
        updated(5, "plan_team"),
        Reason.DOWNGRADED,
        "pro > hobby",
    ),
    Case("abandoned twice", [cancelled(9, paid_count=0)], cancelled(9, paid_count=0), Reason.DUPLICATE, "free > free"),
]

MOVES = [
    Case("moved to another team", [charged(0)], moved(9), Reason.MOVED, "pro > hobby", Kind.CANCELED),
    Case("moved, another is left", [charged(0, "plan_hobby", B), charged(1)], moved(9), Reason.MOVED, "pro > hobby", Kind.DOWNGRADED),
    Case("moved, a newer one governs", [charged(0), charged(1, "plan_team", B)], moved(9), Reason.SUPERSEDED, "team > team"),
    Case("moved, its charge comes late", [moved(9)], charged(0), Reason.UPGRADED, "free > hobby"),
    Case("moved twice", [charged(0), moved(9)], moved(9), Reason.DUPLICATE, "hobby > hobby"),
    Case("moved, never seen", [], moved(9), Reason.NOT_STARTED, "free > free"),
    Case("moved after its end", [charged(0), cancelled(5)], moved(9), Reason.ALREADY_ENDED, "hobby > hobby"),
    Case("moved after its halt", [charged(0), halted(5)], moved(9), Reason.ALREADY_ENDED, "hobby > hobby"),
    Case("moved away and back", [charged(0), moved(5)], charged(9), Reason.UPGRADED, "hobby > pro"),
    Case("moved away before it came back, late", [charged(0), charged(9)], moved(5), Reason.STALE, "pro > pro"),
]

TABLE = {"returns": RETURNS, "pauses": PAUSES, "coming ends": COMING_ENDS, "never begun": NEVER_BEGUN, "moves": MOVES}
