"""Commit orders broken on purpose, to show that the tests find it. Each is applied to this process by calling it."""

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from confluent_kafka.admin import AdminClient

from streams.engine import transactions
from streams.engine.changelog import POSITION_PREFIX
from streams.engine.faust_transport import BatchConsumerThread
from streams.engine.handler import HandlerWorker
from streams.engine.partitions import Batch
from streams.engine.takeover import Broker
from streams.engine.transactions import Membership, Output, TransactionalWriter
from streams.engine.unfinished import Rest
from streams.kafka.producer import AcknowledgedProducer
from streams.loops.client import LoopsClient
from streams.stores.audit_log import AuditRow, PostgresAuditLog, RowResult
from streams.stores.ledger import Classification, Entry, LedgerRow, PostgresLedger
from tests.faults.crash_points import tap

TOO_LATE_SECONDS = 30.0


def position_first() -> None:
    """The position, and the group's offset, are committed in a transaction of their own, before their slice."""
    _commit_apart(position_goes_first=True)


def position_last() -> None:
    """The position, and the group's offset, are committed in a transaction of their own, after their slice."""
    _commit_apart(position_goes_first=False)


def _commit_apart(*, position_goes_first: bool) -> None:
    begin, produce, flush = TransactionalWriter.begin, TransactionalWriter.produce, TransactionalWriter.flush
    send_offsets, commit = TransactionalWriter.send_offsets, TransactionalWriter.commit
    outputs: list[Output] = []
    offsets: list[tuple[Any, ...]] = []

    def hold(_: TransactionalWriter, some: Iterable[Output], home: object = None) -> None:
        outputs.extend(some)

    async def hold_offsets(_: TransactionalWriter, *call: Any) -> None:
        offsets.append(call)

    async def commit_twice(writer: TransactionalWriter, timeout_seconds: float) -> None:
        for of_position in (position_goes_first, not position_goes_first):
            produce(writer, [output for output in outputs if (output.key or b"").startswith(POSITION_PREFIX) is of_position])
            await flush(writer, timeout_seconds)
            if of_position:
                await send_offsets(writer, *offsets.pop())
            await commit(writer, timeout_seconds)
            if of_position is position_goes_first:
                begin(writer)
        outputs.clear()

    _replace(TransactionalWriter, produce, hold)
    _replace(TransactionalWriter, send_offsets, hold_offsets)
    _replace(TransactionalWriter, commit, commit_twice)


def ack_first() -> None:
    """A handler's batch is acked, and its offset committed, before its rows are written."""
    process, write = HandlerWorker.process, PostgresAuditLog.write
    committed = asyncio.Event()

    async def ack_and_process(worker: HandlerWorker, batch: Batch) -> Rest | None:
        batch.ack()
        return await process(worker, batch)

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


def without_send_offsets() -> None:
    """The transaction does not hold the input's offsets, so that no generation fences it."""

    async def nothing(*_: Any) -> None: ...

    _replace(TransactionalWriter, TransactionalWriter.send_offsets, nothing)


def old_generation() -> None:
    """The offsets are sent in the name of nobody, as before KIP-447: the coordinator then takes those of any generation."""
    send_offsets = TransactionalWriter.send_offsets

    async def of_nobody(writer: TransactionalWriter, offsets: Any, membership: Membership, timeout_seconds: float) -> None:
        await send_offsets(writer, offsets, Membership(membership.group, -1, ""), timeout_seconds)

    _replace(TransactionalWriter, send_offsets, of_nobody)


def without_stable_offsets_wait() -> None:
    """A partition is taken over with the offsets that a plain fetch gives, whatever transaction holds newer ones."""
    list_offsets = AdminClient.list_consumer_group_offsets

    def as_they_are(client: AdminClient, *request: Any, require_stable: bool, **options: Any) -> Any:
        return list_offsets(client, *request, require_stable=False, **options)

    _replace(AdminClient, list_offsets, as_they_are)


def end_by_committed_offset() -> None:
    """A changelog is read only as far as all transactions are decided, not to its end."""
    changelog_ends = Broker.changelog_ends

    def nowhere(broker: Broker, numbers: Sequence[int]) -> dict[int, int]:
        return dict.fromkeys(changelog_ends(broker, numbers), 0)

    _replace(Broker, changelog_ends, nowhere)


def patient_broker() -> None:
    """No breakage: the broker waits long for the holder of a transaction."""
    transactions.TRANSACTION_TIMEOUT_MS = 60_000


def _replace(owner: type, method: Callable[..., Any], other: Callable[..., Any]) -> None:
    setattr(owner, method.__name__, other)


MUTATIONS: dict[str, Callable[[], None]] = {
    mutation.__name__: mutation
    for mutation in (
        position_first,
        position_last,
        ack_first,
        final_first,
        new_key,
        answer_first,
        without_send_offsets,
        old_generation,
        without_stable_offsets_wait,
        end_by_committed_offset,
        patient_broker,
    )
}
