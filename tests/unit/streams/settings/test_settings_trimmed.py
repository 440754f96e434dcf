"""What people and platforms put into settings, through the real command line: trimmed, or refused in one sentence."""

import os
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

from streams.cli import main
from streams.errors import ConfigurationError
from streams.settings import PREFIX, Settings, load_settings

SECRETS = {
    "kafka_sasl_password": "S3cretTail",
    "postgres_dsn": "postgresql://app:S3cretTail@db:5432/prod",
    "razorpay_webhook_secrets": "S3cretTail",
    "razorpay_key_secret": "S3cretTail",
    "loops_api_key": "S3cretTail",
    "loops_webhook_secret": "whsec_S3cretTail",
    "ingest_tokens": "billing:S3cretTail",
    "console_token": "S3cretTail",
}
TEXTS = {
    "kafka_bootstrap_servers": "kafka:9092",
    "kafka_security_protocol": "SSL",
    "kafka_sasl_mechanism": "PLAIN",
    "kafka_sasl_username": "app",
    "kafka_ssl_cafile": "/etc/ca.pem",
    "kafka_wait_seconds": "60",
    "razorpay_team_note": "team",
    "plans": "/etc/plans.toml",
    "adopt_subscriptions_created_before": "2026-01-31",
    "settle_seconds": "30",
    "razorpay_api_url": "https://api.razorpay.com",
    "razorpay_key_id": "rzp_live_1",
    "grace_days": "9",
    "grace_reminder_days": "2,5",
    "loops_base_url": "https://app.loops.so",
    "loops_rate_per_second": "5.5",
    "constraint_wait_seconds": "60",
    "loops_timeout_seconds": "5",
    "forward": "off",
    "forward_max_age_seconds": "60",
    "initial_tier": "hobby",
    "gateway_host": "127.0.0.1",
    "gateway_port": "81",
    "gateway_max_connections": "50",
    "gateway_max_connections_per_peer": "40",
    "gateway_proxies": "10.0.0.0/8",
    "webhook_networks": "192.0.2.0/24,2001:db8::/32",
    "gateway_spool": "/var/spool/tierstream",
    "gateway_spool_max_bytes": "2000000",
    "admin_host": "0.0.0.0",
    "admin_port": "82",
    "topic_prefix": "t.",
    "partitions": "4",
    "replication_factor": "2",
    "min_insync_replicas": "1",
    "retention_razorpay_webhooks_days": "2",
    "retention_loops_webhooks_days": "2",
    "retention_team_events_days": "2",
    "retention_audit_events_days": "2",
    "retention_forward_retry_days": "2",
    "retention_dead_letters_days": "2",
    "session_timeout_seconds": "8",
    "instance_id": "classify-0",
    "stall_seconds": "9",
    "log_level": "error",
    "log_format": "json",
}
GOOD = SECRETS | TEXTS
"""A value of each setting that is none of the default, as it is written."""

NUMBERS = {
    name: field for name, field in Settings.model_fields.items() if field.annotation in (int, float, int | None) and name != "grace_days"
}


