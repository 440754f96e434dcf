"""Records judged by the committed contracts, as a consumer in another team would judge them."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import orjson
from jsonschema import Draft202012Validator

DIRECTORY = Path(__file__).parents[1] / "docs" / "contracts"


@cache
def validator(name: str) -> Draft202012Validator:
    """Return what judges the values of one contract, by the name of its file."""
    schema = json.loads((DIRECTORY / f"{name}.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)


def faults(topic: str, value: bytes | None) -> list[str]:
    """Return what is wrong with a record of ``topic`` by the contract of its kind."""
    assert value is not None
    envelope: dict[str, Any] = orjson.loads(value)
    name = topic if envelope["type"] == topic else f"{topic}.{envelope['type']}"
    return [f"{name}: {fault.json_path} {fault.message}" for fault in validator(name).iter_errors(envelope)]
