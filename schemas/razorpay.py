"""Razorpay's webhook body, read tolerantly: one odd field never costs the event.

Sources: Razorpay documentation, "Subscription webhooks", "Validate and test webhooks"; and bodies seen in real
deliveries, which differ from it: ``notes`` is an object, ``[]``, null or JSON in a string, ``payload`` may be a string,
``created_at`` may stand in it or nowhere, ``captured`` is ``"1"`` or ``true``, ``contains`` may omit what is there.
Times are Unix seconds. A field that can not be read as what it should be counts as absent.
"""

import re
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from schemas.json_text import TooDeep, decode
from schemas.team_events import MAX_SECONDS

PLACEHOLDER_EMAIL = "void@razorpay.com"
"""What Razorpay sends where a payment has no address. Never a recipient."""

MAX_ID_CHARACTERS = 100
MAX_TEXT_CHARACTERS = 1_000
JSON_WHITESPACE = b" \t\r\n"
MAX_COUNT = 2**53
"""The largest whole number that every JSON reader keeps exactly."""

_HAPPENED = (
    "created_at",
    "current_start",
    "ended_at",
    "captured_at",
    "authorized_at",
    "paid_at",
    "issued_at",
    "cancelled_at",
    "paused_at",
    "resumed_at",
)
"""Times of an entity that say when something happened. ``current_end``, ``charge_at``, ``start_at``, ``end_at`` and
``expire_by`` are plans for later, also once they lie in the past."""

_EMAIL = re.compile(r"[^@\s\x00]+@[^@\s\x00]+")
_DIGITS = re.compile(r"[0-9]{1,18}")

JsonObject = dict[str, Any]
TimeSource = Literal["created_at", "entities", "receipt"]


class MalformedWebhook(ValueError):
    """The body is not a JSON object, or is nested too deep. The message never repeats any of it."""


class LandingKey(NamedTuple):
    """What the gateway has to know of a body: whether it is a JSON object, and which subscription it is about."""

    is_json_object: bool
    subscription_id: str | None


def _object(value: object) -> JsonObject:
    """Return ``value`` when it is an object, or the object that it holds as JSON text; else an empty one."""
    if isinstance(value, dict):
        return value
    if isinstance(value, str) and value.lstrip()[:1] == "{":
        try:
            decoded = decode(value)
        except ValueError:
            return {}
        return decoded if isinstance(decoded, dict) else {}
    return {}


def _entity(payload: JsonObject, name: str) -> JsonObject:
    return _object(_object(payload.get(name)).get("entity"))


def _text(value: object) -> str | None:
    """Return a string or number as text; None for anything else, for a blank, and for what UTF-8 can not carry."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if not isinstance(value, str):
        return None
    text = value.strip()
    if not text or len(text) > MAX_TEXT_CHARACTERS or "\x00" in text:
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return None
    return text


def _identifier(value: object) -> str | None:
    text = None if isinstance(value, bool | float) else _text(value)
    return text if text is not None and len(text) <= MAX_ID_CHARACTERS and text.isascii() and text.isprintable() else None


def _count(value: object, maximum: int = MAX_COUNT) -> int | None:
    """Return a whole number from 0 to ``maximum``, also when it was sent as text or with a fraction; else None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        digits = value.strip()
        value = int(digits) if _DIGITS.fullmatch(digits) else None
    if isinstance(value, int | float) and 0 <= value <= maximum:
        return int(value)
    return None


def _moment(value: object) -> int | None:
    return _count(value, MAX_SECONDS)


def _flag(value: object) -> bool:
    return value is True or value == 1 or (isinstance(value, str) and value.strip().lower() in ("1", "true", "yes"))


def _notes(value: object) -> dict[str, str]:
    if not value:
        return {}
    texts = ((name, _text(note)) for name, note in _object(value).items())
    return {name: text for name, text in texts if text is not None}


