"""The CycloneDX document: that it is one, and that it holds what the lock does."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.packages.image import packages
from tests.packages.licences import licence_of

pytest.importorskip("cyclonedx", reason="needs cyclonedx-python-lib, which is one of the packages of requirements.lock")

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.packages.sbom import main, sbom


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sbom(packages()))
    return found


def test_document_is_valid_cyclonedx(document: dict[str, Any]) -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_6)

    assert validator.validate_str(json.dumps(document)) is None
    assert validator.validate_str(json.dumps({**document, "bomFormat": "else"})) is not None


def test_document_has_each_package_of_the_image_with_version_and_licence(document: dict[str, Any]) -> None:
    held = packages()

    found = {
        component["name"]: (
            component["version"],
            [each.get("expression") or each["license"].get("id") or each["license"]["name"] for each in component["licenses"]],
        )
        for component in document["components"]
    }
    assert found == {each.name: (each.version, [licence_of(each.name, each.distribution.metadata)]) for each in held}
    assert document["metadata"]["component"]["name"] == "tierstream"


def test_each_package_is_reached_from_the_project(document: dict[str, Any]) -> None:
    needs = {each["ref"]: each.get("dependsOn", []) for each in document["dependencies"]}
    reached, waiting = set[str](), ["tierstream"]
    while waiting:
        ref = waiting.pop()
        if ref not in reached:
            reached.add(ref)
            waiting += needs[ref]

    assert reached == {component["bom-ref"] for component in document["components"]} | {"tierstream"}


def test_document_of_one_lock_has_one_serial_number(document: dict[str, Any]) -> None:
    assert json.loads(sbom(packages()))["serialNumber"] == document["serialNumber"]


def test_command_writes_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path / "sbom.json")]) == 0

    assert json.loads((tmp_path / "sbom.json").read_text())["specVersion"] == "1.6"
    assert f"{len(packages())} packages" in capsys.readouterr().out
