"""What is made of pip-audit's answers: above all, that no data is not taken for no vulnerability."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.packages.audit import Found, main, read, verdict
from tests.packages.image import LOCK, environment, pinned

CLEAN = {"name": "a", "version": "1", "vulns": []}
VULNERABLE = {
    "name": "b",
    "version": "2",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1", "3"]}, {"id": "PYSEC-2", "fix_versions": []}],
}
SKIPPED = {"name": "c", "skip_reason": "Dependency could not be audited"}


def output(*dependencies: dict[str, Any]) -> str:
    return json.dumps({"dependencies": dependencies, "fixes": []})


def test_answer_is_read() -> None:
    assert read(output(CLEAN, VULNERABLE, SKIPPED)) == Found(
        2, ("c",), ("b 2: PYSEC-1, mended in 2.1, 3", "b 2: PYSEC-2, mended in no version yet")
    )


@pytest.mark.parametrize("text", ["", "Traceback", "[]", "{}", "7"])
def test_what_is_no_answer_is_none(text: str) -> None:
    assert read(text) is None


def test_vulnerability_is_exit_status_1_and_named() -> None:
    status, lines = verdict(Found(2, (), ("b 2: PYSEC-1, mended in 3",)), 2)

    assert status == 1
    assert lines == ["b 2: PYSEC-1, mended in 3", "2 of 2 packages audited, 1 known vulnerabilities."]


def test_what_was_skipped_is_said() -> None:
    status, lines = verdict(Found(1, ("c",), ()), 2)

    assert status == 0
    assert lines == ["NOT AUDITED: 1 of 2 packages, of which nothing is known: c.", "1 of 2 packages audited, 0 known vulnerabilities."]


def program(directory: Path, script: str) -> str:
    path = directory / "pip-audit"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_nothing_known_by_one_service_and_none_reached_of_the_other_is_not_audited(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "skipped").write_text(output(SKIPPED), encoding="utf-8")
    script = f"case $2 in pypi) cat {tmp_path}/skipped;; *) echo 'requests.exceptions.ConnectionError: at a host' >&2; exit 1;; esac"

    assert main(["--pip-audit", program(tmp_path, script)]) == 0

    said = capsys.readouterr()
    assert said.out == ""
    packages = len(pinned(LOCK.read_text(encoding="utf-8"), environment()))
    assert said.err == (
        f"NOT AUDITED: no vulnerability data could be had for {packages} packages (pypi knows none of them; osv: ConnectionError).\n"
    )


def test_second_service_is_asked_where_the_first_has_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "found").write_text(output(CLEAN, VULNERABLE), encoding="utf-8")
    script = f"case $2 in pypi) exit 1;; *) cat {tmp_path}/found; exit 1;; esac"

    assert main(["--pip-audit", program(tmp_path, script)]) == 1
    assert "b 2: PYSEC-1, mended in 2.1, 3" in capsys.readouterr().out


def test_program_that_is_not_there_is_not_audited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--pip-audit", str(tmp_path / "nothing")]) == 0
    assert "pip-audit could not be installed" in capsys.readouterr().err