_Text = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARACTERS)] | None
_Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)] | None
_Moment = Annotated[int, Meta(ge=0, le=MAX_SECONDS)] | None


class Subscription(msgspec.Struct, frozen=True, gc=False):
    """A subscription as it was when the event was made. Source: Razorpay API, "Subscription entity".

    ``paid_count`` counts billing cycles paid so far; ``current_start`` and ``current_end`` bound the one that runs.
    """

    id: Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARACTERS)]
    plan_id: _Text = None
    status: _Text = None
    customer_id: _Text = None
    customer_email: _Text = None
    paid_count: _Count = None
    total_count: _Count = None
    has_scheduled_changes: bool = False
    created_at: _Moment = None
    current_start: _Moment = None
    current_end: _Moment = None
    ended_at: _Moment = None
    notes: dict[str, str] = {}


class Payment(msgspec.Struct, frozen=True, gc=False):
    """A payment. ``amount`` is in minor units of ``currency`` (paise). Source: Razorpay API, "Payment entity"."""

    id: _Text = None
    amount: _Count = None
    currency: _Text = None
    status: _Text = None
    captured: bool = False
    email: _Text = None
    created_at: _Moment = None
    notes: dict[str, str] = {}


_EntityT = TypeVar("_EntityT", Subscription, Payment)


class RazorpayWebhook(msgspec.Struct, frozen=True, gc=False):
    """One delivery. ``event`` is None when the body names none; ``created_at`` when neither body nor payload has one.

    ``entity_times`` are the times in the payload's entities that say when something happened, read only where
    ``created_at`` is None.
    """

    event: str | None = None
    created_at: int | None = None
    subscription: Subscription | None = None
    payment: Payment | None = None
    entity_times: tuple[int, ...] = ()

    def note(self, name: str) -> str | None:
        """Return the note called ``name``: the subscription's, else the payment's; None without one.

        A note that holds a JSON object is looked into for the same name.
        """
        for entity in (self.subscription, self.payment):
            if entity is not None and entity.notes:
                found = _find_note(entity.notes, name)
                if found is not None:
                    return found
        return None

    def occurred_at(self, received_at: int) -> tuple[int, TimeSource]:
        """Return when the event happened, in Unix seconds, and which of three places says so.

        ``created_at`` of the body, else of the payload; else the latest time in the entities that is not after
        ``received_at``; else ``received_at``. Whether ``created_at`` is plausible is the caller's to judge.
        """
        if self.created_at is not None:
            return self.created_at, "created_at"
        past = [moment for moment in self.entity_times if moment <= received_at]
        return (max(past), "entities") if past else (received_at, "receipt")

    @property
    def email(self) -> str | None:
        """The subscription's customer, else the payer; the placeholder only where no real address is given."""
        given = (self.subscription and self.subscription.customer_email, self.payment and self.payment.email)
        usable = [address for address in given if address and len(address) <= 254 and _EMAIL.fullmatch(address)]
        real = (address for address in usable if address.lower() != PLACEHOLDER_EMAIL)
        return next(real, usable[0] if usable else None)


def _find_note(notes: dict[str, str], name: str) -> str | None:
    own = notes.get(name)
    if own is not None:
        return _text(_object(own).get(name)) or own
    return next((text for note in notes.values() if (text := _text(_object(note).get(name))) is not None), None)


def _event_name(value: object) -> str | None:
    if isinstance(value, dict):
        return next((name for key in ("name", "event", "type") if isinstance(value.get(key), str) and (name := _text(value[key]))), None)
    return _text(value) if isinstance(value, str) else None


def _entity_times(payload: JsonObject) -> tuple[int, ...]:
    entities = (_entity(payload, name) for name in payload)
    moments = (_moment(entity.get(field)) for entity in entities for field in _HAPPENED)
    return tuple(moment for moment in moments if moment is not None)


