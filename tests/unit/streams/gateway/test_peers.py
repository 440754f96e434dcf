"""Who a request comes from, where webhooks are taken from, and what guessing costs."""

import time
from ipaddress import ip_network

import pytest

from streams.gateway.app import create_app
from streams.gateway.peers import MAX_PEERS, MAX_UNPROVEN, WINDOW_SECONDS, Unproven, peer_of
from streams.gateway.signatures import sign_razorpay
from streams.settings import Settings
from tests.gateway_doubles import RememberingProducer, ask

BODY = b'{"event": "subscription.charged", "payload": {"subscription": {"entity": {"id": "sub_1"}}}}'
SIGNED = {b"x-razorpay-signature": sign_razorpay(BODY, b"current").encode(), b"x-razorpay-event-id": b"Rp1"}
FORGED = {**SIGNED, b"x-razorpay-signature": b"0" * 64}
PROXIES = (ip_network("10.0.0.0/8"),)


@pytest.mark.parametrize(
    ("connection", "forwarded", "peer"),
    [
        ("192.0.2.1", b"", "192.0.2.1"),
        ("192.0.2.1", b"198.51.100.7", "192.0.2.1"),  # of no proxy of ours: anybody can write it
        ("10.0.0.1", b"198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", b"203.0.113.9, 198.51.100.7", "198.51.100.7"),  # what stands before was written by the sender
        ("10.0.0.1", b"198.51.100.7, 10.0.0.2", "198.51.100.7"),
        ("10.0.0.1", b"", "10.0.0.1"),
        ("10.0.0.1", b"\xff, ", "10.0.0.1"),
    ],
)
def test_peer_is_the_nearest_that_is_no_proxy_of_ours(connection: str, forwarded: bytes, peer: str) -> None:
    assert peer_of(connection, {b"x-forwarded-for": forwarded} if forwarded else {}, PROXIES) == peer


def test_unproven_requests_are_counted_by_peer_and_window() -> None:
    unproven = Unproven()

    assert not any(unproven.count("a", 100.0) for _ in range(MAX_UNPROVEN))
    assert unproven.count("a", 100.0)
    assert not unproven.count("b", 100.0)
    assert not unproven.count("a", 100.0 + WINDOW_SECONDS)


def test_peers_that_are_remembered_are_bounded() -> None:
    unproven = Unproven()
    for number in range(MAX_PEERS):
        unproven.count(str(number), 100.0)

    assert unproven.count("one more", 100.0), "whoever hides behind ten thousand addresses is slowed down too"


async def test_webhooks_are_taken_from_the_named_networks_alone_and_events_from_anywhere() -> None:
    producer = RememberingProducer()
    settings = Settings(
        razorpay_webhook_secrets="current", ingest_tokens="token", gateway_proxies="10.0.0.0/8", webhook_networks="192.0.2.0/24"
    )
    app = create_app(settings, producer)

    assert (await ask(app, "/webhooks/razorpay", [BODY], SIGNED, client="192.0.2.9"))[0] == 200
    assert (await ask(app, "/webhooks/razorpay", [BODY], {**SIGNED, b"x-forwarded-for": b"192.0.2.9"}, client="10.0.0.1"))[0] == 200
    for client, headers in (("198.51.100.7", SIGNED), ("198.51.100.7", {**SIGNED, b"x-forwarded-for": b"192.0.2.9"}), ("10.0.0.1", SIGNED)):
        status, body = await ask(app, "/webhooks/razorpay", [BODY], headers, client=client)
        assert (status, "TIERSTREAM_WEBHOOK_NETWORKS" in str(body)) == (403, True)
    assert len(producer.records) == 2
    assert (await ask(app, "/v1/events", [b"[]"], {b"authorization": b"Bearer token"}, client="198.51.100.7"))[0] != 403


async def test_many_wrong_signatures_of_a_peer_are_slowed_down_and_a_right_one_from_there_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.gateway.app.DELAY_SECONDS", 0.05)
    producer = RememberingProducer()
    app = create_app(Settings(razorpay_webhook_secrets="current"), producer)

    began = time.monotonic()
    statuses = [(await ask(app, "/webhooks/razorpay", [BODY], FORGED, client="192.0.2.9"))[0] for _ in range(MAX_UNPROVEN + 2)]
    assert statuses == [401] * MAX_UNPROVEN + [429] * 2
    assert time.monotonic() - began >= 0.1

    assert (await ask(app, "/webhooks/razorpay", [BODY], SIGNED, client="192.0.2.9"))[0] == 200
    assert (await ask(app, "/webhooks/razorpay", [BODY], FORGED, client="198.51.100.7"))[0] == 401
    assert len(producer.records) == 1
