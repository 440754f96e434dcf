"""Addresses of PostgreSQL: whatever stands in them, asyncpg reads the canonical form as it was meant, and nothing of a password is repeated."""

from urllib.parse import quote

import pytest
from asyncpg import connect_utils
from hypothesis import given
from hypothesis import strategies as st

from streams.settings.addresses import postgres_user, read_postgres_dsn

TEXTS = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=30)
HOSTILE = st.text(st.sampled_from("/?#[]@:% &=+\\;,aZ09é"), min_size=1, max_size=12)


def as_asyncpg_reads(dsn: str) -> tuple[object, str, str | None, str]:
    addresses, parameters = connect_utils._parse_connect_dsn_and_args(  # type: ignore[attr-defined]  # private: it is what asyncpg does
        dsn=dsn,
        **dict.fromkeys(("host", "port", "user", "password", "passfile", "database", "ssl", "service", "servicefile", "direct_tls")),
        **dict.fromkeys(("server_settings", "target_session_attrs", "krbsrvname", "gsslib")),
    )
    return addresses, parameters.user, parameters.password, parameters.database


@given(user=TEXTS | HOSTILE, password=TEXTS | HOSTILE, database=TEXTS | HOSTILE)
def test_percent_encoded_parts_reach_asyncpg_as_they_were(user: str, password: str, database: str) -> None:
    given = f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@db.example.com:5433/{quote(database, safe='')}"

    dsn = read_postgres_dsn(given)

    assert as_asyncpg_reads(dsn) == ([("db.example.com", 5433)], user, password, database)
    assert read_postgres_dsn(dsn) == dsn
    assert postgres_user(dsn) == user


@given(password=HOSTILE)
def test_password_that_is_not_encoded_reaches_asyncpg_as_it_was_or_is_refused(password: str) -> None:
    try:
        dsn = read_postgres_dsn(f"postgresql://app:{password}@db.example.com/prod")
    except ValueError:
        assert set(password) & set("/?#%")
        return

    assert as_asyncpg_reads(dsn)[0] == [("db.example.com", 5432)]
    if "%" not in password:
        assert as_asyncpg_reads(dsn)[2] == password


@given(before=TEXTS | HOSTILE, after=TEXTS | HOSTILE)
def test_refusal_repeats_nothing_of_the_address(before: str, after: str) -> None:
    with pytest.raises(ValueError, match=r"percent-encoded|has an? |holds a ") as refused:
        read_postgres_dsn(f"postgresql://app:{before}S3cret/Tail{after}@db.example.com/prod")

    assert "S3cret" not in str(refused.value)
    assert "Tail" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None or refused.value.__suppress_context__


@pytest.mark.parametrize("separator", list("/?#"))
@given(before=st.text(st.sampled_from("aZ09:@["), max_size=6), after=TEXTS)
def test_slash_question_mark_or_hash_in_a_password_is_always_refused(separator: str, before: str, after: str) -> None:
    with pytest.raises(ValueError, match=r"percent-encoded|port|host|IPv6|UTF-8|control"):
        read_postgres_dsn(f"postgresql://app:{before}{separator}{after}@db.example.com/prod")
