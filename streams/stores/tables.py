"""The tables that are written, and whether a database can hold them.

Looked at before anything is written: a fault of the whole database would else show as a fault of each row, and cost it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streams.errors import DatabaseUnfit

if TYPE_CHECKING:
    from streams.stores.pool import Connection


@dataclass(frozen=True, slots=True)
class Table:
    """What is written of one table. ``columns`` is column → type, ``required`` the columns that are never null, by our own definition."""

    name: str
    key: str
    columns: Mapping[str, str]
    required: frozenset[str]


AUDIT_LOG = Table(
    "audit_log",
    "id",
    {
        "id": "uuid",
        "team_id": "uuid",
        "user_id": "uuid",
        "actor": "text",
        "kind": "text",
        "resource_type": "text",
        "resource_id": "uuid",
        "summary": "text",
        "metadata": "jsonb",
        "created_at": "timestamptz",
    },
    frozenset({"id", "actor", "kind", "summary", "metadata", "created_at"}),
)
FORWARDER_SENT = Table(
    "forwarder_sent",
    "audit_id",
    {
        "audit_id": "uuid",
        "provider": "text",
        "recipient": "text",
        "template_kind": "text",
        "classification": "text",
        "attempts": "int",
        "first_attempt_at": "timestamptz",
        "sent_at": "timestamptz",
        "last_error": "text",
        "team_id": "uuid",
        "waiting_topic": "text",
        "waiting_due": "timestamptz",
        "waiting_round": "int",
        "origin_partition": "int",
        "origin_offset": "bigint",
    },
    frozenset({"audit_id", "provider", "template_kind", "classification", "attempts"}),
)
OUR_TABLES = {table.name: table for table in (AUDIT_LOG, FORWARDER_SENT)}

_SPELLINGS = {"timestamptz": "timestamp with time zone", "int": "integer"}
"""As ``format_type`` spells them."""

_COLUMNS = """
select attname as name, format_type(atttypid, atttypmod) as type
from pg_attribute where attrelid = to_regclass($1) and attnum > 0 and not attisdropped
"""
_HAS_KEY = """
select exists (
    select from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
    where i.indrelid = to_regclass($1) and a.attname = $2
        and i.indisunique and i.indisvalid and i.indimmediate and i.indnkeyatts = 1 and i.indpred is null
)
"""


async def check_encoding(connection: "Connection", server: str) -> None:
    """Raise DatabaseUnfit when the database is not UTF-8."""
    encoding = await connection.fetchval("select current_setting('server_encoding')")
    if encoding != "UTF8":
        raise DatabaseUnfit(
            f"{server} has the encoding {encoding}, which can not hold every name and text; create a database with encoding 'UTF8'."
        )


async def check_database(connection: "Connection", server: str) -> None:
    """Raise DatabaseUnfit when the database is not UTF-8, or can not be written to."""
    await check_encoding(connection, server)
    if await connection.fetchval("select current_setting('transaction_read_only')::bool"):
        raise DatabaseUnfit(f"{server} can only be read; correct TIERSTREAM_POSTGRES_DSN to name the primary, or make it writable.")


async def check_table(connection: "Connection", server: str, table: Table) -> None:
    """Raise DatabaseUnfit when the database can not hold what is written to ``table``."""
    await check_database(connection, server)
    types = {row["name"]: row["type"] for row in await connection.fetch(_COLUMNS, table.name)}
    if not types:
        raise DatabaseUnfit(f"{server} has no table {table.name}; run `tierstream migrate`.")
    missing = sorted(table.columns.keys() - types.keys())
    if missing:
        raise DatabaseUnfit(f"{server}: table {table.name} lacks {', '.join(missing)}; run `tierstream migrate`, or add what it lacks.")
    others = [f"{column} is {types[column]}, not {wanted}" for column, wanted in table.columns.items() if not _fits(types[column], wanted)]
    if others:
        raise DatabaseUnfit(f"{server}: table {table.name} has other types ({'; '.join(others)}); alter them.")
    if not await connection.fetchval(_HAS_KEY, table.name, table.key):
        raise DatabaseUnfit(f"{server}: table {table.name} would hold a row twice; make {table.key} its primary key.")


def _fits(found: str, wanted: str) -> bool:
    return found == _SPELLINGS.get(wanted, wanted) or (wanted == "text" and found.startswith("character varying"))
