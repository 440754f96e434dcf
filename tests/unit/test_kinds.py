"""Every kind stands in every place that docs/consuming.md lists for one: what is forgotten is named, all of it at once."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from schemas.kinds import GRACE_KINDS, OPERATOR_KINDS, RETIRING, SERVICE_KINDS, TRANSITIONS, Kind
from schemas.loops import LOOPS_MAP, Mail
from schemas.published import PUBLISHED
from schemas.team_events import SERVICE_DATA
from streams.demo.scenario import build_scenario
from tests.contracts import DIRECTORY
from tests.oracle_facts import SERVICE_ROLES
from tests.unit.agents.classify.decision_table import DECISION_TABLE

DOCS = Path(__file__).parents[2] / "docs"


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """The rows of the table under the head that begins with ``heading``: the other cells, by the code of the first."""
    text = (DOCS / page).read_text(encoding="utf-8")
    (table,) = re.findall(rf"^{re.escape(heading)}.*\n\|[ -|]*\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
    return {first.strip("`"): rest for first, *rest in cells}


def named(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


AUDIT = rows("topics.md", "| kind | `reason` |")
SENT = rows("sending.md", "| kind | `data` |")


CLASSIFICATION, CHANGELOG = ((DOCS / page).read_text(encoding="utf-8") for page in ("classification.md", "../CHANGELOG.md"))
GROUPS = (SERVICE_KINDS, TRANSITIONS, GRACE_KINDS, OPERATOR_KINDS, {Kind.CHARGE_UNDELIVERABLE})
CASES = {case.kind for cases in DECISION_TABLE.values() for case in cases}
DEMONSTRATED = {delivery.event for delivery in build_scenario(1_780_000_000.0).deliveries}


def places(kind: Kind) -> Iterator[tuple[str, bool]]:
    """Every place of a kind, and whether the kind stands there."""
    name = kind.value
    yield "schemas/kinds.py: in exactly one of the groups, SERVICE_KINDS, TRANSITIONS, ...", sum(kind in group for group in GROUPS) == 1
    yield "schemas/published.py: PUBLISHED", kind in PUBLISHED
    yield "schemas/loops.py: LOOPS_MAP", kind in LOOPS_MAP
    yield "docs/topics.md: a row of the audit events", name in AUDIT
    yield f"docs/contracts/audit.events.{name}.json: written by python -m streams.cli.contracts", contract("audit.events", name)
    yield "CHANGELOG.md", f"`{name}`" in CHANGELOG
    if kind not in OPERATOR_KINDS:
        yield "docs/classification.md", f"`{name}`" in CLASSIFICATION
    if kind not in OPERATOR_KINDS | GRACE_KINDS:
        yield "tests/unit/agents/classify/decision_table.py: a case", kind in CASES
    if kind in SERVICE_KINDS:
        yield "schemas/team_events.py: SERVICE_DATA", kind in SERVICE_DATA
        yield "docs/sending.md: a row", name in SENT
        yield f"docs/contracts/team.events.{name}.json: written by python -m streams.cli.contracts", contract("team.events", name)
        yield "tests/oracle_facts.py: SERVICE_ROLES", name in SERVICE_ROLES
        yield "streams/demo/scenario.py: a team that sends it", name in DEMONSTRATED


def contract(topic: str, kind: str) -> bool:
    return (DIRECTORY / f"{topic}.{kind}.json").is_file()


@pytest.mark.parametrize("kind", sorted(Kind))
def test_kind_stands_in_every_place(kind: Kind) -> None:
    missing = [place for place, is_there in places(kind) if not is_there]

    if missing:
        pytest.fail("\n  ".join([f"{kind} is not in these places yet (docs/consuming.md says what each is for):", *missing]), pytrace=False)


def test_documents_list_no_kind_that_is_gone() -> None:
    assert set(AUDIT) <= set(Kind)
    assert set(SENT) <= SERVICE_KINDS


@pytest.mark.parametrize("kind", sorted(kind for kind, model in PUBLISHED.items() if kind in AUDIT and "reason" in model.model_fields))
def test_topics_page_names_the_reasons_that_a_kind_may_have(kind: Kind) -> None:
    reasons = set(get_args(PUBLISHED[kind].model_fields["reason"].annotation))
    documented = set(named(AUDIT[kind][0]))

    # Of an undeliverable charge it names the dead letter's reason in words.
    assert documented == reasons if kind is not Kind.CHARGE_UNDELIVERABLE else documented <= reasons


def test_topics_page_names_what_goes_into_a_mail() -> None:
    above: list[str] = []
    for kind, (_, _, properties) in AUDIT.items():
        row = LOOPS_MAP[Kind(kind)]
        if not isinstance(row, Mail):
            assert properties == "never mailed", kind
            continue
        above = above if properties == "the same" else named(properties)
        assert above == [each.name for each in row.event_properties], kind


def test_sending_page_has_the_fields_of_every_kind_that_services_send() -> None:
    for kind, (needed, may_have) in SENT.items():
        fields = SERVICE_DATA[Kind(kind)].model_fields
        assert set(named(needed)) == {name for name, field in fields.items() if field.is_required()}, kind
        assert set(named(may_have)) == {name for name, field in fields.items() if not field.is_required()}, kind


def test_changelog_says_under_deprecated_which_kinds_retire() -> None:
    deprecated = "".join(re.findall(r"^### Deprecated$(.*?)(?=^##|\Z)", CHANGELOG, re.MULTILINE | re.DOTALL))

    assert [kind for kind in RETIRING if f"`{kind}`" not in deprecated] == []
