"""Licences: none that does not fit gets in, and the page says what is installed."""

from email.message import Message

import pytest

from tests.packages.image import packages
from tests.packages.licences import ALLOWED, PAGE, READ, Unknown, filled, is_allowed, licence_of


def metadata(**fields: str | list[str]) -> Message:
    message = Message()
    for name, value in fields.items():
        for each in [value] if isinstance(value, str) else value:
            message[name.replace("_", "-")] = each
    return message


def test_each_package_of_the_image_has_a_licence_that_fits() -> None:
    licences = {each.name: licence_of(each.name, each.distribution.metadata) for each in packages()}

    assert {name: licence for name, licence in licences.items() if not is_allowed(licence)} == {}


def test_page_says_what_is_installed() -> None:
    text = PAGE.read_text(encoding="utf-8")

    assert filled(text) == text, "run: python -m tests.packages.licences"
    assert all(f"| {each.name} | {each.version} |" in text for each in packages())


def test_licence_files_are_read_by_hand_only_where_metadata_does_not_say_enough() -> None:
    assert READ.keys() <= {each.name for each in packages()}
    assert all(is_allowed(licence) for licence in READ.values())


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        *((licence, True) for licence in sorted(ALLOWED)),
        ("GPL-3.0-only", False),
        ("AGPL-3.0-or-later", False),
        ("LGPL-2.1-only", False),
        ("MIT OR GPL-3.0-only", True),
        ("GPL-3.0-only OR MIT", True),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-2.0-only OR MIT AND LGPL-3.0-only", False),
        ("(GPL-2.0-only OR MIT) AND ISC", True),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", True),
        ("MIT AND (GPL-2.0-only OR (LGPL-3.0-only AND ISC))", False),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
    ],
)
def test_expression_is_allowed_when_what_must_be_kept_is(expression: str, allowed: bool) -> None:
    assert is_allowed(expression) is allowed


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ({"License_Expression": "mit or apache-2.0"}, "MIT OR Apache-2.0"),
        ({"License_Expression": "MIT", "License": "GPL"}, "MIT"),
        ({"License": "Apache 2.0"}, "Apache-2.0"),
        ({"License": "BSD-3-Clause"}, "BSD-3-Clause"),
        ({"License": "Copyright by somebody,\nall rights reserved", "Classifier": ["License :: OSI Approved :: MIT License"]}, "MIT"),
        ({"Classifier": ["Topic :: Internet", "License :: OSI Approved :: Apache Software License"]}, "Apache-2.0"),
    ],
)
def test_licence_is_read_from_the_metadata(fields: dict[str, str | list[str]], licence: str) -> None:
    assert licence_of("some", metadata(**fields)) == licence


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"License": "see LICENSE"},
        {"Classifier": ["License :: OSI Approved :: BSD License"]},  # of two clauses, three or four
        {"Classifier": ["License :: OSI Approved :: MIT License", "License :: OSI Approved :: GNU General Public License (GPL)"]},
    ],
)
def test_licence_that_the_metadata_does_not_say_has_to_be_read(fields: dict[str, str | list[str]]) -> None:
    with pytest.raises(Unknown, match="does not say its licence"):
        licence_of("some", metadata(**fields))
