"""PostgreSQL over TLS: what is verified, and what is said where it can not be."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from streams.errors import PostgresUnavailable
from streams.settings import PREFIX
from streams.stores.audit_log import PostgresAuditLog, RowStatus
from streams.stores.migrate import migrate, read_migrations
from streams.stores.tables import AUDIT_LOG
from tests import forked
from tests.certificates import Authority
from tests.integration.databases import pool_of, query
from tests.integration.test_audit_log import row
from tests.postgres_tls import behind_tls

NAMES = [migration.name for migration in read_migrations()]


@dataclass
class Secured:
    """A database that is reached by TLS alone, at ``dsn`` under the name 127.0.0.1 and at ``elsewhere`` under one that its certificate has not."""

    dsn: str
    elsewhere: str
    authority: Authority
    other: Authority

    def verified(self, dsn: str | None = None, authority: Authority | None = None) -> str:
        """An address at which the certificate is verified."""
        root = (authority or self.authority).certificate
        return f"{dsn or self.dsn}?sslmode=verify-full&sslrootcert={quote(str(root), safe='')}"


@pytest.fixture(scope="session")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Authority]:
    directory = tmp_path_factory.mktemp("certificates")
    return Authority(directory / "ours"), Authority(directory / "other")


@pytest.fixture
async def secured(direct_database: str, authorities: tuple[Authority, Authority]) -> AsyncIterator[Secured]:
    ours, other = authorities
    issued = ours.issue("IP:127.0.0.1")
    async with behind_tls(direct_database, issued) as dsn, behind_tls(direct_database, issued, host="localhost") as elsewhere:
        yield Secured(dsn, elsewhere, ours, other)


def password(dsn: str) -> str:
    found = urlsplit(dsn).password
    assert found
    return found


async def command(dsn: str, tmp_path: Path) -> tuple[int, str]:
    """Run ``tierstream migrate`` with this address alone; return its status and all that it printed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    done = await asyncio.to_thread(forked.tierstream, "migrate", env={**clean, f"{PREFIX}POSTGRES_DSN": dsn}, cwd=tmp_path)
    return done.returncode, done.stdout + done.stderr


async def test_everything_works_with_a_certificate_that_is_verified(secured: Secured) -> None:
    dsn = secured.verified()

    assert await migrate(dsn) == NAMES
    async with pool_of(dsn, table=AUDIT_LOG) as pool:
        results = await PostgresAuditLog(pool).write([row(1), row(1), row(2)])

    assert [result.status for result in results] == [RowStatus.INSERTED, RowStatus.ALREADY_THERE, RowStatus.INSERTED]
    assert len(await query(dsn, "select id from audit_log")) == 2


async def test_certificate_of_another_authority_is_refused_in_one_sentence_that_says_why(secured: Secured, tmp_path: Path) -> None:
    code, said = await command(secured.verified(authority=secured.other), tmp_path)

    assert (code, said.count("\n")) == (1, 1)
    assert said.startswith("tierstream: PostgreSQL at 127.0.0.1:")
    assert "shows a certificate that is not trusted (unable to get local issuer certificate)" in said
    assert password(secured.dsn) not in said


async def test_certificate_of_another_host_is_refused_in_one_sentence_that_says_why(secured: Secured, tmp_path: Path) -> None:
    code, said = await command(secured.verified(secured.elsewhere), tmp_path)

    assert (code, said.count("\n")) == (1, 1)
    assert "shows a certificate that is not trusted (Hostname mismatch, certificate is not valid for 'localhost')" in said
    assert password(secured.dsn) not in said


async def test_server_without_tls_is_refused_before_a_password_is_sent(direct_database: str, secured: Secured, tmp_path: Path) -> None:
    code, said = await command(secured.verified(direct_database), tmp_path)

    assert (code, said.count("\n")) == (1, 1)
    assert "takes no TLS connections, which sslmode asks for" in said
    assert password(direct_database) not in said


async def test_pool_of_a_stage_refuses_what_a_command_refuses(secured: Secured) -> None:
    for dsn in (secured.verified(authority=secured.other), secured.verified(secured.elsewhere)):
        async with pool_of(dsn, table=AUDIT_LOG) as pool:
            with pytest.raises(PostgresUnavailable, match="shows a certificate that is not trusted"):
                await pool.check()


async def test_without_verification_the_same_server_is_taken(secured: Secured) -> None:
    assert await migrate(f"{secured.elsewhere}?sslmode=require") == NAMES, "what is refused above is refused for its certificate alone"