def at_the_command_line(command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run a command in this process, and return its exit code, its standard output and its standard error."""
    monkeypatch.setattr(sys, "argv", ["tierstream", *command])
    code = 0
    try:
        main()
    except SystemExit as left:
        code = int(left.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is set, and no ``up`` runs in the working directory."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_every_setting_is_known_to_these_tests() -> None:
    assert GOOD.keys() == Settings.model_fields.keys()


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("value", ["{}\n", " {}", "{}\t\r\n", "\n {} \n"])
def test_blanks_around_a_value_are_no_part_of_it(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("TIERSTREAM_GRACE_DAYS", "9")
    clean = load_settings(**{name: GOOD[name]})
    monkeypatch.setenv(PREFIX + name.upper(), value.format(GOOD[name]))

    assert getattr(load_settings(), name) == getattr(clean, name)


@pytest.mark.parametrize("name", GOOD)
def test_blanks_around_a_value_of_the_file_are_no_part_of_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    clean = load_settings(**{name: GOOD[name]})
    (tmp_path / "own.toml").write_text(f'{name} = " {GOOD[name]}\\n"\n')
    monkeypatch.setenv("TIERSTREAM_CONFIG", "own.toml")

    assert getattr(load_settings(), name) == getattr(clean, name)


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("blank", ["", " ", "\n", "\t \r\n"])
def test_blank_counts_as_not_set(monkeypatch: pytest.MonkeyPatch, name: str, blank: str) -> None:
    monkeypatch.setenv(PREFIX + name.upper(), blank)

    assert load_settings().model_fields_set == set()


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("inside", ["\n", "\r", "\t", "\x1b", "\x7f", "\x85"])
def test_control_character_inside_a_value_is_one_sentence_with_its_variable_and_without_its_value(
    name: str, inside: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(PREFIX + name.upper(), GOOD[name] + inside + GOOD[name])

    code, _, err = at_the_command_line(["check-config"], monkeypatch, capsys)

    assert (code, err.count("\n")) == (2, 1)
    assert f"{PREFIX}{name.upper()}: " in err
    assert "S3cret" not in err
    assert "Tail" not in err


WRONG: list[tuple[str, str, str]] = [
    *((name, "twelve", "Input should be a valid") for name in NUMBERS),
    *((name, "\u0661\u0662", "Input should be a valid") for name in NUMBERS),
    *((name, "-1", "greater than or equal to") for name in NUMBERS),
    *((name, "1" + "0" * 400, "") for name in NUMBERS if name != "gateway_spool_max_bytes"),
    *((name, "1" * 9_999, "") for name in NUMBERS),
    *((name, odd, "") for name in NUMBERS for odd in ("nan", "inf", "-inf", "1e999", "NaN")),
    *((name, "1.5", "valid integer") for name, field in NUMBERS.items() if field.annotation is not float),
    ("loops_rate_per_second", "0.001", "greater than or equal to"),
    ("kafka_bootstrap_servers", "kafka://S3cretTail:9092", "scheme"),
    ("kafka_bootstrap_servers", "app:S3cretTail@kafka:9092", "port"),
    ("kafka_bootstrap_servers", "kafka:99999", "port"),
    ("postgres_dsn", "postgresql://app:12/S3cretTail@db.invalid:5432/prod", "percent-encoded"),
    ("postgres_dsn", "postgresql://app:7?S3cretTail@127.0.0.1:5432/prod", "percent-encoded"),
    ("postgres_dsn", "postgresql://app:p/S3cretTail@127.0.0.1:5432/prod", "percent-encoded"),
    ("postgres_dsn", "postgresql://app:p#S3cretTail@127.0.0.1:5432/prod", "percent-encoded"),
    ("postgres_dsn", "postgresql://app:S3cretTail", "port"),
    ("postgres_dsn", "S3cretTail", "write postgresql://"),
    ("loops_base_url", "https://app:S3cretTail@app.loops.so", "write https://host"),
    ("loops_base_url", "https://app.loops.so/?key=S3cretTail", "write https://host"),
    ("loops_base_url", "app.loops.so", "write https://host"),
    ("razorpay_api_url", "https://rzp_key:S3cretTail@api.razorpay.com", "write https://host"),
    ("ingest_tokens", "billing:", "write name:token"),
    ("ingest_tokens", ":S3cretTail", "write name:token"),
    ("ingest_tokens", "a:S3cretTail,b:S3cretTail", "one token twice"),
    ("adopt_subscriptions_created_before", "1699920000", "YYYY-MM-DD"),
    ("adopt_subscriptions_created_before", "2026-01-31T00:00:00Z", "YYYY-MM-DD"),
    ("adopt_subscriptions_created_before", "2026-02-30", ""),
    ("adopt_subscriptions_created_before", "\u0662026-01-31", "YYYY-MM-DD"),
    ("gateway_port", "65536", "less than or equal to"),
    ("gateway_port", "tcp://10.43.12.9", "valid integer"),
    ("topic_prefix", "t" * 201, "at most 200"),
    ("instance_id", "i" * 201, "at most 200"),
    ("min_insync_replicas", "4", "TIERSTREAM_REPLICATION_FACTOR=3"),
    ("kafka_security_protocol", "SASL_SSL", "set TIERSTREAM_KAFKA_SASL_MECHANISM and TIERSTREAM_KAFKA_SASL_USERNAME and"),
    *((name, "\udcff", "") for name in (*SECRETS, "kafka_sasl_username", "razorpay_team_note")),
]


@pytest.mark.parametrize(("name", "value", "phrase"), WRONG, ids=[f"{name}={value[:12]!a}" for name, value, _ in WRONG])
def test_value_that_can_not_be_is_one_sentence_with_its_variable_and_without_a_secret(
    name: str, value: str, phrase: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(PREFIX + name.upper(), value)

    code, out, err = at_the_command_line(["check-config"], monkeypatch, capsys)

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert PREFIX + name.upper() in err
    assert phrase in err
    assert "S3cret" not in err
    assert "Tail" not in err


@pytest.mark.parametrize(
    ("role", "given", "phrase"),
    [
        ("topics", {"kafka_ssl_cafile": "/no/such/ca.pem"}, "TIERSTREAM_KAFKA_SSL_CAFILE: /no/such/ca.pem can not be read"),
        ("topics", {"kafka_ssl_cafile": "."}, "TIERSTREAM_KAFKA_SSL_CAFILE: . can not be read (Is a directory)"),
        (
            "migrate",
            {"postgres_dsn": "postgresql://app@db/prod?sslmode=verify-full&sslrootcert=/no/such/ca.pem"},
            "TIERSTREAM_POSTGRES_DSN, sslrootcert: /no/such/ca.pem can not be read",
        ),
        ("gateway", {"razorpay_webhook_secrets": " , ,"}, "set TIERSTREAM_RAZORPAY_WEBHOOK_SECRETS "),
        ("topics", {"kafka_bootstrap_servers": " , ,"}, "set TIERSTREAM_KAFKA_BOOTSTRAP_SERVERS "),
    ],
)
def test_role_without_what_a_setting_names_does_not_start(role: Any, given: dict[str, str], phrase: str) -> None:
    settings = load_settings(**{"kafka_bootstrap_servers": "kafka:9092", "razorpay_webhook_secrets": "s", **given})

    with pytest.raises(ConfigurationError) as refused:
        settings.require(role)

    assert phrase in str(refused.value)


@pytest.mark.parametrize("name", SECRETS)
def test_secret_stands_in_no_traceback_of_its_refusal(name: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_settings(**{name: SECRETS[name][:-4] + "\x00" + SECRETS[name][-4:]})

    assert "S3cret" not in "".join(traceback.format_exception(refused.value))


def test_lists_may_stand_on_several_lines() -> None:
    settings = load_settings(
        razorpay_webhook_secrets="new,\n  old\n",
        ingest_tokens="billing : a,\n b",
        kafka_bootstrap_servers="a:1,\nb:2",
        grace_reminder_days="1,\n2",
    )

    assert settings.razorpay_secrets == (b"new", b"old")
    assert settings.ingest_clients == {"a": "billing", "b": "default"}
    assert settings.kafka_bootstrap_servers == "a:1,b:2"
    assert settings.grace_reminders == (1, 2)


@pytest.mark.parametrize("name", ["partitions", "gateway_port", "forward"])
def test_truth_value_of_the_file_is_no_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    (tmp_path / "own.toml").write_text(f"{name} = true\n")
    monkeypatch.setenv("TIERSTREAM_CONFIG", "own.toml")

    with pytest.raises(ConfigurationError, match=f"TIERSTREAM_{name.upper()}: can not be true or false"):
        load_settings()


def test_postgres_address_is_the_same_for_every_client_and_for_child_processes() -> None:
    settings = load_settings(postgres_dsn="postgres://app:[p@ss word@db/prod\n")

    assert settings.postgres_dsn is not None
    assert settings.postgres_dsn.get_secret_value() == "postgresql://app:%5Bp%40ss%20word@db:5432/prod"
    assert load_settings(postgres_dsn=settings.postgres_dsn).postgres_dsn == settings.postgres_dsn
