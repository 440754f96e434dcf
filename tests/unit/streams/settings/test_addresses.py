"""Addresses: what is read, into which form, and what is refused without a word of it."""

import pytest

from streams.settings.addresses import (
    postgres_parameters,
    postgres_user,
    read_bootstrap_servers,
    read_loops_base_url,
    read_postgres_dsn,
    read_razorpay_api_url,
)


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("postgresql://app:secret@db:5432/prod", "postgresql://app:secret@db:5432/prod"),
        ("postgres://app:secret@db/prod", "postgresql://app:secret@db:5432/prod"),
        ("POSTGRESQL://app@db.example.com./prod", "postgresql://app@db.example.com.:5432/prod"),
        ("postgresql://db/prod", "postgresql://db:5432/prod"),
        ("postgresql://my_db", "postgresql://my_db:5432/"),
        ("postgresql:///prod", "postgresql:///prod"),
        ("postgresql://app:[S3cret@db/prod", "postgresql://app:%5BS3cret@db:5432/prod"),
        ("postgresql://app:p:w@db/prod", "postgresql://app:p%3Aw@db:5432/prod"),
        ("postgresql://app:p@w@db/prod", "postgresql://app:p%40w@db:5432/prod"),
        ("postgresql://app:p w@db/prod", "postgresql://app:p%20w@db:5432/prod"),
        ("postgresql://app:50%off@db/prod", "postgresql://app:50%25off@db:5432/prod"),
        ("postgresql://app:p%2Fw%3F%23@db/prod", "postgresql://app:p%2Fw%3F%23@db:5432/prod"),
        ("postgresql://app:schlüssel@db/prod", "postgresql://app:schl%C3%BCssel@db:5432/prod"),
        ("postgresql://app:@db/prod", "postgresql://app@db:5432/prod"),
        ("postgresql://app:s@[2001:DB8::1]:5433/prod", "postgresql://app:s@[2001:db8::1]:5433/prod"),
        ("postgresql://app:s@a:1,b/prod", "postgresql://app:s@a:1,b:5432/prod"),
        ("postgresql://app@%2Frun%2Fpostgresql/prod", "postgresql://app@%2Frun%2Fpostgresql:5432/prod"),
        ("postgresql:///prod?host=/run/postgresql&user=app", "postgresql:///prod?host=%2Frun%2Fpostgresql&user=app"),
        (
            "postgresql://app@db/prod?sslmode=verify-full&sslrootcert=/etc/ca.pem&&options=-c+a%3Db",
            "postgresql://app@db:5432/prod?sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem&options=-c%20a%3Db",
        ),
    ],
)
def test_postgres_address_is_read_into_one_form_and_that_form_into_itself(given: str, canonical: str) -> None:
    assert read_postgres_dsn(given) == canonical
    assert read_postgres_dsn(canonical) == canonical


@pytest.mark.parametrize(
    ("given", "phrase"),
    [
        ("postgresql://app:12/S3cretTail@db.invalid:5432/prod", "percent-encoded"),
        ("postgresql://app:7?S3cretTail@127.0.0.1:5432/prod", "percent-encoded"),
        ("postgresql://app:7?x=S3cretTail@127.0.0.1:5432/prod", "percent-encoded"),
        ("postgresql://app:p/S3cretTail@127.0.0.1:5432/prod", "percent-encoded"),
        ("postgresql://app:p#S3cretTail@127.0.0.1:5432/prod", "percent-encoded"),
        ("postgresql://app:p@S3cret/Tail@127.0.0.1:5432/prod", "percent-encoded"),
        ("postgresql://app:S3cretTail@db/prod#", "percent-encoded"),
        ("postgresql://app:S3cretTail@db/prod/more", "percent-encoded"),
        ("postgresql://app:S3cretTail", "port"),
        ("postgresql://app:S3cretTail@db:S3cretTail/prod", "port"),
        ("postgresql://app:S3cretTail@db:0/prod", "port"),
        ("postgresql://app:S3cretTail@db:65536/prod", "port"),
        ("postgresql://app:S3cretTail@db:\u0665\u0664/prod", "port"),
        ("postgresql://app:S3cretTail@d b/prod", "host"),
        ("postgresql://app:S3cretTail@db\\x/prod", "host"),
        ("postgresql://app:S3cretTail@a,,b/prod", "host"),
        (f"postgresql://app:S3cretTail@{'a' * 64}/prod", "host"),
        ("postgresql://app:S3cretTail@[::1/prod", "IPv6"),
        ("postgresql://app:S3cretTail@[db]/prod", "IPv6"),
        ("postgresql://app:S3cretTail%00@db/prod", "control character"),
        ("postgresql://app:S3cretTail%ff@db/prod", "UTF-8"),
        ("postgresql://app:S3cretTail@db/prod?S3cretTail", "name=value"),
        ("postgresql://app:S3cretTail@db/prod?sslmode=S3cretTail", "another sslmode than disable,"),
        ("postgresql://app:S3cretTail@db/prod?port=S3cretTail", "port"),
        ("postgresql://app:S3cretTail@db/prod?channel_binding=require", "channel_binding"),
        ("mysql://app:S3cretTail@db/prod", "write postgresql://"),
        ("postgresql+asyncpg://app:S3cretTail@db/prod", "write postgresql://"),
        ("host=db password=S3cretTail", "write postgresql://"),
        ("S3cretTail", "write postgresql://"),
    ],
)
def test_postgres_address_that_is_none_is_refused_without_a_word_of_it(given: str, phrase: str) -> None:
    with pytest.raises(ValueError, match=phrase) as refused:
        read_postgres_dsn(given)

    assert "S3cret" not in str(refused.value)
    assert "Tail" not in str(refused.value)


