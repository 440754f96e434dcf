"""Why Kafka refuses a client: its login, its own certificate, the client's rights. Each is a sentence that says what to correct, without a secret.

librdkafka reports a refused connection to its error callback alone: the call itself only times out.
"""

from collections.abc import Iterable
from typing import Any

from aiokafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError
from confluent_kafka import KafkaError
from confluent_kafka.admin import AdminClient

from streams.errors import KafkaRefuses, KafkaUnavailable
from streams.kafka.client import client_config
from streams.settings import PREFIX, Settings

DENIED = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)
"""What a broker answers where an ACL is missing."""

_LOGIN = frozenset({KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError.UNSUPPORTED_SASL_MECHANISM})
_MAY_NOT_READ = (GroupAuthorizationFailedError, TopicAuthorizationFailedError)
_CONNECTION = _LOGIN | {KafkaError._SSL}


class RefusalNotingAdmin(AdminClient):
    """An administration client that knows why the brokers have refused its connections. Kafka need not be there when it is made."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._refused: KafkaError | None = None
        config: dict[str, Any] = {
            **client_config(settings),
            "socket.connection.setup.timeout.ms": 5_000,
            "reconnect.backoff.max.ms": 1_000,
            "log_level": 0,  # what it would log is in the sentences of those who call it
            "error_cb": self._note,
        }
        super().__init__(config)

    def forget(self) -> None:
        """Forget what was refused so far: what comes next is another try."""
        self.poll(0)
        self._refused = None

    def refusal(self) -> KafkaUnavailable | None:
        """Return why the connections that were tried since were refused; None when none was."""
        self.poll(0)
        return None if self._refused is None else refusal(self._settings, self._refused)

    def _note(self, error: KafkaError) -> None:
        if error.code() in _CONNECTION:
            self._refused = error


def refusal(settings: Settings, error: KafkaError, what: str = "that") -> KafkaUnavailable | None:
    """Return the error to raise where ``error`` says that Kafka refuses this client; None where it says something else.

    ``what`` is what was asked for, such as "describe audit.events". A login and a certificate are settings, and end a command with status 2.
    """
    servers, code = settings.kafka_bootstrap_servers, error.code()
    user = settings.kafka_sasl_username or "this client"
    if code in _LOGIN:
        return KafkaRefuses(
            f"Kafka at {servers} refuses the login of {user}; correct {PREFIX}KAFKA_SASL_USERNAME, {PREFIX}KAFKA_SASL_PASSWORD or "
            f"{PREFIX}KAFKA_SASL_MECHANISM."
        )
    if code == KafkaError._SSL:
        if "verif" in error.str():
            return KafkaRefuses(
                f"Kafka at {servers} shows a certificate that is not trusted; in {PREFIX}KAFKA_SSL_CAFILE name the CA that signed it, and name the "
                f"brokers as it does in {PREFIX}KAFKA_BOOTSTRAP_SERVERS."
            )
        return KafkaRefuses(f"Kafka at {servers} speaks no TLS with this client; correct {PREFIX}KAFKA_SECURITY_PROTOCOL, or the port.")
    return _denied(settings, what) if code in DENIED else None


def reader_refusal(settings: Settings, error: BaseException | None) -> KafkaUnavailable | None:
    """Return the error to raise where a consumer of aiokafka ended since it may not read a topic, or not as a member of its group; else None."""
    while error is not None:
        if isinstance(error, _MAY_NOT_READ):
            return _denied(settings, f"read {', '.join(_names(error.args)) or 'its topics'}")
        error = error.__cause__ or error.__context__
    return None


def _names(arguments: Iterable[object]) -> list[str]:
    """What an error of aiokafka is about: a name, or a set of them."""
    found = (each for argument in arguments for each in (sorted(argument) if isinstance(argument, set | frozenset | list) else (argument,)))
    return [str(each) for each in found]


def _denied(settings: Settings, what: str) -> KafkaUnavailable:
    user = settings.kafka_sasl_username or "this client"
    return KafkaUnavailable(
        f"Kafka at {settings.kafka_bootstrap_servers} does not allow {user} to {what}; grant what `tierstream topics acls` lists for its role."
    )
