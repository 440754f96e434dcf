"""Dead letters: records that no stage can act on, kept whole with what went wrong, to be looked at and replayed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.reasons import Reason

Headers = Sequence[tuple[str, bytes | None]]

HEADER_PREFIX = "dlq-"
REPLAYS = "dlq-replays"
MAX_ERROR_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a record was read: stage, topic, partition, offset (-1 where it never had one)."""

    stage: str
    topic: str
    partition: int = -1
    offset: int = -1


def dead_letter_headers(headers: Headers, origin: Origin, reason: Reason, error: str) -> list[tuple[str, bytes | None]]:
    """Return the headers of the dead letter of one record: those it had, plus ``dlq-*``.

    ``error`` is one sentence for an operator; it must hold neither secrets nor addresses. Key and value of a dead letter are
    the record's own, untouched.
    """
    kept = [(name, value) for name, value in headers if not name.startswith(HEADER_PREFIX) or name == REPLAYS]
    if not any(name == REPLAYS for name, _ in kept):
        kept.append((REPLAYS, b"0"))
    kept += [
        ("dlq-reason", reason.value.encode()),
        ("dlq-stage", origin.stage.encode()),
        ("dlq-topic", origin.topic.encode()),
        ("dlq-partition", str(origin.partition).encode()),
        ("dlq-offset", str(origin.offset).encode()),
        ("dlq-time", str(int(time.time() * 1000)).encode()),
        ("dlq-error", error[:MAX_ERROR_CHARACTERS].encode()),
    ]
    return kept
