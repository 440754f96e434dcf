"""The committed contracts against the code: nothing that others rely on has changed, and what has is called by its name."""

import copy
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from streams.contracts.committed import contracts, findings, read
from streams.errors import ConfigurationError
from tests.contracts import DIRECTORY

UPGRADED = "audit.events.subscription.upgraded"


def changed(name: str = UPGRADED) -> tuple[dict[str, Any], dict[str, Any]]:
    """The contracts, and a copy of one to change."""
    current = copy.deepcopy(contracts())
    return current, current[name]


def found(current: dict[str, Any]) -> list[tuple[str, bool]]:
    return [(str(finding), finding.breaks) for finding in findings(contracts(), current)]


def test_no_committed_contract_is_broken_and_all_are_up_to_date() -> None:
    assert [str(finding) for finding in findings(read(DIRECTORY), contracts())] == [], "run: python -m streams.cli.contracts"


@pytest.mark.parametrize("name", sorted(contracts().keys() - {"topics"}))
def test_contract_is_a_json_schema(name: str) -> None:
    contract = contracts()[name]

    Draft202012Validator.check_schema(contract)
    assert contract["$schema"] == Draft202012Validator.META_SCHEMA["$id"]


def test_field_that_is_gone_breaks_and_is_named() -> None:
    current, upgraded = changed()
    del upgraded["properties"]["data"]["properties"]["metadata"]["properties"]["plan_id"]

    assert found(current) == [(f"{UPGRADED}: data.metadata.plan_id: is gone.", True)]


def test_other_words_alone_break_nobody() -> None:
    current, upgraded = changed()
    upgraded["description"] = "Better said."

    assert found(current) == [(f"{UPGRADED}: only its description is another one.", False)]


def test_kind_that_moves_to_another_topic_breaks() -> None:
    current, upgraded = changed()
    upgraded["x-topic"] = "team.events"

    assert found(current) == [(f"{UPGRADED}: it is on team.events (out) now.", True)]


def test_kind_that_goes_breaks_unless_it_was_announced() -> None:
    committed, current = contracts(), contracts()
    del current[UPGRADED]
    assert [(str(each), each.breaks) for each in findings(committed, current)] == [
        (f"{UPGRADED}: the kind is gone, and was not announced to retire.", True)
    ]

    committed[UPGRADED]["deprecated"] = True
    assert [(str(each), each.breaks) for each in findings(committed, current)] == [(f"{UPGRADED}: the kind is gone.", False)]


def test_kind_that_comes_breaks_nobody() -> None:
    current, upgraded = changed()
    current["audit.events.new"] = upgraded

    assert found(current) == [("audit.events.new: the kind is new.", False)]


@pytest.mark.parametrize(
    ("change", "said", "breaks"),
    [
        ({"key": "user id"}, "topics: audit.events: key is 'user id' now, and was 'team id'.", True),
        ({"cleanup": "compact"}, "topics: audit.events: cleanup is 'compact' now, and was 'delete'.", True),
        ({"kept_days": 7}, "topics: audit.events: it is kept for 7 days now, and was for 30.", True),
        ({"kept_days": 60}, "topics: audit.events: it is kept for 60 days now, and was for 30.", False),
    ],
)
def test_topic_with_another_key_cleanup_or_shorter_retention_breaks(change: dict[str, Any], said: str, breaks: bool) -> None:
    current, topics = changed("topics")
    topics["audit.events"] |= change

    assert found(current) == [(said, breaks)]


def test_topic_that_goes_breaks_and_one_that_comes_does_not() -> None:
    current, topics = changed("topics")
    topics["new.topic"] = topics.pop("tier.current")

    assert found(current) == [("topics: new.topic is new.", False), ("topics: tier.current is gone.", True)]


@pytest.mark.parametrize("text", ["{", "[]"])
def test_contract_that_can_not_be_read_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "tier.current.json").write_text(text)

    with pytest.raises(ConfigurationError, match=r"tier\.current\.json is no JSON"):
        read(tmp_path)
