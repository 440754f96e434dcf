"""Commit orders broken on purpose, to show that the tests find it. Each is applied to this process by calling it."""

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from streams.engine.app import HandlerWorker
from streams.engine.changelog import POSITION_PREFIX
from streams.engine.faust_transport import BatchConsumerThread
from streams.engine.partitions import Batch
from streams.engine.transactions import Output, TransactionalWriter
from streams.kafka.producer import AcknowledgedProducer
from streams.loops.client import LoopsClient
from streams.settings import Settings
from streams.stores.audit_log import AuditRow, PostgresAuditLog, RowResult
from streams.stores.ledger import Classification, Entry, LedgerRow, PostgresLedger
from tests.faults.crash_points import tap

TOO_LATE_SECONDS = 30.0


def position_first() -> None:
    """The position is committed in a transaction of its own, before its slice."""
    _commit_apart(_is_position)


def position_last() -> None:
    """The position is committed in a transaction of its own, after its slice."""
    _commit_apart(lambda key: not _is_position(key))


def _is_position(key: bytes | None) -> bool:
    return (key or b"").startswith(POSITION_PREFIX)


def _commit_apart(goes_first: Callable[[bytes | None], bool]) -> None:
    begin, produce, commit = TransactionalWriter.begin, TransactionalWriter.produce, TransactionalWriter.commit
    held: defaultdict[str, list[Output]] = defaultdict(list)

    def hold(writer: TransactionalWriter, outputs: Iterable[Output]) -> None:
        held[writer.transactional_id] += outputs

    def commit_twice(writer: TransactionalWriter, timeout_seconds: float) -> None:
        outputs = held.pop(writer.transactional_id)
        produce(writer, [output for output in outputs if goes_first(output.key)])
        commit(writer, timeout_seconds)
        begin(writer)
        produce(writer, [output for output in outputs if not goes_first(output.key)])
        commit(writer, timeout_seconds)

    _replace(TransactionalWriter, produce, hold)
    _replace(TransactionalWriter, commit, commit_twice)


def ack_first() -> None:
    """A handler's batch is acked, and its offset committed, before its rows are written."""
    process, write = HandlerWorker.process, PostgresAuditLog.write
    committed = asyncio.Event()

    async def ack_and_process(worker: HandlerWorker, batch: Batch) -> None:
        batch.ack()
        await process(worker, batch)

    async def write_later(audit_log: PostgresAuditLog, rows: Sequence[AuditRow]) -> list[RowResult]:
        await committed.wait()
        return await write(audit_log, rows)

    tap(BatchConsumerThread, BatchConsumerThread.commit, after=lambda call, result: committed.set())
    _replace(HandlerWorker, process, ack_and_process)
    _replace(PostgresAuditLog, write, write_later)


def final_first() -> None:
    """The ledger says ``sent`` before Loops is called."""
    put = PostgresLedger.put

    async def put_as_sent(ledger: PostgresLedger, entry: Entry) -> LedgerRow | None:
        if entry.classification is Classification.IN_FLIGHT:
            entry = entry._replace(classification=Classification.SENT)
        return await put(ledger, entry)

    _replace(PostgresLedger, put, put_as_sent)


def new_key() -> None:
    """Each attempt has an Idempotency-Key of its own."""
    send = LoopsClient.send

    async def send_with_new_key(client: LoopsClient, payload: Any, idempotency_key: str) -> Any:
        return await send(client, payload, f"{idempotency_key}/{os.urandom(8).hex()}")

    _replace(LoopsClient, send, send_with_new_key)


def answer_first() -> None:
    """The gateway answers, and hands the record over to Kafka later."""
    send = AcknowledgedProducer.send

    async def send_later(producer: AcknowledgedProducer, *record: Any, **options: Any) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(TOO_LATE_SECONDS, lambda: loop.create_task(send(producer, *record, **options)))

    _replace(AcknowledgedProducer, send, send_later)


def nobody_fenced() -> None:
    """The transactional id is this process's own, so that taking a partition over fences nobody."""
    original_init = TransactionalWriter.__init__

    def with_own_id(writer: TransactionalWriter, settings: Settings, transactional_id: str) -> None:
        original_init(writer, settings, f"{transactional_id}-{os.getpid()}")

    _replace(TransactionalWriter, original_init, with_own_id)


def offsets_kept_back() -> None:
    """The group's offset is never committed: no breakage, but what a crash ahead of the next commit leaves."""

    async def never(thread: BatchConsumerThread, offsets: Any) -> bool:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    _replace(BatchConsumerThread, BatchConsumerThread.commit, never)


def _replace(owner: type, method: Callable[..., Any], other: Callable[..., Any]) -> None:
    setattr(owner, method.__name__, other)


MUTATIONS: dict[str, Callable[[], None]] = {
    mutation.__name__: mutation
    for mutation in (position_first, position_last, ack_first, final_first, new_key, answer_first, nobody_fenced, offsets_kept_back)
}
