"""What PostgreSQL's errors mean."""

import ssl

import asyncpg
import pytest

from streams.errors import ConfigurationError, ConstraintRefuses, PostgresUnavailable, RowRejected
from streams.runtime.waiting import Waiting
from streams.stores.pool import Fault, PostgresPool, classify_error, describe_server, translate

SERVER = "PostgreSQL at db:5432/app"


def raised(kind: type[asyncpg.PostgresError], **fields: str) -> asyncpg.PostgresError:
    """An error as the driver makes it of the server's fields."""
    error = kind("refused")
    for name, value in fields.items():
        setattr(error, name, value)
    return error


def not_null(table: str, column: str) -> asyncpg.PostgresError:
    return raised(asyncpg.NotNullViolationError, table_name=table, column_name=column)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.UntranslatableCharacterError("22P05: a NUL in jsonb"),
        asyncpg.CharacterNotInRepertoireError("22021: a NUL in text"),
        asyncpg.NumericValueOutOfRangeError("22003"),
        asyncpg.InvalidTextRepresentationError("22P02"),
        not_null("audit_log", "summary"),
        not_null("forwarder_sent", "template_kind"),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
        OverflowError("date value out of range"),
    ],
)
def test_classify_error_data_exception_or_null_in_a_column_of_ours_is_poison(error: Exception) -> None:
    assert classify_error(error) is Fault.POISON
    assert isinstance(translate(error, SERVER), RowRejected)


@pytest.mark.parametrize(
    ("error", "constraint"),
    [
        (not_null("audit_log", "tenant"), "column tenant of audit_log"),
        (not_null("audit_log", "team_id"), "column team_id of audit_log"),
        (raised(asyncpg.UniqueViolationError, constraint_name="once", table_name="audit_log"), "constraint once of audit_log"),
        (raised(asyncpg.CheckViolationError, constraint_name="known", table_name="audit_log"), "constraint known of audit_log"),
        (raised(asyncpg.ForeignKeyViolationError, constraint_name="team", table_name="audit_log"), "constraint team of audit_log"),
        (raised(asyncpg.RaiseError, context="PL/pgSQL function refuse() line 1 at RAISE"), "trigger function refuse"),
        (raised(asyncpg.WithCheckOptionViolationError), "rule"),
    ],
)
def test_classify_error_constraint_or_trigger_that_is_not_ours_is_named(error: asyncpg.PostgresError, constraint: str) -> None:
    error.message = "Key (email)=(asha@example.com) is not present"

    refusal = translate(error, SERVER)

    assert classify_error(error) is Fault.CONSTRAINT
    assert isinstance(refusal, ConstraintRefuses)
    assert refusal.constraint == constraint
    assert refusal.is_missing_reference == isinstance(error, asyncpg.ForeignKeyViolationError)
    assert "asha" not in str(refusal)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.UndefinedTableError("42P01"),
        asyncpg.UndefinedColumnError("42703"),
        asyncpg.AdminShutdownError("57P01"),
        asyncpg.CannotConnectNowError("57P03"),
        asyncpg.TooManyConnectionsError("53300"),
        asyncpg.DiskFullError("53100"),
        asyncpg.DeadlockDetectedError("40P01"),
        asyncpg.InvalidPasswordError("28P01"),
        asyncpg.InvalidCatalogNameError("3D000"),
        asyncpg.InsufficientPrivilegeError("42501"),
        asyncpg.InvalidCachedStatementError("0A000"),
        asyncpg.ReadOnlySQLTransactionError("25006"),
        asyncpg.ConnectionDoesNotExistError("08003"),
        asyncpg.InterfaceError("connection is closed"),
        ConnectionRefusedError(),
        TimeoutError(),
    ],
)
def test_classify_error_everything_else_is_an_outage(error: Exception) -> None:
    assert classify_error(error) is Fault.OUTAGE
    assert isinstance(translate(error, SERVER), PostgresUnavailable)


def test_translate_missing_table_names_the_command_that_makes_it() -> None:
    error = asyncpg.UndefinedTableError()
    error.message = 'relation "audit_log" does not exist'  # as the driver fills it from the server's answer

    assert str(translate(error, SERVER)) == (
        "PostgreSQL at db:5432/app lacks a table or a column "
        '(SQLSTATE 42P01: relation "audit_log" does not exist); run `tierstream migrate`.'
    )


def test_translate_missing_privilege_names_the_command_that_makes_the_roles() -> None:
    error = asyncpg.InsufficientPrivilegeError()
    error.message = "permission denied for table audit_log"

    assert str(translate(error, SERVER)) == (
        "PostgreSQL at db:5432/app does not allow that to its user (SQLSTATE 42501: permission denied for table audit_log); make it a member of the "
        "role for it, which `tierstream migrate --roles` creates."
    )


def test_translate_certificate_that_is_not_trusted_says_why_and_what_to_name() -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "Hostname mismatch, certificate is not valid for 'db'."

    assert str(translate(error, SERVER)) == (
        "PostgreSQL at db:5432/app shows a certificate that is not trusted (Hostname mismatch, certificate is not valid for 'db'); in "
        "TIERSTREAM_POSTGRES_DSN name the CA that signed it as sslrootcert, and the host as the certificate does."
    )


def test_translate_server_without_tls_says_so() -> None:
    error = ConnectionError('PostgreSQL server at "db:5432" rejected SSL upgrade')

    assert "takes no TLS connections, which sslmode asks for" in str(translate(error, SERVER))


def test_translate_refused_value_is_not_quoted() -> None:
    error = asyncpg.InvalidTextRepresentationError('invalid input syntax for type uuid: "asha@example.com"')
    error.message = str(error)

    assert "asha" not in str(translate(error, SERVER))


def test_describe_server_hides_user_and_password() -> None:
    assert describe_server("postgresql://user:p4ss@db.internal:6432/app") == "PostgreSQL at db.internal:6432/app"
    assert describe_server("host=db password=p4ss") == "PostgreSQL"
    assert describe_server("postgresql://user:p4ss@db:not-a-port/app") == "PostgreSQL"


async def test_pool_opens_while_postgres_is_away_and_says_so_on_use() -> None:
    pool = PostgresPool("postgresql://nobody@127.0.0.1:1/none", Waiting("test", "postgres"))
    await pool.open()

    with pytest.raises(PostgresUnavailable, match=r"^PostgreSQL at 127.0.0.1:1/none does not answer \(ConnectionRefusedError\); start it"):
        await pool.attempt(lambda connection: connection.execute("select 1"))
    await pool.close()


async def test_pool_dsn_that_is_none_is_a_configuration_error() -> None:
    pool = PostgresPool("mysql://somewhere", Waiting("test", "postgres"))
    await pool.open()

    with pytest.raises(ConfigurationError, match="TIERSTREAM_POSTGRES_DSN is no PostgreSQL address"):
        await pool.run(lambda connection: connection.execute("select 1"))
    await pool.close()