def landing_key(body: bytes) -> LandingKey:
    """Return whether ``body`` is a JSON object and, if it names one, its subscription. Never raises.

    Agrees with ``parse_webhook``: that one raises where ``is_json_object`` is false, and reads the same id. What is nested too deep counts
    as an object that names no subscription, if it begins like one; that one raises there too.
    """
    try:
        document = decode(body)
    except TooDeep:
        return LandingKey(body.lstrip(JSON_WHITESPACE).startswith(b"{"), None)
    except ValueError:
        return LandingKey(False, None)
    if not isinstance(document, dict):
        return LandingKey(False, None)
    return LandingKey(True, _identifier(_entity(_object(document.get("payload")), "subscription").get("id")))


def parse_webhook(body: bytes) -> RazorpayWebhook:
    """Read one webhook body, whatever its event. Raises MalformedWebhook when it is not a JSON object or nested too deep, nothing else."""
    try:
        document = decode(body)
    except TooDeep:
        raise MalformedWebhook("The webhook body is nested too deep to be read.") from None
    except ValueError:
        raise MalformedWebhook("The webhook body is not valid JSON.") from None
    if not isinstance(document, dict):
        raise MalformedWebhook(f"The webhook body is a JSON {_json_type(document)}, not an object.")
    payload = _object(document.get("payload"))
    subscription = _entity(payload, "subscription")
    subscription_id = _identifier(subscription.get("id"))
    payment = _entity(payload, "payment")
    created_at = _moment(document.get("created_at"))
    if created_at is None:
        created_at = _moment(payload.get("created_at"))
    plain = body.isascii() and b"\\" not in body
    return RazorpayWebhook(
        event=_event_name(document.get("event")),
        created_at=created_at,
        subscription=_subscription(subscription_id, subscription, plain) if subscription_id else None,
        payment=_payment(payment, plain) if payment else None,
        entity_times=_entity_times(payload) if created_at is None else (),
    )


def _subscription(id: str, entity: JsonObject, plain: bool) -> Subscription:
    """Read a subscription. ``plain`` says that each text of the body is printable ASCII, so that only its ends need a check."""
    usual = _converted(entity, Subscription) if plain else None
    if (
        usual is not None
        and usual.id == id
        and _are_trim(usual.plan_id, usual.status, usual.customer_id, usual.customer_email, *usual.notes.values())
    ):
        return usual
    get = entity.get
    return Subscription(
        id,
        _text(get("plan_id")),
        _text(get("status")),
        _text(get("customer_id")),
        _text(get("customer_email")),
        _count(get("paid_count")),
        _count(get("total_count")),
        _flag(get("has_scheduled_changes")),
        _moment(get("created_at")),
        _moment(get("current_start")),
        _moment(get("current_end")),
        _moment(get("ended_at")),
        _notes(get("notes")),
    )


def _payment(entity: JsonObject, plain: bool) -> Payment:
    entity["captured"] = _flag(entity.get("captured"))  # mostly "1"
    usual = _converted(entity, Payment) if plain else None
    if usual is not None and _are_trim(usual.id, usual.currency, usual.status, usual.email, *usual.notes.values()):
        return usual
    get = entity.get
    return Payment(
        _text(get("id")),
        _count(get("amount")),
        _text(get("currency")),
        _text(get("status")),
        _flag(get("captured")),
        _text(get("email")),
        _moment(get("created_at")),
        _notes(get("notes")),
    )


def _converted(entity: JsonObject, form: type[_EntityT]) -> _EntityT | None:
    """Read an entity in its usual form in one go; None when it is to be read field by field."""
    if not entity.get("notes"):
        entity["notes"] = {}  # Razorpay writes none as a list
    try:
        return msgspec.convert(entity, form)
    except msgspec.ValidationError:
        return None


def _are_trim(*texts: str | None) -> bool:
    """Whether each of these has neither blanks around it nor anything else that ``_text`` would change."""
    for text in texts:
        if text is not None and (not text or len(text) > MAX_TEXT_CHARACTERS or text[0] == " " or text[-1] == " "):
            return False
    return True


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "number"
