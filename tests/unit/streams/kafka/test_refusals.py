"""What is said where Kafka refuses a client."""

import pytest
from aiokafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError
from confluent_kafka import KafkaError

from streams.errors import KafkaRefuses, KafkaUnavailable
from streams.kafka.refusals import DENIED, RefusalNotingAdmin, reader_refusal, refusal
from streams.settings import Settings, load_settings

PASSWORD = "S3cretTail"


def settings() -> Settings:
    return load_settings(
        kafka_bootstrap_servers="kafka-1:9093",
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_mechanism="SCRAM-SHA-512",
        kafka_sasl_username="audit",
        kafka_sasl_password=PASSWORD,
    )


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (
            KafkaError(KafkaError._AUTHENTICATION, f"invalid credentials {PASSWORD}"),
            2,
            "refuses the login of audit; correct TIERSTREAM_KAFKA_SASL_USERNAME",
        ),
        (KafkaError(KafkaError.UNSUPPORTED_SASL_MECHANISM), 2, "TIERSTREAM_KAFKA_SASL_MECHANISM"),
        (
            KafkaError(KafkaError._SSL, "certificate verify failed: could not be verified"),
            2,
            "shows a certificate that is not trusted; in TIERSTREAM_KAFKA_SSL_CAFILE",
        ),
        (
            KafkaError(KafkaError._SSL, "wrong version number"),
            2,
            "speaks no TLS with this client; correct TIERSTREAM_KAFKA_SECURITY_PROTOCOL",
        ),
        *(
            (KafkaError(code), 1, "does not allow audit to write to x; grant what `tierstream topics acls` lists")
            for code in sorted(DENIED)
        ),
    ],
)
def test_refusal_is_one_sentence_that_names_what_to_correct(error: KafkaError, status: int, words: str) -> None:
    said = refusal(settings(), error, "write to x")

    assert isinstance(said, KafkaUnavailable), "it may be put right on the broker's side, so whoever waits for Kafka waits"
    assert isinstance(said, KafkaRefuses) == (status == 2)
    assert said.exit_code == status
    assert str(said).startswith("Kafka at kafka-1:9093 ")
    assert words in str(said)
    assert PASSWORD not in str(said)


def test_what_is_no_refusal_is_left_to_others() -> None:
    assert refusal(settings(), KafkaError(KafkaError._TIMED_OUT)) is None


def test_admin_remembers_the_refusal_until_the_next_try() -> None:
    admin = RefusalNotingAdmin(settings())
    assert admin.refusal() is None

    admin._note(KafkaError(KafkaError._TRANSPORT))
    admin._note(KafkaError(KafkaError._AUTHENTICATION))
    admin._note(KafkaError(KafkaError._ALL_BROKERS_DOWN))
    assert isinstance(admin.refusal(), KafkaRefuses)

    admin.forget()
    assert admin.refusal() is None


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (TopicAuthorizationFailedError("audit.events"), "audit.events"),
        (TopicAuthorizationFailedError({"b", "a"}), "a, b"),
        (GroupAuthorizationFailedError("tierstream.audit"), "tierstream.audit"),
    ],
)
def test_reader_that_may_not_read_is_told_what(error: Exception, named: str) -> None:
    outer = RuntimeError("the consumer's thread ended")
    outer.__cause__ = error

    for each in (error, outer):
        said = reader_refusal(settings(), each)
        assert said is not None
        assert f"does not allow audit to read {named}; grant" in str(said)


def test_reader_that_ended_for_another_reason_is_left_to_others() -> None:
    assert reader_refusal(settings(), RuntimeError()) is None
    assert reader_refusal(settings(), None) is None
