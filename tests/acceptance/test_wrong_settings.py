"""What people and platforms put into settings, at the real command line in a process of its own: trimmed, left aside, or one sentence."""

import os
from pathlib import Path

import pytest

from streams.settings import PREFIX
from tests import forked

DSNS = [
    "postgresql://app:12/S3cretTail@db.invalid:5432/prod",
    "postgresql://app:7?S3cretTail@127.0.0.1:5432/prod",
    "postgresql://app:p/S3cretTail@127.0.0.1:5432/prod",
    "postgresql://app:p#S3cretTail@127.0.0.1:5432/prod",
]
NO_KAFKA = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9"}
DSN = "postgresql://app:S3cretTail@127.0.0.1:9/prod"


def tierstream(directory: Path, command: list[str], **environment: str) -> tuple[int, str]:
    """Run a command with these settings alone, and return its exit code and all that it printed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    own = {f"{PREFIX}{name}": value for name, value in environment.items()}
    finished = forked.tierstream(*command, env={**clean, **own}, cwd=directory)
    said = finished.stdout + finished.stderr
    assert "Traceback" not in said
    assert "S3cret" not in said
    assert "Tail" not in said
    return finished.returncode, said


@pytest.mark.parametrize("dsn", DSNS)
def test_password_that_is_not_percent_encoded_is_one_sentence(tmp_path: Path, dsn: str) -> None:
    code, said = tierstream(tmp_path, ["migrate"], POSTGRES_DSN=dsn)

    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith("tierstream: Settings are wrong: TIERSTREAM_POSTGRES_DSN: ")
    assert "percent-encoded" in said


@pytest.mark.parametrize("command", [["worker", "audit"], ["worker", "forward"], ["verify"], ["check-config"], ["up"]])
def test_every_command_that_uses_the_database_refuses_such_a_password_before_anything_starts(tmp_path: Path, command: list[str]) -> None:
    code, said = tierstream(tmp_path, command, **NO_KAFKA, POSTGRES_DSN=DSNS[0], LOOPS_API_KEY="k", PLANS="/no/such")

    assert (code, said.count("\n")) == (2, 1)
    assert "TIERSTREAM_POSTGRES_DSN" in said


@pytest.mark.parametrize("dsn", ["postgresql://app:[S3cretTail@127.0.0.1:9/prod", "postgresql://app:p@S3cretTail:x@127.0.0.1:9/prod\n"])
def test_password_that_can_be_read_all_the_same_reaches_the_server_that_is_named_without_it(tmp_path: Path, dsn: str) -> None:
    code, said = tierstream(tmp_path, ["migrate"], POSTGRES_DSN=dsn)

    assert (code, said.count("\n")) == (1, 1)
    assert said.startswith("tierstream: PostgreSQL at 127.0.0.1:9/prod does not answer")


@pytest.mark.parametrize(
    ("service", "command"),
    [("GATEWAY", ["check-config"]), ("ADMIN", ["migrate"]), ("ADMIN", ["topics", "check"]), ("GATEWAY", ["worker", "classify"])],
)
def test_what_kubernetes_sets_for_a_service_of_our_name_stops_no_role(tmp_path: Path, service: str, command: list[str]) -> None:
    links = {
        f"{service}_PORT": "tcp://10.43.12.9:8080",
        f"{service}_SERVICE_HOST": "10.43.12.9",
        f"{service}_SERVICE_PORT": "8080",
        f"{service}_PORT_8080_TCP": "tcp://10.43.12.9:8080",
    }

    code, said = tierstream(tmp_path, command, **NO_KAFKA, POSTGRES_DSN=DSN, **links)

    assert code == (0 if command == ["check-config"] else 1)
    assert said.count(f"TIERSTREAM_{service}_PORT is left aside: ") == 1
    assert f"the Service tierstream-{service.lower()}, put there by Kubernetes. Set enableServiceLinks: false" in said


@pytest.mark.parametrize(
    ("command", "environment", "sentence"),
    [
        (["worker", "forward"], {**NO_KAFKA, "POSTGRES_DSN": DSN, "LOOPS_API_KEY": "k1\nk2"}, "TIERSTREAM_LOOPS_API_KEY: holds a control"),
        (["topics", "check"], {**NO_KAFKA, "KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, "set TIERSTREAM_KAFKA_SASL_MECHANISM"),
        (
            ["topics", "check"],
            {**NO_KAFKA, "KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CAFILE": "/no/such"},
            "TIERSTREAM_KAFKA_SSL_CAFILE",
        ),
        (
            ["gateway"],
            {**NO_KAFKA, "RAZORPAY_WEBHOOK_SECRETS": "s", "GATEWAY_HOST": "a" * 300, "ADMIN_PORT": "0"},
            "TIERSTREAM_GATEWAY_HOST",
        ),
        (["migrate"], {"POSTGRES_DSN": f"{DSN}?sslmode=verify-full&sslrootcert=/no/such"}, "TIERSTREAM_POSTGRES_DSN, sslrootcert"),
        (["worker", "normalise"], {**NO_KAFKA, "PLANS": "/"}, "TIERSTREAM_PLANS"),
    ],
)
def test_setting_that_only_a_client_would_find_wrong_is_one_sentence_before_the_client_is_made(
    tmp_path: Path, command: list[str], environment: dict[str, str], sentence: str
) -> None:
    code, said = tierstream(tmp_path, command, **environment)

    assert code == 2
    assert sentence in said.splitlines()[-1]


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["loops-sink", "--rate", "nan"], "--rate nan: "),
        (["loops-sink", "--rate", "-1"], "--rate -1: "),
        (["loops-sink", "--rate", "0"], "--rate 0: "),
        (["loops-sink", "--rate", "inf"], "--rate inf: "),
        (["loops-sink", "--port", "99999"], "--port"),
        (["up", "--workers", "classify=\u0661"], "STAGE=N"),
        (["up", "--workers", "classify=" + "1" * 5_000], "STAGE=N"),
        (["up", "--data-dir", "file"], "--data-dir: file can not be made"),
        (["up", "--data-dir", "file/more"], "--data-dir: file/more can not be made"),
        (["up", "--ready-file", "file/ready.json"], "--ready-file: file can not be made"),
        (["verify", "--write-snapshot", "file/last.snapshot"], "file/last.snapshot"),
    ],
)
def test_option_that_can_not_be_is_one_sentence(tmp_path: Path, command: list[str], sentence: str) -> None:
    (tmp_path / "file").touch()
    complete = {**NO_KAFKA, "POSTGRES_DSN": DSN, "PLANS": "/no/such"} if command[0] == "verify" else {}

    code, said = tierstream(tmp_path, command, **complete)

    assert code == 2
    assert sentence in said


def test_configuration_file_in_another_encoding_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("partitions = 4\n", encoding="utf-16")

    code, said = tierstream(tmp_path, ["check-config"], CONFIG="own.toml")

    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith("tierstream: TIERSTREAM_CONFIG: own.toml is no valid TOML")
