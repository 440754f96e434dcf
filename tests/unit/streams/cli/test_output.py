"""One format for all that a process says: a sentence for a person, or lines of JSON."""

import json

import pytest

from streams.cli import main
from streams.cli.output import report, report_error
from streams.errors import KafkaUnavailable
from streams.settings import Settings

JSON = Settings(log_format="json")


def test_error_is_a_sentence_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    report_error(KafkaUnavailable("Kafka does not answer."), Settings())

    assert capsys.readouterr() == ("", "tierstream: Kafka does not answer.\n")


def test_error_is_a_line_of_the_log_where_that_is_json_and_its_secrets_are_masked(capsys: pytest.CaptureFixture[str]) -> None:
    report_error(KafkaUnavailable("Kafka does not answer ada@example.com."), JSON)

    said = capsys.readouterr()
    line = json.loads(said.err)
    assert said.out == ""
    assert (line["level"], line["event"], line["exit_code"]) == ("critical", "ended by an error", 1)
    assert line["error"] == "Kafka does not answer a***@example.com."


def test_settings_that_are_wrong_are_a_line_of_the_log_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TIERSTREAM_LOG_FORMAT", "json")
    monkeypatch.setenv("TIERSTREAM_PARTITIONS", "many")
    monkeypatch.setattr("sys.argv", ["tierstream", "topics", "check"])

    with pytest.raises(SystemExit) as left:
        main()

    assert left.value.code == 2
    assert "TIERSTREAM_PARTITIONS" in json.loads(capsys.readouterr().err)["error"]


def test_what_was_done_is_a_sentence_on_stdout_or_an_event_with_its_values(capsys: pytest.CaptureFixture[str]) -> None:
    report(Settings(), "created a", "topics applied", created=["a"])
    assert capsys.readouterr() == ("created a\n", "")

    report_error(KafkaUnavailable("sets the log up"), JSON)
    capsys.readouterr()
    report(JSON, "created a", "topics applied", created=["a"])
    line = json.loads(capsys.readouterr().err)
    assert (line["level"], line["event"], line["created"]) == ("info", "topics applied", ["a"])
