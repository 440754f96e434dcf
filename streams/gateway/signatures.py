"""Who sent a webhook: Razorpay's HMAC and the Standard Webhooks scheme that Loops uses, over the raw bytes of the body."""

import base64
import binascii
import hmac
from collections.abc import Sequence

from streams.errors import ConfigurationError

TOLERANCE_SECONDS = 300
"""How far ``webhook-timestamp`` may lie from now, either way. Source: Standard Webhooks, reference libraries."""

_PREFIX = "whsec_"
_VERSION = b"v1,"


def sign_razorpay(body: bytes, secret: bytes) -> str:
    """Return ``X-Razorpay-Signature`` of ``body``: HMAC-SHA256 in lower-case hex.

    Source: Razorpay documentation, "Validate and test webhooks".
    """
    return hmac.digest(secret, body, "sha256").hex()


def verify_razorpay(body: bytes, signature: bytes | None, secrets: Sequence[bytes]) -> bool:
    """Whether ``signature`` is that of ``body`` with one of ``secrets``, in constant time for each and trying all.

    Several, because after a rotation Razorpay still signs the retries of older events with the old secret.
    """
    given = signature or b""
    valid = False
    for secret in secrets:
        valid |= hmac.compare_digest(sign_razorpay(body, secret).encode(), given)
    return valid


def standard_webhooks_key(secret: str) -> bytes:
    """Return the key in a Standard Webhooks secret: base64, after ``whsec_``.

    Raises ConfigurationError when it is no base64.
    """
    try:
        key = base64.b64decode(secret.strip().removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ConfigurationError(
            "TIERSTREAM_LOOPS_WEBHOOK_SECRET is no signing secret; copy it from Loops' webhook settings, with its whsec_."
        )
    return key


def sign_standard(body: bytes, message_id: bytes, timestamp: int, key: bytes) -> str:
    """Return one signature for the header ``webhook-signature``: ``v1,`` and base64 of HMAC-SHA256 over id, time and body.

    Source: Standard Webhooks specification, "Signature scheme".
    """
    content = b"%b.%d.%b" % (message_id, timestamp, body)
    return (_VERSION + base64.b64encode(hmac.digest(key, content, "sha256"))).decode()


def verify_standard(
    body: bytes, message_id: bytes | None, timestamp: bytes | None, signatures: bytes | None, key: bytes, now: float
) -> bool:
    """Whether one of the space-separated ``signatures`` is right and ``timestamp`` (Unix seconds) within tolerance of ``now``."""
    if not message_id or not signatures or not timestamp or len(timestamp) > 12 or not timestamp.isdigit():
        return False
    seconds = int(timestamp)
    if abs(now - seconds) > TOLERANCE_SECONDS or timestamp != b"%d" % seconds:
        return False
    expected = sign_standard(body, message_id, seconds, key).encode()
    valid = False
    for signature in signatures.split(b" "):
        valid |= hmac.compare_digest(expected, signature)
    return valid
