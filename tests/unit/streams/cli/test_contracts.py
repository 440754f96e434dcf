"""``python -m streams.cli.contracts``: it writes what keeps the promises, and refuses what does not."""

import json
from pathlib import Path

import pytest

from streams.cli.contracts import main
from tests.contracts import DIRECTORY

TIER = "tier.current.json"


@pytest.fixture
def committed(tmp_path: Path) -> Path:
    assert main([str(tmp_path)]) == 0
    return tmp_path


def change(path: Path, field: str | None = None) -> None:
    """Let the committed contract promise ``field`` as well, or another description."""
    contract = json.loads(path.read_text())
    if field is None:
        contract["description"] = "As it was said once."
    else:
        contract["properties"][field] = {"type": "string"}
    path.write_text(json.dumps(contract))


def texts(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


def test_contracts_are_written_as_they_are_committed_and_then_agree(committed: Path) -> None:
    assert texts(committed) == texts(DIRECTORY)
    assert main(["--check", str(committed)]) == 0


def test_contracts_that_only_read_better_are_out_of_date_until_they_are_written(
    committed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(committed / TIER)

    assert main(["--check", str(committed)]) == 1
    assert "run: python -m streams.cli.contracts" in capsys.readouterr().err
    assert main([str(committed)]) == 0
    assert texts(committed) == texts(DIRECTORY)


def test_contract_that_would_be_broken_is_not_written_unless_it_is_meant(committed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(committed / TIER, field="colour")
    before = texts(committed)

    for arguments in ([], ["--check"], ["--check", "--incompatible"]):
        assert main([*arguments, str(committed)]) == 1
        said = capsys.readouterr().err
        assert "INCOMPATIBLE  tier.current: colour: is gone." in said
        assert "docs/consuming.md" in said
    assert texts(committed) == before

    assert main(["--incompatible", str(committed)]) == 0
    assert texts(committed) == texts(DIRECTORY)


def test_contract_of_a_kind_that_retired_is_removed(committed: Path) -> None:
    (committed / "audit.events.gone.json").write_text('{"deprecated": true}')

    assert main([str(committed)]) == 0
    assert not (committed / "audit.events.gone.json").exists()


def test_contract_that_can_not_be_read_is_one_sentence(committed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (committed / TIER).write_text("{")

    assert main([str(committed)]) == 2
    assert capsys.readouterr().err.startswith(f"{committed / TIER} is no JSON")
