"""The webhook routes: verify the signature over the raw bytes, append them to Kafka, answer."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

from schemas.razorpay import landing_key
from schemas.reasons import Reason
from streams.gateway.http import Answer, Refused, Request, refusal
from streams.gateway.razorpay_watch import RazorpayWatch
from streams.gateway.signatures import standard_webhooks_key, verify_razorpay, verify_standard
from streams.kafka.dead_letters import Headers, Origin, Producing, dead_letter_headers
from streams.kafka.producer import Record
from streams.settings import Settings
from streams.topics import DEAD_LETTERS, LOOPS_WEBHOOKS, RAZORPAY_WEBHOOKS

ACK_SECONDS = 1.7
"""How long Kafka has to acknowledge, so that the 503 is out within the 2 s that the contract gives."""

MAX_EVENT_ID_CHARACTERS = 100

Clock = Callable[[], float]
"""Gives Unix seconds, as ``time.time`` does."""


class GatewayProducer(Producing, Protocol):
    """What the gateway needs of ``AcknowledgedProducer``."""

    async def send_many(self, records: Sequence[Record], *, timeout_seconds: float) -> None:
        """Return once all records are acknowledged."""


ACCEPTED = Answer(200, {"status": "accepted"})

_BAD_SIGNATURE = refusal(
    401,
    "X-Razorpay-Signature is missing or does not fit the body; sign the raw body with HMAC-SHA256 and a secret of TIERSTREAM_RAZORPAY_WEBHOOK_SECRETS.",
)
_NO_OBJECT = refusal(400, "The body is signed but is not a JSON object; it is kept as a dead letter, so do not send it again.")
_BAD_STANDARD_SIGNATURE = refusal(
    401,
    "webhook-id, webhook-timestamp and webhook-signature are missing, too old or do not fit the body; check TIERSTREAM_LOOPS_WEBHOOK_SECRET and the clocks.",
)
_NOT_VERIFIABLE = refusal(
    401, "No delivery can be verified, for TIERSTREAM_LOOPS_WEBHOOK_SECRET is not set; set it to the signing secret that Loops shows."
)


def event_id_of(header: bytes | None, body: bytes) -> bytes:
    """Return the id of a delivery: Razorpay's header, trimmed, if it is 1 to 100 printable ASCII characters, else a hash of the body.

    The same for every retry of the same event, either way.
    """
    given = header or b""
    if given and len(given) <= MAX_EVENT_ID_CHARACTERS and given.isascii() and given.decode("ascii").isprintable():
        return given
    return b"sha256-" + hashlib.sha256(body).hexdigest()[:40].encode()


class RazorpayRoute:
    """``POST /webhooks/razorpay``. 200 means: Kafka has the body, byte for byte, keyed so that a subscription keeps its order."""

    def __init__(self, settings: Settings, producer: GatewayProducer, clock: Clock) -> None:
        self._secrets = settings.razorpay_secrets
        self._producer = producer
        self._clock = clock
        self._topic = RAZORPAY_WEBHOOKS.full_name(settings)
        self._dead_letters = DEAD_LETTERS.full_name(settings)
        self.watch = RazorpayWatch(clock)

    async def __call__(self, request: Request) -> Answer:
        try:
            answer = await self._take(request)
        except BaseException:
            # Of Razorpay's requests each has an event id; whoever else knocks here says nothing about its webhook.
            if b"x-razorpay-event-id" in request.headers:
                self.watch.failed()
            raise
        self.watch.accepted()
        return answer

    async def _take(self, request: Request) -> Answer:
        body = await request.body()
        if not verify_razorpay(body, request.header(b"x-razorpay-signature"), self._secrets):
            raise Refused(_BAD_SIGNATURE)
        now = self._clock()
        self.watch.signed(now)
        event_id = event_id_of(request.header(b"x-razorpay-event-id"), body)
        record_headers: list[tuple[str, bytes | None]] = [
            ("razorpay-event-id", event_id),
            ("received-at", b"%d" % (now * 1000)),
            ("content-type", content_type_of(request)),
        ]
        is_json_object, subscription_id = landing_key(body)
        if not is_json_object:
            kept = dead_letter_headers(
                record_headers, Origin("gateway", self._topic), Reason.MALFORMED, "The body is signed but is not a JSON object."
            )
            await self._producer.send(self._dead_letters, body, event_id, kept, timeout_seconds=ACK_SECONDS)
            raise Refused(_NO_OBJECT)
        key = subscription_id.encode() if subscription_id else event_id
        await self._producer.send(self._topic, body, key, record_headers, timeout_seconds=ACK_SECONDS)
        return ACCEPTED


class LoopsRoute:
    """``POST /webhooks/loops``: Standard Webhooks in, ``loops.webhooks`` out, keyed by the message's id.

    Without a signing secret nothing can be verified and everything is answered 401. Raises ConfigurationError for a secret
    that is none.
    """

    def __init__(self, settings: Settings, producer: GatewayProducer, clock: Clock) -> None:
        secret = settings.loops_webhook_secret
        self._key = standard_webhooks_key(secret.get_secret_value()) if secret else None
        self._producer = producer
        self._clock = clock
        self._topic = LOOPS_WEBHOOKS.full_name(settings)

    async def __call__(self, request: Request) -> Answer:
        if self._key is None:
            raise Refused(_NOT_VERIFIABLE)
        body = await request.body()
        now = self._clock()
        message_id, timestamp = request.header(b"webhook-id"), request.header(b"webhook-timestamp")
        if not verify_standard(body, message_id, timestamp, request.header(b"webhook-signature"), self._key, now):
            raise Refused(_BAD_STANDARD_SIGNATURE)
        record_headers: Headers = [
            ("webhook-id", message_id),
            ("webhook-timestamp", timestamp),
            ("received-at", b"%d" % (now * 1000)),
            ("content-type", content_type_of(request)),
        ]
        await self._producer.send(self._topic, body, message_id, record_headers, timeout_seconds=ACK_SECONDS)
        return ACCEPTED


def content_type_of(request: Request) -> bytes:
    """The request's content type, cut short; JSON when it has none."""
    return (request.header(b"content-type") or b"application/json")[:100]
