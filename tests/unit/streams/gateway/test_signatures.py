"""A webhook is taken only when the bytes that arrived were signed by somebody who knows a secret."""

import base64
import hashlib
import hmac
import json

import pytest

from streams.errors import ConfigurationError
from streams.gateway.signatures import (
    TOLERANCE_SECONDS,
    sign_razorpay,
    sign_standard,
    standard_webhooks_key,
    verify_razorpay,
    verify_standard,
)

BODY = '{"event":"subscription.charged","notes":{"to":"a/b","name":"Zoë…"}}'.encode()
SECRET, OLD_SECRET = b"current", b"before the rotation"

KEY = bytes(range(24))
LOOPS_SECRET = "whsec_" + base64.b64encode(KEY).decode()
ID = b"msg_2KWPBgLlAfxdpx2AI54pPJ85f4W"
SENT_AT = 1_760_000_000


def test_razorpay_signature_is_hmac_sha256_of_the_body_in_lower_case_hex() -> None:
    assert sign_razorpay(BODY, SECRET) == hmac.new(SECRET, BODY, hashlib.sha256).hexdigest()
    assert (
        sign_razorpay(b"what do ya want for nothing?", b"Jefe") == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    )  # RFC 4231


def test_razorpay_signature_with_any_configured_secret_is_right() -> None:
    for secret in (SECRET, OLD_SECRET):
        assert verify_razorpay(BODY, sign_razorpay(BODY, secret).encode(), (SECRET, OLD_SECRET))


def test_razorpay_signature_of_an_empty_body_is_right() -> None:
    assert verify_razorpay(b"", sign_razorpay(b"", SECRET).encode(), (SECRET,))


RIGHT = sign_razorpay(BODY, SECRET)


@pytest.mark.parametrize(
    "signature",
    [
        None,
        b"",
        b" ",
        b"x",
        b"0" * 64,
        RIGHT.upper().encode(),
        RIGHT[:-1].encode(),
        (RIGHT + "0").encode(),
        f" {RIGHT}".encode(),
        f"sha256={RIGHT}".encode(),
        f"{RIGHT},{RIGHT}".encode(),
        f"{RIGHT} {RIGHT}".encode(),
        RIGHT.encode("utf-16"),
        bytes.fromhex(RIGHT),
        base64.b64encode(bytes.fromhex(RIGHT)),
        sign_razorpay(BODY, b"unknown").encode(),
        sign_razorpay(BODY + b" ", SECRET).encode(),
        "ß".encode(),
        b"\xff\xfe\x00" * 30,
        b"f" * 100_000,
    ],
)
def test_razorpay_signature_of_any_other_form_or_secret_is_wrong(signature: bytes | None) -> None:
    assert not verify_razorpay(BODY, signature, (SECRET, OLD_SECRET))


def test_razorpay_signature_of_the_same_json_written_otherwise_is_wrong() -> None:
    for rewritten in (
        json.dumps(json.loads(BODY)).encode(),
        BODY.replace(b"/", b"\\/"),
        json.dumps(json.loads(BODY), separators=(",", ":")).encode(),
    ):
        assert json.loads(rewritten) == json.loads(BODY)
        assert not verify_razorpay(rewritten, RIGHT.encode(), (SECRET,))


def test_razorpay_signature_without_any_secret_is_wrong() -> None:
    assert not verify_razorpay(BODY, RIGHT.encode(), ())
    assert not verify_razorpay(BODY, b"", ())


def standard(
    signatures: str, *, body: bytes = BODY, message_id: bytes | None = ID, timestamp: bytes | None = b"%d" % SENT_AT, now: float = SENT_AT
) -> bool:
    return verify_standard(body, message_id, timestamp, signatures.encode(), standard_webhooks_key(LOOPS_SECRET), now)


STANDARD = sign_standard(BODY, ID, SENT_AT, KEY)


def test_standard_signature_is_version_and_base64_of_hmac_over_id_time_and_body() -> None:
    digest = hmac.new(KEY, b"%b.%d.%b" % (ID, SENT_AT, BODY), hashlib.sha256).digest()

    assert "v1," + base64.b64encode(digest).decode() == STANDARD
    assert standard(STANDARD)


def test_standard_key_and_signature_match_the_published_example() -> None:
    key = standard_webhooks_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")  # Standard Webhooks, libraries' own tests

    signature = sign_standard(b'{"test": 2432232314}', b"msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, key)

    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_standard_signature_may_be_any_of_several() -> None:
    assert standard(f"v1,{'A' * 43}= {STANDARD}")
    assert standard(f"{STANDARD} v2,anything v1a,anything")


@pytest.mark.parametrize(
    "signatures",
    [
        "",
        " ",
        "v1,",
        "v1",
        STANDARD.removeprefix("v1,"),
        STANDARD.replace("v1,", "v2,"),
        STANDARD.replace("v1,", "v1a,"),
        STANDARD.replace(",", " "),
        STANDARD.lower(),
        STANDARD[:-1],
        STANDARD + "=",
        f"{STANDARD},{STANDARD}",
        sign_standard(BODY, ID, SENT_AT, b"another key"),
        sign_standard(BODY, b"another id", SENT_AT, KEY),
        sign_standard(BODY, ID, SENT_AT - 1, KEY),
        "v1,ß",
    ],
)
def test_standard_signature_of_any_other_form_or_key_is_wrong(signatures: str) -> None:
    assert not standard(signatures)


@pytest.mark.parametrize("missing", ["message_id", "timestamp"])
@pytest.mark.parametrize("value", [None, b""])
def test_standard_signature_without_id_or_time_is_wrong(missing: str, value: bytes | None) -> None:
    assert not standard(STANDARD, **{missing: value})  # type: ignore[arg-type]  # a keyword chosen by the test


@pytest.mark.parametrize("age", [TOLERANCE_SECONDS + 1, -TOLERANCE_SECONDS - 1, 10**9])
def test_standard_signature_too_old_or_too_new_is_wrong(age: int) -> None:
    assert not standard(STANDARD, now=SENT_AT + age)


@pytest.mark.parametrize("age", [0, TOLERANCE_SECONDS, -TOLERANCE_SECONDS])
def test_standard_signature_within_tolerance_is_right(age: int) -> None:
    assert standard(STANDARD, now=SENT_AT + age)


@pytest.mark.parametrize(
    "timestamp",
    [
        b"now",
        b"-1",
        b"+1760000000",
        b"1_760_000_000",
        b" 1760000000",
        b"1760000000.0",
        b"01760000000",
        b"9" * 400,
        "\u0661".encode(),
        b"\xff",
    ],
)
def test_standard_timestamp_that_is_no_plain_number_is_wrong(timestamp: bytes) -> None:
    assert not standard(STANDARD, timestamp=timestamp)


def test_standard_key_is_read_with_and_without_its_prefix() -> None:
    assert standard_webhooks_key(LOOPS_SECRET) == standard_webhooks_key(f" {LOOPS_SECRET.removeprefix('whsec_')}\n") == KEY


@pytest.mark.parametrize("secret", ["whsec_", "", "whsec_not base64", "whsec_abc", "sëcret"])
def test_standard_key_that_is_no_secret_names_the_setting_and_not_the_secret(secret: str) -> None:
    with pytest.raises(ConfigurationError, match="TIERSTREAM_LOOPS_WEBHOOK_SECRET") as caught:
        standard_webhooks_key(secret)

    assert not secret or secret not in str(caught.value).replace("whsec_.", "")
