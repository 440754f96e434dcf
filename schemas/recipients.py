"""How an address is recognised without being kept."""

import hashlib

_DOMAIN = b"tierstream recipient\0"


def address_hash(email: str) -> bytes:
    """Return 32 bytes that stand for an address in the database: SHA-256 of it, trimmed and case-folded, behind a fixed prefix.

    Without a secret, on purpose: a suppression must outlive every key, and forwarder, feedback and commands on other machines must find
    the same row. So it is a pseudonym and no more: who has the database can still ask whether a given address is in it.
    """
    return hashlib.sha256(_DOMAIN + email.strip().casefold().encode("utf-8", "surrogatepass")).digest()
