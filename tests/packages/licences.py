"""The licence of each package of the image, as an SPDX expression, and whether the project can be given away with it.

``python -m tests.packages.licences`` writes the table of ``docs/licences.md``; a test fails where it is out of date.
"""

import re
from collections.abc import Iterable
from email.message import Message
from importlib.metadata import PackageMetadata

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from tests.packages.image import ROOT, Package, packages

PAGE = ROOT / "docs" / "licences.md"

REPOZE = "LicenseRef-Repoze-Public"

ALLOWED = frozenset({"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MPL-2.0", "PSF-2.0", REPOZE})
"""Licences that the image may hold beside the project's own Apache-2.0. They ask for their text and their notice to be kept; MPL-2.0 asks for
the source of its own files as well, which is the one that is published: nothing of it is changed here."""

FIELDS = {
    "Apache 2": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "ISC License": "ISC",
    "MIT License": "MIT",
}
"""What older packages write in the field ``License``, where it is no SPDX expression."""

CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""Classifiers that name one licence; "BSD License" may be any of several."""

READ = {
    "faust-streaming": "BSD-3-Clause",
    "mode-streaming": "BSD-3-Clause",
    "uvloop": "MIT OR Apache-2.0",
    "venusian": REPOZE,
}
"""What the licence files say of packages whose metadata does not, or not all. Look again when one of them has a new licence file."""


class Unknown(Exception):
    """A package whose metadata does not say its licence."""


def licence_of(name: str, metadata: PackageMetadata | Message) -> str:
    """Return the SPDX expression of a package's licence. Raises Unknown, with what to do. Pure."""
    if name in READ:
        return READ[name]
    given = metadata.get_all("License-Expression") or metadata.get_all("License") or [""]
    text = FIELDS.get(given[0], given[0])
    try:
        if text:
            return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        pass  # a sentence, or the whole text of the licence
    named = [entry.rpartition(" :: ")[2] for entry in metadata.get_all("Classifier") or () if entry.startswith("License :: ")]
    known = [CLASSIFIERS[entry] for entry in named if entry in CLASSIFIERS]
    if len(known) == len(named) == 1:
        return known[0]
    raise Unknown(
        f"The metadata of {name} does not say its licence; read its licence file and add it to READ in tests/packages/licences.py."
    )


def is_allowed(expression: str) -> bool:
    """Whether an SPDX expression can be kept with ``ALLOWED`` licences alone. Pure; an exception (WITH) only adds permissions."""
    tokens = re.findall(r"[()]|[^\s()]+", expression)

    def either() -> bool:
        found = both()
        while tokens[:1] == ["OR"]:
            tokens.pop(0)
            found = both() or found
        return found

    def both() -> bool:
        found = one()
        while tokens[:1] == ["AND"]:
            tokens.pop(0)
            found = one() and found
        return found

    def one() -> bool:
        token = tokens.pop(0)
        if token == "(":
            found = either()
            tokens.pop(0)
            return found
        if tokens[:1] == ["WITH"]:
            del tokens[:2]
        return token in ALLOWED

    return either()


def table(of: Iterable[Package]) -> str:
    """Return the Markdown table of packages, versions and licences."""
    rows = [f"| {each.name} | {each.version} | {licence_of(each.name, each.distribution.metadata)} |" for each in of]
    return "\n".join(["| package | version | licence |", "| --- | --- | --- |", *rows])


_PART = re.compile(r"(<!-- packages: licences -->\n).*?(<!-- end of licences -->)", re.DOTALL)


def filled(text: str) -> str:
    """Return ``text`` with the table as the installed packages have it."""
    content = table(packages())
    return _PART.sub(lambda part: f"{part[1]}{content}\n{part[2]}", text)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
