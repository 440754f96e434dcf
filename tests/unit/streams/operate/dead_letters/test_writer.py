"""The sentence for an operator when the producer fails for good, however its client raises that."""

import pytest
from confluent_kafka import KafkaError, KafkaException

from streams.errors import Fenced, KafkaUnavailable
from streams.operate.dead_letters import writer
from streams.operate.dead_letters.outcomes import Written
from streams.operate.dead_letters.writer import TransactionalOutcomes
from streams.settings import Settings

RECORD = Written("razorpay.webhooks", b"key", b"{}", [])


class FailedProducer:
    """A producer whose ``flush`` raises an error, and that says why when it is to abort."""

    def __init__(self, raised: BaseException, refusal: KafkaException | None) -> None:
        self.raised, self.refusal, self.aborts = raised, refusal, 0

    def begin_transaction(self) -> None: ...

    def produce(self, *_arguments: object, **_options: object) -> None: ...

    def poll(self, _seconds: float) -> None: ...

    def purge(self) -> None: ...

    def flush(self, _seconds: float) -> int:
        raise self.raised

    def abort_transaction(self, _seconds: float) -> None:
        self.aborts += 1
        if self.refusal is not None:
            raise self.refusal


def outcomes(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException, refusal: KafkaException | None
) -> tuple[TransactionalOutcomes, FailedProducer]:
    producer = FailedProducer(raised, refusal)
    monkeypatch.setattr(writer, "Producer", lambda *_arguments, **_options: producer)
    return TransactionalOutcomes(Settings(kafka_bootstrap_servers="127.0.0.1:1")), producer


def test_a_fatal_error_that_the_client_lost_on_its_way_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fenced = KafkaException(KafkaError(KafkaError._FENCED, "fenced", fatal=True))
    written, producer = outcomes(monkeypatch, SystemError("flush returned NULL without setting an exception"), fenced)
    with pytest.raises(Fenced, match="Another `tierstream dlq` has begun meanwhile"):
        written.commit([RECORD])
    assert producer.aborts == 1


@pytest.mark.parametrize("refusal", [None, KafkaException(KafkaError(KafkaError._STATE, "no transaction"))], ids=["aborted", "refused"])
def test_an_error_keeps_its_own_cause_whatever_the_abort_says(monkeypatch: pytest.MonkeyPatch, refusal: KafkaException | None) -> None:
    written, producer = outcomes(monkeypatch, KafkaException(KafkaError(KafkaError._MSG_TIMED_OUT, "Local: timed out")), refusal)
    with pytest.raises(KafkaUnavailable, match="Local: timed out"):
        written.commit([RECORD])
    assert producer.aborts == 1


def test_an_error_of_the_interpreter_alone_is_raised_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    written, producer = outcomes(monkeypatch, SystemError("something else"), None)
    with pytest.raises(SystemError, match="something else"):
        written.commit([RECORD])
    assert producer.aborts == 1
