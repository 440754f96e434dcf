"""JSON as nobody sends it in earnest, signed, on a real broker: every object gets 200 and one outcome, everything else 400 and a dead letter."""

import asyncio
import itertools
from collections import Counter

import orjson

from agents.normalise.decide import Rules
from agents.normalise.stage import NormaliseStage
from schemas.tiers import Tier
from streams.settings import Settings
from tests.accounting import outcomes
from tests.integration.test_gateway import gateway_settings, headers_of, running
from tests.topic_io import read_all
from tests.webhooks import body
from tests.workers import running as running_stages
from tests.workers import table

_numbers = itertools.count()


def charge() -> str:
    """A charge of a subscription of its own: of one that says what another has said, only the first would count."""
    return orjson.dumps(body(subscription={"id": f"sub_{next(_numbers):014}"})).decode()


def with_more(text: str) -> bytes:
    """A charge with one field more, which nothing reads."""
    return f'{charge()[:-1]}, "more": {text}}}'.encode("utf-8", "surrogatepass")


OBJECTS: dict[str, tuple[bytes, str]] = {
    "1,000 levels": (with_more("[" * 1_000 + "]" * 1_000), "normalised"),
    "1,500 levels": (with_more("[" * 1_500 + "]" * 1_500), "malformed"),
    "as deep as 1 MiB goes": (with_more("[" * 520_000 + "]" * 520_000), "malformed"),
    "objects of 1,500 levels": (b'{"a":' * 1_500 + b"1" + b"}" * 1_500, "malformed"),
    "600 levels around a lone surrogate": (with_more("[" * 600 + '"\\ud800"' + "]" * 600), "malformed"),
    "400 levels around a lone surrogate": (with_more("[" * 400 + '"\\ud800"' + "]" * 400), "normalised"),
    "a number beyond a double": (with_more("1e999"), "normalised"),
    "a number of 5,000 digits": (with_more("9" * 5_000), "normalised"),
    "NUL": (with_more('"\\u0000"'), "normalised"),
    "a name twice": (b'{"event": "order.paid", ' + charge().encode()[1:], "normalised"),
    "no name at all": (with_more('{"": ""}'), "normalised"),
    "blanks around it": (b" \r\n\t" + charge().encode() + b"\n", "normalised"),
    "nothing in it": (b"{}", "malformed"),
}
OTHERS: dict[str, bytes] = {
    "a byte order mark": b"\xef\xbb\xbf" + charge().encode(),
    "UTF-16": charge().encode("utf-16"),
    "no UTF-8": with_more('"?"').replace(b"?", b"\xff"),
    "an encoded surrogate": with_more('"\ud800"'),
    "NaN": with_more("NaN"),
    "Infinity": with_more("-Infinity"),
    "a bare NUL": with_more('"?"').replace(b"?", b"\x00"),
    "an end too early": charge()[:-1].encode(),
    "two objects": charge().encode() * 2,
    "lists of 1,500 levels": b"[" * 1_500 + b"]" * 1_500,
}


async def test_signed_json_of_any_kind_is_200_with_one_outcome_or_400_with_a_dead_letter(kafka_settings: Settings) -> None:
    settings = gateway_settings(kafka_settings)
    async with running(settings) as gateway:
        taken = {
            name: (await gateway.webhook(value, f"o{number}")).status_code for number, (name, (value, _)) in enumerate(OBJECTS.items())
        }
        refused = {name: (await gateway.webhook(value, f"r{number}")).status_code for number, (name, value) in enumerate(OTHERS.items())}
    assert taken == dict.fromkeys(OBJECTS, 200)
    assert refused == dict.fromkeys(OTHERS, 400)

    normalise = NormaliseStage(settings, Rules({"plan_pro": Tier.PRO}))
    async with running_stages(settings, table(settings, normalise)) as run:
        await run.decided(settings, "normalise", len(OBJECTS))

    assert outcomes(settings, "normalise") == Counter(outcome for _, outcome in OBJECTS.values())
    kept = {headers_of(message)["razorpay-event-id"]: message for message in await asyncio.to_thread(read_all, settings, "dead.letters")}
    malformed = {b"o%d" % number: value for number, (value, outcome) in enumerate(OBJECTS.values()) if outcome == "malformed"}
    assert {event_id: message.value() for event_id, message in kept.items()} == malformed | {
        b"r%d" % number: value for number, value in enumerate(OTHERS.values())
    }
    assert {headers_of(message)["dlq-reason"] for message in kept.values()} == {b"malformed"}
