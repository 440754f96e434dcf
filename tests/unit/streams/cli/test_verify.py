"""``tierstream verify`` at the command line."""

import io
from pathlib import Path

from rich.console import Console
from typer.testing import CliRunner

from streams.cli import app
from streams.cli.verify import show
from streams.errors import ConfigurationError
from streams.topics import (
    RAZORPAY_WEBHOOKS,
)
from tests.verify_doubles import PRETENDED, read_from, verified
from tests.verify_falsifications import (
    lost_row,
)


def test_command_prints_a_table_the_differences_and_what_could_not_be_checked() -> None:
    stack = read_from(PRETENDED)
    lost_row(stack)
    stack[0].delete_all(RAZORPAY_WEBHOOKS)
    console = Console(width=200, record=True, file=io.StringIO())

    show(verified(stack), console)

    lines = console.export_text().splitlines()
    assert lines[0].split() == ["check", "compared", "differ", "pending", "or", "not", "checked"]
    (row,) = [line.split() for line in lines[1:12] if line.startswith("audit_log ")]
    assert row == ["audit_log", str(len(PRETENDED.rows) - 1), "1"]
    assert lines[-3].startswith("audit_log lacks the row ")
    assert lines[-2].endswith("give a snapshot (--snapshot FILE).")
    assert lines[-1] == "1 difference."


def test_command_with_a_wrong_option_is_a_usage_error(tmp_path: Path) -> None:
    for arguments in (["--shuffle", "-1"], ["--snapshot", str(tmp_path / "absent")], ["--nonsense"]):
        assert CliRunner().invoke(app, ["verify", *arguments]).exit_code == 2


def test_command_without_its_settings_names_them() -> None:
    result = CliRunner().invoke(app, ["verify"])

    assert isinstance(result.exception, ConfigurationError)
    assert "TIERSTREAM_KAFKA_BOOTSTRAP_SERVERS and TIERSTREAM_POSTGRES_DSN and TIERSTREAM_PLANS" in str(result.exception)
