"""Every kind stands in the documents that list kinds, with what the code says of it."""

import re
from pathlib import Path
from typing import get_args

import pytest

from schemas.kinds import RETIRING, SERVICE_KINDS, Kind
from schemas.loops import LOOPS_MAP, Mail
from schemas.published import PUBLISHED
from schemas.team_events import SERVICE_DATA

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


def test_topics_page_has_a_row_for_every_kind_of_audit_event() -> None:
    assert set(AUDIT) == set(Kind)


@pytest.mark.parametrize("kind", sorted(kind for kind in Kind if "reason" in PUBLISHED[kind].model_fields))
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
    assert set(SENT) == SERVICE_KINDS == set(SERVICE_DATA)
    for kind, (needed, may_have) in SENT.items():
        fields = SERVICE_DATA[Kind(kind)].model_fields
        assert set(named(needed)) == {name for name, field in fields.items() if field.is_required()}, kind
        assert set(named(may_have)) == {name for name, field in fields.items() if not field.is_required()}, kind


CHANGELOG = (DOCS.parent / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", sorted(Kind))
def test_changelog_names_every_kind(kind: Kind) -> None:
    assert f"`{kind}`" in CHANGELOG


def test_changelog_says_under_deprecated_which_kinds_retire() -> None:
    deprecated = "".join(re.findall(r"^### Deprecated$(.*?)(?=^##|\Z)", CHANGELOG, re.MULTILINE | re.DOTALL))

    assert [kind for kind in RETIRING if f"`{kind}`" not in deprecated] == []
