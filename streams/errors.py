"""The error tree. ``retriable`` says whether the same call may succeed later without anybody changing anything.

    TierstreamError
    ├── ConfigurationError        a setting is missing or wrong; the start stops (exit 2)
    ├── TopologyError             topics are absent or differ from streams/topics.py (exit 1)
    ├── Unavailable               a service does not answer (retriable)
    │   ├── KafkaUnavailable
    │   │   └── KafkaRefuses      it refuses the login, or its certificate is not trusted (exit 2)
    │   ├── PostgresUnavailable
    │   ├── LoopsUnavailable
    │   └── RazorpayUnavailable
    ├── RecordTooLarge            Kafka, or a topic of it, takes no record of this size
    ├── LoopsKeyRejected          Loops itself says that the key is wrong: nothing is sent until it accepts it
    ├── RazorpayRefused           Razorpay's API refuses the key, or the address is not its (exit 2)
    ├── RowRejected               PostgreSQL refuses the rows themselves (SQLSTATE class 22)
    ├── ConstraintRefuses         a constraint or trigger that is not ours refuses them, for now (SQLSTATE class 23, 44 or P0)
    ├── DatabaseUnfit             the database can not hold what is written: its encoding, a table, a column (exit 1)
    ├── MigrationError            a migration that was applied has been changed since
    ├── NotFound                  what a command was asked for is not there (exit 1)
    ├── PositionError             a table's position does not fit its topic (recreated, truncated)
    ├── SettingsRefused           rows were decided with other settings, and nobody said that they may change (exit 1)
    ├── SnapshotError             a snapshot can not be read, or is not of this stack (exit 2)
    ├── Fenced                    Kafka takes nothing more of this worker's producer; it must exit, and starts again
    │   └── InstanceIdTaken       another process works under this one's instance id (exit 3)
    ├── GenerationEnded           the consumer group has gone on; what was read in its former generation is read again
    ├── ProducerLost              a transactional producer can not go on; a new one is needed (retriable)
    └── StageFailed               a stage could not go on and must be restarted

Each message is one sentence: what, where, what to do. Neither secrets nor addresses are ever part of one.
"""


class TierstreamError(Exception):
    """Base of every error that tierstream raises on purpose."""

    retriable: bool = False
    exit_code: int = 1


class ConfigurationError(TierstreamError):
    """A setting is missing or wrong."""

    exit_code = 2


class TopologyError(TierstreamError):
    """A topic is absent, or differs from the topology."""


class Unavailable(TierstreamError):
    """A service that is needed does not answer."""

    retriable = True


class KafkaUnavailable(Unavailable):
    """Kafka does not answer or does not acknowledge."""


class KafkaRefuses(KafkaUnavailable):
    """Kafka refuses the login, or shows a certificate that is not trusted: a setting is wrong, here or there."""

    exit_code = 2


class PostgresUnavailable(Unavailable):
    """PostgreSQL does not answer, or lacks a table (an outage like any other: `tierstream migrate` ends it)."""


class LoopsUnavailable(Unavailable):
    """Loops does not answer, or nothing that settles an event: 5xx, or a page of something that is not Loops."""


class RazorpayUnavailable(Unavailable):
    """Razorpay's API does not answer, or not with what it should."""


class RazorpayRefused(TierstreamError):
    """Razorpay's API refuses the key, or the address is not that of Razorpay's API."""

    exit_code = 2


class RecordTooLarge(TierstreamError):
    """A record is larger than its topic takes."""


class LoopsKeyRejected(TierstreamError):
    """Loops rejects the API key."""


class RowRejected(TierstreamError):
    """PostgreSQL refuses the rows themselves (SQLSTATE class 22, or null in a column of ours): no retry can help."""


class ConstraintRefuses(TierstreamError):
    """A constraint or a trigger refuses rows, and it is not ours: they are right, and taken once somebody has mended that.

    ``constraint`` names it in words. ``is_missing_reference`` says that it is a foreign key, and that the row that it asks for is not
    there, or not yet.
    """

    retriable = True

    def __init__(self, message: str, constraint: str, *, is_missing_reference: bool = False) -> None:
        super().__init__(message)
        self.constraint = constraint
        self.is_missing_reference = is_missing_reference


class DatabaseUnfit(TierstreamError):
    """The database can not hold what is written to it."""


class MigrationError(TierstreamError):
    """The database's migrations and the files differ."""


class NotFound(TierstreamError):
    """What a command was asked for is not there; the message says where it was looked for."""


class PositionError(TierstreamError):
    """The position row of a table partition does not fit its topic."""


class SettingsRefused(TierstreamError):
    """The rows of a table were decided with other settings, and the worker may not accept what changes."""


class SnapshotError(TierstreamError):
    """A snapshot of `tierstream verify` can not be read or written, or is not of this stack."""

    exit_code = 2


class Fenced(TierstreamError):
    """Kafka takes nothing more of this worker's producer: it was silent for too long in a transaction, or another has its name."""


class InstanceIdTaken(Fenced):
    """Another process was started with the instance id of this one. An exit code of its own, for a restart takes the other's place."""

    exit_code = 3


class GenerationEnded(TierstreamError):
    """The consumer group has gone on to another generation: nothing that was read in the former one can be committed any more."""


class ProducerLost(TierstreamError):
    """A transactional producer can not go on: the broker has forgotten it, or a call to it does not return.

    Whether its open transaction counts is known once a new producer of the same id is open.
    """

    retriable = True


class StageFailed(TierstreamError):
    """A stage can not go on in this process."""
