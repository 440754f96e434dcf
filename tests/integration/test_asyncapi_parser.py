"""What ``tierstream asyncapi`` prints, judged by AsyncAPI's own parser. ``make contracts-test`` installs it; without it, the test is skipped."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from schemas.kinds import SERVICE_KINDS, Kind
from streams.settings import PREFIX
from streams.topics import TOPICS

PARSER = Path(__file__).parents[1] / "asyncapi"
ERROR, WARNING = 0, 1
"""The parser's severities are 0 error, 1 warning, 2 information, 3 hint."""

LOGIN = {
    f"{PREFIX}KAFKA_BOOTSTRAP_SERVERS": "kafka-1:9093,kafka-2:9093",
    f"{PREFIX}KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    f"{PREFIX}KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
    f"{PREFIX}KAFKA_SASL_USERNAME": "tierstream",
    f"{PREFIX}KAFKA_SASL_PASSWORD": "hidden",
    f"{PREFIX}TOPIC_PREFIX": "eu.",
}


def parsed(text: bytes) -> dict[str, Any]:
    if shutil.which("node") is None:
        pytest.skip("node is not installed; AsyncAPI's parser needs it")
    if not (PARSER / "node_modules" / "@asyncapi" / "parser").is_dir():
        pytest.skip("AsyncAPI's parser is not installed; `make contracts-test` installs it")
    done = subprocess.run(["node", PARSER / "validate.mjs"], input=text, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("environment", [{}, LOGIN], ids=["nothing set", "a login and a prefix"])
def test_asyncapi_parser_finds_no_error_and_reads_what_is_meant(environment: dict[str, str], tmp_path: Path) -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "streams.cli", "asyncapi"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
        capture_output=True,
        check=True,
    ).stdout

    found = parsed(printed)

    assert found["version"] == "3.0.0"
    assert [each for each in found["diagnostics"] if each["severity"] in (ERROR, WARNING)] == []
    assert found["channels"] == sorted(topic.name for topic in TOPICS if not topic.is_changelog)
    assert found["operations"]["sendAuditEvents"] == {"action": "send", "messages": sorted(Kind)}
    assert found["operations"]["receiveTeamEvents"] == {"action": "receive", "messages": sorted(SERVICE_KINDS)}


def test_asyncapi_parser_judges_at_all() -> None:
    found = parsed(json.dumps({"asyncapi": "3.0.0", "info": {"title": "no version"}, "channels": {"x": {"messages": 1}}}).encode())

    assert [each for each in found["diagnostics"] if each["severity"] == ERROR]
