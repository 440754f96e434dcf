"""The contracts in docs/contracts: ``python -m streams.cli.contracts [DIRECTORY]`` writes them, and with ``--check`` compares only.

A committed contract is a promise. A change that keeps it is written; one that breaks it is refused, unless ``--incompatible`` says that it
is meant. Exit 1 where a promise would be broken, and with ``--check`` also where the files are not up to date.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from streams.contracts.committed import Finding, contracts, findings, read, written
from streams.errors import TierstreamError

DIRECTORY = Path("docs", "contracts")

COMMAND = "python -m streams.cli.contracts"

REMEDY = (
    "Others rely on these contracts. Leave the old field or kind as it is and give the new meaning one of its own; announce in RETIRING "
    f"(schemas/kinds.py) that a kind will go. If it must be, and nobody relies on it: {COMMAND} --incompatible. docs/consuming.md says more."
)


def check(directory: Path) -> list[Finding]:
    """Return every difference between the committed contracts and the code. Raises ConfigurationError for a file that can not be read."""
    return findings(read(directory), contracts())


def write(directory: Path) -> None:
    """Write all contracts as the code has them now, and remove those of kinds that are gone."""
    current = contracts()
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.glob("*.json"):
        if path.stem not in current:
            path.unlink()
    for name, contract in current.items():
        (directory / f"{name}.json").write_text(written(contract), encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    """Write or check the contracts; return the exit status."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Write the contracts, unless a change breaks one.")
    parser.add_argument("directory", nargs="?", type=Path, default=DIRECTORY, help=f"where they are ({DIRECTORY})")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where anything differs")
    parser.add_argument("--incompatible", action="store_true", help="write changes that break a contract as well")
    given = parser.parse_args(arguments)
    try:
        found = check(given.directory)
    except TierstreamError as error:
        print(error, file=sys.stderr)
        return 2
    for finding in found:
        print(f"{'INCOMPATIBLE' if finding.breaks else 'compatible'}  {finding}", file=sys.stderr)
    broken = any(finding.breaks for finding in found)
    if broken and (given.check or not given.incompatible):
        print(REMEDY, file=sys.stderr)
        return 1
    if given.check:
        if found:
            print(f"The contracts are not up to date; run: {COMMAND}", file=sys.stderr)
        return 1 if found else 0
    write(given.directory)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
