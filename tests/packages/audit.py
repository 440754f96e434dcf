"""The command line of ``make audit``: known vulnerabilities of the packages that the image holds, by pip-audit.

Exit status 1 when there is one, else 0: also where no data can be had, which is said in one sentence on stderr, for a build without a network
must not fail by it.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.packages.image import LOCK, environment, pinned

SERVICES = ("pypi", "osv")
"""Where pip-audit gets its data, in the order in which they are asked."""

SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Found:
    """What one service says. ``vulnerable`` has a line for each vulnerability, ``skipped`` the packages that it knows nothing of."""

    audited: int
    skipped: tuple[str, ...]
    vulnerable: tuple[str, ...]


def read(output: str) -> Found | None:
    """Return what pip-audit's JSON says; None where it is none, since pip-audit has failed. Pure.

    A service that can not be reached for a package may count as one that does not know it, and pip-audit then says that nothing was found.
    """
    try:
        dependencies: list[dict[str, Any]] = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return None
    skipped = tuple(each["name"] for each in dependencies if "skip_reason" in each)
    lines = [
        f"{each['name']} {each['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'no version yet'}"
        for each in dependencies
        for found in each.get("vulns", ())
    ]
    return Found(len(dependencies) - len(skipped), skipped, tuple(lines))


def verdict(found: Found, locked: int) -> tuple[int, list[str]]:
    """Return the exit status and what to say of ``locked`` packages. Pure."""
    lines = list(found.vulnerable)
    if found.skipped:
        lines.append(f"NOT AUDITED: {len(found.skipped)} of {locked} packages, of which nothing is known: {', '.join(found.skipped)}.")
    lines.append(f"{found.audited} of {locked} packages audited, {len(found.vulnerable)} known vulnerabilities.")
    return (1 if found.vulnerable else 0), lines


def ask(program: Path, service: str) -> Found | str:
    """Run pip-audit on the lock; return what it found, or why it has no data."""
    command: Sequence[str] = (
        *(str(program), "--vulnerability-service", service, "--format", "json", "--progress-spinner", "off"),
        *("--disable-pip", "--require-hashes", "--requirement", str(LOCK)),
    )
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except FileNotFoundError:
        return "pip-audit could not be installed"
    except subprocess.TimeoutExpired:
        return f"{service} did not answer within {SECONDS:.0f} s"
    found = read(ran.stdout)
    if found is None:
        last = (ran.stderr.strip().splitlines() or ["pip-audit did not say why"])[-1]
        return f"{service}: {last.partition(':')[0].rpartition('.')[2][:100]}"
    return found if found.audited else f"{service} knows none of them"


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask one service after the other until one has data; print what it says."""
    parser = argparse.ArgumentParser(description="Look for known vulnerabilities of the packages that the image holds.")
    parser.add_argument("--pip-audit", type=Path, required=True, help="pip-audit's program, in an environment of its own")
    program = parser.parse_args(arguments).pip_audit
    locked = len(pinned(LOCK.read_text(encoding="utf-8"), environment()))
    why = dict[str, None]()
    for service in SERVICES:
        found = ask(program, service)
        if isinstance(found, Found):
            status, lines = verdict(found, locked)
            print("\n".join(lines))  # noqa: T201
            return status
        why[found] = None
    print(f"NOT AUDITED: no vulnerability data could be had for {locked} packages ({'; '.join(why)}).", file=sys.stderr)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
