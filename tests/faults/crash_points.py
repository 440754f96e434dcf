"""The places between two steps of a commit order, and how to make a process end, or stand still, at one of them.

The tables of ``docs/guarantees.md`` ("What a crash leaves") are these points: a row there is a point here.
"""

import asyncio
import functools
import inspect
import itertools
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from agents.forward.retries import KafkaRetries
from schemas.reasons import Reason
from streams.engine.faust_transport import BatchConsumerThread
from streams.engine.takeover import Broker, Takeover
from streams.engine.transactions import TransactionalWriter
from streams.gateway.webhooks import ACCEPTED, RazorpayRoute
from streams.kafka.dead_letters import KafkaDeadLetters
from streams.kafka.producer import AcknowledgedProducer
from streams.loops.client import Accepted, LoopsClient
from streams.stores.audit_log import PostgresAuditLog
from streams.stores.ledger import Classification, PostgresLedger

ANSWER_OUT_SECONDS = 0.02
"""How long after the route has returned an answer the kernel surely has it, and delivers it whatever becomes of us."""

Call = tuple[Any, ...]
"""The arguments of a call, its object first."""


def _always(call: Call, result: Any) -> bool:
    return True


@dataclass(frozen=True)
class Point:
    """A call of ``method``, before it begins or after it has returned, for which ``when`` (arguments, result) holds.

    ``count`` says which of these calls. ``delay`` in seconds: how long after it.
    """

    name: str
    owner: type
    method: Callable[..., Any]
    side: Literal["before", "after"] = "after"
    when: Callable[[Call, Any], bool] = _always
    count: int = 1
    delay: float = 0.0


def _is_in_flight(call: Call, _: Any) -> bool:
    return bool(call[1].classification is Classification.IN_FLIGHT)


_OFFSET_COMMITTED = Point("offset committed", BatchConsumerThread, BatchConsumerThread.commit)
# The first two leave an open transaction behind, which the next one's start has to abort.
_TABLE_STAGE = (
    Point("produced", TransactionalWriter, TransactionalWriter.flush, count=3),
    Point("offsets added", TransactionalWriter, TransactionalWriter.send_offsets, count=2),
    Point("opened", TransactionalWriter, TransactionalWriter.open),
    Point("offsets stable", Broker, Broker.stable_offsets, when=lambda _, offsets: offsets is not None),
    Point("restored", Takeover, Takeover.take_over),
    Point("begun", TransactionalWriter, TransactionalWriter.begin),
    Point("committed", TransactionalWriter, TransactionalWriter.commit, count=3),
)

POINTS: dict[str, tuple[Point, ...]] = {
    "gateway": (
        Point("verified", AcknowledgedProducer, AcknowledgedProducer.send, "before", count=2),
        Point("acknowledged", AcknowledgedProducer, AcknowledgedProducer.send, count=2),
        Point("answered", RazorpayRoute, RazorpayRoute.__call__, when=lambda _, answer: answer is ACCEPTED, delay=ANSWER_OUT_SECONDS),
    ),
    "normalise": _TABLE_STAGE,
    "classify": _TABLE_STAGE,
    "audit": (
        Point("rows committed", PostgresAuditLog, PostgresAuditLog.write, when=lambda call, _: bool(call[1]), count=2),
        Point("dead letter acknowledged", KafkaDeadLetters, KafkaDeadLetters.write),
        _OFFSET_COMMITTED,
    ),
    "forward": (
        Point("in flight", PostgresLedger, PostgresLedger.put, when=_is_in_flight),
        Point("accepted", LoopsClient, LoopsClient.send, when=lambda _, reply: isinstance(reply.answer, Accepted), count=2),
        Point("dead letter acknowledged", KafkaDeadLetters, KafkaDeadLetters.write, when=lambda call, _: call[2] is Reason.REFUSED),
        Point("final", PostgresLedger, PostgresLedger.put, when=lambda call, result: not _is_in_flight(call, result)),
        _OFFSET_COMMITTED,
    ),
}
"""By stage, in the order in which a test goes through them."""

WAITING = (
    Point("retry acknowledged", KafkaRetries, KafkaRetries.write),
    Point("waits", PostgresLedger, PostgresLedger.put, when=lambda call, _: call[1].wait is not None),
    _OFFSET_COMMITTED,
)
"""Those of forward for a mail that waits by itself."""


def arm(point: Point, act: Callable[[], None]) -> None:
    """Call ``act`` at ``point`` from now on, in this process."""
    calls = itertools.count(1)

    def reached(call: Call, result: Any) -> None:
        if not point.when(call, result) or next(calls) != point.count:
            return
        if point.delay:
            asyncio.get_running_loop().call_later(point.delay, act)
        else:
            act()

    present = getattr(point.owner, point.method.__name__)  # another point may have been armed on it
    if point.side == "before":
        tap(point.owner, present, before=lambda call: reached(call, None))
    else:
        tap(point.owner, present, after=reached)


def tap(
    owner: type,
    method: Callable[..., Any],
    *,
    before: Callable[[Call], None] = lambda call: None,
    after: Callable[[Call, Any], None] = lambda call, result: None,
) -> None:
    """Have ``before`` and ``after`` called round every call of ``method``. A call that raises has no after."""
    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def tapped(*call: Any, **options: Any) -> Any:
            before(call)
            result = await method(*call, **options)
            after(call, result)
            return result

    else:

        @functools.wraps(method)
        def tapped(*call: Any, **options: Any) -> Any:
            before(call)
            result = method(*call, **options)
            after(call, result)
            return result

    setattr(owner, method.__name__, tapped)


def kill() -> None:
    """End this process as SIGKILL does: nothing is flushed, closed or said."""
    os.kill(os.getpid(), signal.SIGKILL)


def stop_at(name: str) -> Callable[[], None]:
    """Return what stops this process, once it has said so, until it gets SIGCONT."""

    def stop() -> None:
        sys.stdout.write(f"{stopping(name)}\n")
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGSTOP)

    return stop


def stopping(name: str) -> str:
    """What a process says before it stops at a point."""
    return f"stops at {name}"