def test_postgres_parameters_and_user_are_those_of_the_address() -> None:
    dsn = read_postgres_dsn("postgresql://a%40b:c@db/prod?sslmode=require&sslrootcert=/etc/ca 1.pem")

    assert postgres_parameters(dsn) == {"sslmode": "require", "sslrootcert": "/etc/ca 1.pem"}
    assert postgres_user(dsn) == "a@b"


@pytest.mark.parametrize(
    ("dsn", "user"), [("postgresql:///d?user=app", "app"), ("postgresql://db:5432/d", ""), ("postgresql://@db:1/d", "")]
)
def test_postgres_user_may_be_a_parameter_or_none(dsn: str, user: str) -> None:
    assert postgres_user(dsn) == user


@pytest.mark.parametrize(
    ("given", "servers"),
    [
        ("", ""),
        ("kafka:9092", "kafka:9092"),
        (" a:1 ,b ,, [::1]:3,", "a:1,b:9092,[::1]:3"),
        ("kafka-1.example.com", "kafka-1.example.com:9092"),
        (" , ", ""),
    ],
)
def test_bootstrap_servers_are_host_and_port_each(given: str, servers: str) -> None:
    assert read_bootstrap_servers(given) == servers
    assert read_bootstrap_servers(servers) == servers


@pytest.mark.parametrize(
    ("given", "phrase"),
    [
        ("kafka://kafka:9092", "scheme"),
        ("a:1,SASL_SSL://b:2", "scheme"),
        ("kafka:port", "port"),
        ("kafka:", "port"),
        ("kafka:99999", "port"),
        ("kafka:\u0663", "port"),
        ("user:word@kafka:9092", "port"),
        ("word@kafka", "host"),
        ("a b:9092", "host"),
        ("kafka:9092/x", "port"),
        ("::1", "host"),
        ("[::1]9092", "IPv6"),
    ],
)
def test_bootstrap_servers_that_are_none_are_refused(given: str, phrase: str) -> None:
    with pytest.raises(ValueError, match=phrase) as refused:
        read_bootstrap_servers(given)

    assert "word" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("https://app.loops.so", "https://app.loops.so"),
        ("https://app.loops.so/", "https://app.loops.so"),
        ("https://app.loops.so/api", "https://app.loops.so"),
        ("https://app.loops.so/api/", "https://app.loops.so"),
        ("https://app.loops.so/api/v1", "https://app.loops.so"),
        ("https://app.loops.so/api/v1//", "https://app.loops.so"),
        ("HTTP://127.0.0.1:8025/", "http://127.0.0.1:8025"),
        ("http://[::1]:8025", "http://[::1]:8025"),
        ("https://proxy.example.com/loops/api", "https://proxy.example.com/loops"),
        ("https://proxy.example.com/my-api", "https://proxy.example.com/my-api"),
    ],
)
def test_loops_base_url_is_without_what_its_documentation_has_at_the_end(given: str, base: str) -> None:
    assert read_loops_base_url(given) == base
    assert read_loops_base_url(base) == base


@pytest.mark.parametrize(
    "given",
    [
        *(
            "app.loops.so",
            "ftp://app.loops.so",
            "https://",
            "https:///api",
            "https://key:word@app.loops.so",
            "https://key:w/word@app.loops.so",
        ),
        *(
            "https://app.loops.so?key=word",
            "https://app.loops.so/#word",
            "https://app.loops.so/a b",
            "https://app.loops.so:word",
            "//app.loops.so",
        ),
        *("https://app..loops.so", "https://[word]/", "https://app.loops.so:0"),
    ],
)
def test_base_url_that_is_none_is_refused_without_a_word_of_it(given: str) -> None:
    for read in (read_loops_base_url, read_razorpay_api_url):
        with pytest.raises(ValueError, match=r"Loops|Razorpay|host|port|IPv6") as refused:
            read(given)

        assert "word" not in str(refused.value).replace("password", "")


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("https://api.razorpay.com", "https://api.razorpay.com"),
        ("https://api.razorpay.com/", "https://api.razorpay.com"),
        ("https://api.razorpay.com/v1", "https://api.razorpay.com"),
        ("HTTPS://api.razorpay.com/v1/", "https://api.razorpay.com"),
        ("http://127.0.0.1:8025/razorpay/v1", "http://127.0.0.1:8025/razorpay"),
        ("https://proxy.example.com/my-v1", "https://proxy.example.com/my-v1"),
    ],
)
def test_razorpay_api_url_is_without_the_version_that_its_documentation_has_at_the_end(given: str, base: str) -> None:
    assert read_razorpay_api_url(given) == base
    assert read_razorpay_api_url(base) == base
