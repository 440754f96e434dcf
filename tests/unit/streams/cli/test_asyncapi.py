"""``tierstream asyncapi``: the document of the settings in force, always the same text, and no connection."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from streams.cli import app
from streams.contracts.asyncapi import document
from streams.settings import PREFIX, load_settings


def test_asyncapi_prints_the_document_of_the_settings_in_force_with_and_without_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}TOPIC_PREFIX", "staging.")
    monkeypatch.setenv(f"{PREFIX}KAFKA_BOOTSTRAP_SERVERS", "nobody.invalid:9092")

    plain, as_json = (CliRunner().invoke(app, ["asyncapi", *options]) for options in ([], ["--json"]))

    assert (plain.exit_code, plain.stdout) == (0, as_json.stdout)
    assert json.loads(plain.stdout) == document(load_settings())
    assert json.loads(plain.stdout)["channels"]["tier.current"]["address"] == "staging.tier.current"


def test_asyncapi_prints_the_same_text_in_every_process() -> None:
    def printed(seed: str) -> bytes:
        environment = {**os.environ, "PYTHONHASHSEED": seed, f"{PREFIX}KAFKA_BOOTSTRAP_SERVERS": "kafka:9092"}
        return subprocess.run([sys.executable, "-m", "streams.cli", "asyncapi"], env=environment, capture_output=True, check=True).stdout

    assert printed("1") == printed("2")
