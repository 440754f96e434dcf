"""``docs/operating.md`` has a page for what an operator meets."""

import re
from pathlib import Path

import pytest

from schemas.reasons import DEAD_LETTER_REASONS, Reason

PAGE = (Path(__file__).parents[2] / "docs" / "operating.md").read_text(encoding="utf-8")
CHAPTERS = {part.split("\n")[0]: part for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)}
SECTIONS = {part.split("\n")[0]: part for part in re.split(r"^### ", CHAPTERS["Dead letters"], flags=re.MULTILINE)[1:]}


@pytest.mark.parametrize("reason", sorted(DEAD_LETTER_REASONS))
def test_every_reason_of_a_dead_letter_has_its_section_that_says_what_to_run(reason: Reason) -> None:
    assert "**Means**" in SECTIONS[reason]
    assert re.search(r"\*\*Run:?\*\*", SECTIONS[reason])
    assert "**Changes**" in SECTIONS[reason]


def test_no_section_is_about_a_reason_that_there_is_none_of() -> None:
    assert SECTIONS.keys() == {reason.value for reason in DEAD_LETTER_REASONS}
