"""Logs have one format, and show neither addresses nor secrets."""

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import structlog
from aiokafka.errors import GroupAuthorizationFailedError, GroupCoordinatorNotAvailableError

from streams.logging import LIBRDKAFKA, Throttle, ThrottledLibrary, ThrottledLogs, configure_logging, mask_email, mask_text, mask_values
from streams.settings import Settings
from tests.logs import logging_restored

Written = Callable[[], str]


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[Written]:
    """Gives what was written to stderr since it was last asked; sets all logging back afterwards."""
    with logging_restored():
        yield lambda: capsys.readouterr().err


def lines(written: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written.splitlines()]


@pytest.mark.parametrize(
    ("address", "masked"),
    [
        ("jane@example.com", "j***@example.com"),
        ("j@example.com", "***@example.com"),
        ("jane.doe+tag@mail.example.com", "j***@mail.example.com"),
        ('"odd@local"@example.com', '"***@example.com'),
        ("zoë@example.com", "z***@example.com"),
        ("jane@", "***"),
        ("@example.com", "***@example.com"),
        ("jane", "***"),
        ("", "***"),
    ],
)
def test_mask_email_keeps_at_most_the_first_character_of_the_local_part(address: str, masked: str) -> None:
    assert mask_email(address) == masked


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("mail to jane@example.com failed", "mail to j***@example.com failed"),
        ("<jane@example.com>,joe@example.org;", "<j***@example.com>,j***@example.org;"),
        ("{'email': 'jane@example.com'}", "{'email': 'j***@example.com'}"),
        ("zoë@exämple.com", "z***@exämple.com"),
        ("already j***@example.com", "already j***@example.com"),
        ("postgresql://app:hunter2@db:5432/x", "postgresql://***@db:5432/x"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw used", "secret whsec_*** used"),
        ("password=hunter2 host=db", "password=*** host=db"),
        ("api_key: k-123, x", "api_key: ***, x"),
        ("a token of the ladder", "a token of the ladder"),
        ("5 of 7 @ noon", "5 of 7 @ noon"),
        ("plain", "plain"),
    ],
)
def test_mask_text_hides_addresses_and_secrets_and_nothing_else(text: str, masked: str) -> None:
    assert mask_text(text) == masked
    assert mask_text(masked) == masked


def test_mask_text_takes_a_hostile_value_in_its_stride() -> None:
    masked = mask_text("a" * 200_000 + "@" + "b" * 200_000 + "://" * 50_000)  # minutes, with an unbounded pattern

    assert f"***@{'b' * 253}" in masked


def test_mask_values_reaches_into_every_value() -> None:
    event = {
        "event": "sent to jane@example.com",
        "to": ["jane@example.com", {"cc": ("joe@example.org",)}],
        "api_key": "k-123",
        "loops": {"Authorization": "abc", "status": 200},
        "error": ValueError("no jane@example.com"),
        "raw": b"jane@example.com",
        "token": None,
        "count": 3,
    }

    assert mask_values(None, "info", event) == {
        "event": "sent to j***@example.com",
        "to": ["j***@example.com", {"cc": ["j***@example.org"]}],
        "api_key": "***",
        "loops": {"Authorization": "***", "status": 200},
        "error": "no j***@example.com",
        "raw": "b'j***@example.com'",
        "token": None,
        "count": 3,
    }


def test_own_events_and_libraries_come_out_as_json_lines_of_one_shape(stderr: Written) -> None:
    configure_logging(Settings(log_format="json"))

    structlog.stdlib.get_logger("streams.gateway").info("landed", to="jane@example.com", count=2)
    logging.getLogger("aiokafka.consumer").warning("Heartbeat failed for %s", "jane@example.com")
    logging.getLogger("faust.app").info("chatter")

    own, library = lines(stderr())
    assert (own["event"], own["to"], own["count"], own["level"], own["logger"]) == (
        "landed",
        "j***@example.com",
        2,
        "info",
        "streams.gateway",
    )
    assert (library["event"], library["level"], library["logger"]) == (
        "Heartbeat failed for j***@example.com",
        "warning",
        "aiokafka.consumer",
    )
    assert own["timestamp"].endswith("Z")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_traceback_is_logged_without_the_address_in_it(stderr: Written, log_format: Literal["json", "console"]) -> None:
    configure_logging(Settings(log_format=log_format))

    try:
        raise ValueError("jane@example.com has no team")
    except ValueError:
        structlog.stdlib.get_logger("x").exception("failed")

    written = stderr()
    assert "ValueError: j***@example.com has no team" in written
    assert "jane@" not in written


def test_console_format_writes_one_readable_line(stderr: Written) -> None:
    configure_logging(Settings(log_format="console", log_level="warning"))

    structlog.stdlib.get_logger("x").info("quiet")
    structlog.stdlib.get_logger("x").warning("loud", to="jane@example.com")

    written = stderr()
    assert written.count("\n") == 1
    assert "loud" in written
    assert "to=j***@example.com" in written


def test_configuring_twice_writes_each_event_once(stderr: Written) -> None:
    configure_logging(Settings(log_format="json"))
    configure_logging(Settings(log_format="json"))

    structlog.stdlib.get_logger("x").info("once")

    assert len(lines(stderr())) == 1


def test_throttle_lets_one_message_of_a_kind_through_in_an_interval() -> None:
    now = [0.0]
    throttle = Throttle(30.0, clock=lambda: now[0])

    first = [throttle.passes("FAIL"), throttle.passes("FAIL"), throttle.passes("ERROR")]
    now[0] = 30.0
    later = [throttle.passes("FAIL"), throttle.passes("FAIL")]

    assert first == [True, False, True]
    assert later == [True, False]


def test_librdkafka_lines_are_throttled_by_their_kind() -> None:
    filter_ = ThrottledLogs()

    def record(kind: str) -> logging.LogRecord:
        return logging.LogRecord(LIBRDKAFKA, logging.ERROR, "", 0, "%s [%s] %s", (kind, "producer-1", "Connection refused"), None)

    assert [bool(filter_.filter(record(kind))) for kind in ("FAIL", "FAIL", "ERROR", "FAIL")] == [True, False, True, False]


def test_a_librarys_repeated_lines_are_throttled_and_nobody_elses() -> None:
    now = 0.0
    throttled = ThrottledLibrary("aiokafka", Throttle(30.0, lambda: now))

    def passes(name: str, message: str) -> bool:
        return throttled.filter(logging.LogRecord(name, logging.ERROR, "", 0, message, ("node 1",), None))

    assert [passes("aiokafka.conn", "no answer from %s"), passes("aiokafka.conn", "no answer from %s")] == [True, False]
    assert passes("aiokafka.client", "no answer from %s")
    assert passes("aiokafka.conn", "connected to %s")
    assert [passes("streams.engine.worker", "no answer"), passes("streams.engine.worker", "no answer")] == [True, True]
    now = 31.0
    assert passes("aiokafka.conn", "no answer from %s")


@pytest.mark.parametrize(
    ("logger", "error", "level"),
    [
        ("aiokafka.consumer.group_coordinator", GroupCoordinatorNotAvailableError(), "warning"),
        ("aiokafka.consumer.group_coordinator", GroupAuthorizationFailedError("group"), "error"),
        ("streams.engine.worker", GroupCoordinatorNotAvailableError(), "error"),
    ],
)
def test_what_aiokafka_tries_again_is_a_warning(logger: str, error: Exception, level: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings(log_format="json"))

    logging.getLogger(logger).error("Group Coordinator Request failed: %s", error)

    assert json.loads(capsys.readouterr().err)["level"] == level
