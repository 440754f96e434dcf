"""Who sends a request, and what is remembered of those that can not prove it."""

from collections.abc import Mapping

from streams.gateway.http import Answer, refusal
from streams.runtime.http_limits import Networks, is_in

WINDOW_SECONDS = 60.0
MAX_UNPROVEN = 300
"""Requests of a peer in a window whose signature or token is wrong. A sender whose secret was rotated makes fewer."""

DELAY_SECONDS = 1.0
"""How long each one beyond waits for its answer: with the limit on connections it bounds what guessing can cost."""

MAX_PEERS = 10_000

TOO_MANY = refusal(
    429,
    "Too many requests of this address had a wrong signature or token; correct the secret, and try again in a minute.",
    ((b"retry-after", b"60"), (b"connection", b"close")),
)
NOT_ALLOWED = refusal(403, "Webhooks are not taken from this address; see TIERSTREAM_WEBHOOK_NETWORKS.")


def peer_of(connection: str, headers: Mapping[bytes, bytes], proxies: Networks) -> str:
    """Return the address that a request comes from: the connection's, or what the nearest proxy that is none of ours says of it.

    ``X-Forwarded-For`` counts only as far as each of its addresses, from the last on, was written by one of ``proxies``. Pure.
    """
    address = connection
    for forwarded in reversed(headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")):
        if not forwarded.strip() or not is_in(address, proxies):
            break
        address = forwarded.strip()
    return address


class Unproven:
    """Counts, by peer, the requests that could not prove where they come from. One that can is never held up, whoever else sends from there."""

    def __init__(self) -> None:
        self._began = 0.0
        self._counts: dict[str, int] = {}

    def count(self, peer: str, now: float) -> bool:
        """Count one of a peer at a monotonic time; return whether there were too many in this window."""
        if now - self._began >= WINDOW_SECONDS:
            self._began, self._counts = now, {}
        if peer in self._counts or len(self._counts) < MAX_PEERS:
            self._counts[peer] = self._counts.get(peer, 0) + 1
        return self._counts.get(peer, MAX_UNPROVEN + 1) > MAX_UNPROVEN


def is_unproven(answer: Answer) -> bool:
    """Whether an answer says that a signature or a token is wrong."""
    return answer.status == 401
