"""``tierstream replay``: where it begins, and what it refuses before it connects to anything."""

from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from streams.cli import app
from streams.cli.replay import parse_start
from streams.embedded.stack import EXAMPLE_PLANS
from streams.errors import ConfigurationError
from streams.settings import Settings

SETTINGS = Settings(partitions=8, topic_prefix="t.")
ENVIRONMENT = {
    "TIERSTREAM_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "TIERSTREAM_POSTGRES_DSN": "postgresql://nobody@127.0.0.1:1/none",
    "TIERSTREAM_PLANS": str(EXAMPLE_PLANS),
    "TIERSTREAM_PARTITIONS": "8",
}


@pytest.mark.parametrize(
    ("given", "begin"),
    [
        (["2026-05-01T00:00:00Z"], datetime(2026, 5, 1, tzinfo=UTC)),
        (["razorpay.webhooks:3:17"], {3: 17}),
        (["t.razorpay.webhooks:3:17", "razorpay.webhooks:0:0"], {3: 17, 0: 0}),
    ],
)
def test_start_is_a_time_or_a_place_for_each_partition(given: list[str], begin: object) -> None:
    assert parse_start(SETTINGS, given) == begin


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--from", "yesterday"), "--from yesterday: give one time with an offset"),
        (("--from", "2026-05-01T00:00:00"), "--from 2026-05-01T00:00:00: give one time with an offset"),
        (("--from", "team.events:0:0"), "--from team.events:0:0: give one time"),
        (("--from", "razorpay.webhooks:99:0"), "razorpay.webhooks has the partitions 0 to"),
        (("--from", "razorpay.webhooks:0:0", "--from", "razorpay.webhooks:0:1"), "partition 0 is given twice"),
        (("--from", "razorpay.webhooks:0:0", "--apply", "full"), "say why with --because TEXT"),
        (("--from", "razorpay.webhooks:0:0", "--mail"), "--mail lets old mails go, which --apply full alone does"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(arguments: tuple[str, ...], sentence: str) -> None:
    result = CliRunner().invoke(app, ["replay", *arguments], env=ENVIRONMENT)

    assert isinstance(result.exception, ConfigurationError)
    assert result.exception.exit_code == 2
    assert sentence in str(result.exception)
    assert result.stdout == ""


def test_start_is_required() -> None:
    assert CliRunner().invoke(app, ["replay"], env=ENVIRONMENT).exit_code == 2
