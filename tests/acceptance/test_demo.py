"""``tierstream demo`` as its users start it: a process of its own, known by what it prints and what it leaves behind."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from schemas.kinds import Kind
from schemas.loops import LOOPS_MAP, NeverMailed
from schemas.reasons import Reason

SECONDS = 60.0
STOP_SECONDS = 10.0
COMMAND = [sys.executable, "-m", "streams.cli", "demo"]
ELSEWHERE = {"TIERSTREAM_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9", "TIERSTREAM_INITIAL_TIER": "pro", "TIERSTREAM_FORWARD": "off"}
PROMISED = {
    Reason.CLAIMED, Reason.UPGRADED, Reason.RENEWAL, Reason.DOWNGRADED, Reason.SUPERSEDED, Reason.CANCELED, Reason.DUPLICATE, Reason.STALE,
    Reason.UNKNOWN_PLAN, Reason.UNKNOWN_TEAM, Reason.IGNORED, Reason.MALFORMED, Reason.PASSED_THROUGH, Reason.ADMIN_CHANGED, Reason.ENDED,
    Reason.PAUSES_LATER, Reason.PAUSED, Reason.ENDS_LATER, Reason.MOVED, Reason.GRACE_STARTED, Reason.GRACE_REMINDER, Reason.GRACE_RECOVERED,
}  # fmt: skip


@dataclass(frozen=True)
class Finished:
    """A demo that has run to its end."""

    status: int
    output: str
    seconds: float
    left: list[Path]

    def table(self, title: str) -> str:
        """The text of the table under the line that begins with ``title``."""
        _, _, rest = self.output.partition(f"\n{title}")
        return rest.partition("\n\n")[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One run, with settings in the environment that would break it if it heeded them."""
    directory = tmp_path_factory.mktemp("demo")
    environment = {**os.environ, **ELSEWHERE, "TMPDIR": str(directory)}
    environment.pop("COLUMNS", None)
    began = time.monotonic()
    run = subprocess.run(COMMAND, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=2 * SECONDS)
    return Finished(run.returncode, run.stdout, time.monotonic() - began, list(directory.iterdir()))


def test_demo_exits_0_in_time_and_leaves_nothing_behind(finished: Finished) -> None:
    assert finished.status == 0, finished.output
    assert finished.seconds < SECONDS
    assert finished.left == []


def test_demo_ends_with_one_line_in_which_received_is_the_sum_of_outcomes(finished: Finished) -> None:
    last = finished.output.rstrip().splitlines()[-1]

    line = re.fullmatch(r"received (\d+) = (.+)", last)
    assert line, last
    outcomes = dict(reversed(summand.split(" ", 1)) for summand in line[2].split(" + "))  # type: ignore[misc]
    assert int(line[1]) == sum(map(int, outcomes.values())) >= 45
    assert set(outcomes) >= PROMISED


def test_demo_shows_every_promised_reason_among_the_decisions(finished: Finished) -> None:
    decisions = finished.table("Decisions")

    for reason in PROMISED:
        assert re.search(rf"\b{reason}\b", decisions), reason
    assert len({line.split()[0] for line in decisions.splitlines()[3:] if line.strip() and line[0] != "-"}) >= 8
    assert re.search(r"free -> hobby\b", decisions)
    assert re.search(r"pro -> hobby\b", decisions)


def test_demo_shows_what_followed_by_itself_and_what_became_of_it(finished: Finished) -> None:
    followed, decisions = finished.table("What followed by itself"), finished.table("Decisions")

    assert re.search(r"subscription\.due .+ classify", followed)
    assert re.search(r"subscription\.moved .+ normalise", followed)
    assert re.search(
        r"subscription\.paused +classify +pauses_later +stays pro *\n\w+ +subscription\.due +classify +paused +pro -> hobby", decisions
    )
    assert re.search(
        r"subscription\.completed +classify +ends_later +stays pro *\n\w+ +subscription\.due +classify +canceled +pro -> hobby", decisions
    )
    assert re.search(r"subscription\.due +classify +grace_reminder .+\n\w+ +subscription\.charged +classify +grace_recovered", decisions)
    assert re.search(
        r"admin\.tier_changed +classify +admin_changed +hobby -> team *\n.+ team -> pro *\n.+ downgraded +pro -> hobby", decisions
    )


def test_demo_shows_requests_rows_and_mails_of_every_kind(finished: Finished) -> None:
    came_in, rows, mails = finished.table("What came in"), finished.table("Audit rows"), finished.table("Mails")

    assert {line.split()[-1] for line in came_in.splitlines()[3:]} == {"200", "202", "400", "401"}
    for kind in set(Kind) - {Kind.OPERATOR_DISCARDED, Kind.OPERATOR_RESOLVED}:
        assert kind in rows
        assert (kind in mails) is not isinstance(LOOPS_MAP[kind], NeverMailed)
    assert "owner@" not in finished.output


def test_demo_ends_with_the_missing_plan_added_and_its_charge_replayed_so_that_the_team_is_on_it(finished: Finished) -> None:
    dead_letters, decisions, tiers = (finished.table(title) for title in ("Dead letters: 3", "Decisions", "The tier of each team"))

    assert re.search(r"garnet +normalise +unknown_plan +replayed ", dead_letters)
    assert len(re.findall(r" open ", dead_letters)) == 2
    assert re.search(
        r"normalise +unknown_plan *\n.+ passed_through .+\ngarnet +subscription\.charged +classify +upgraded +free -> growth", decisions
    )
    assert re.search(r"garnet +growth ", tiers)


def test_demo_output_fits_80_columns_but_for_the_line_of_totals(finished: Finished) -> None:
    tables = finished.output.partition("\nWhat came in")[2].rpartition("\nEvery count")[0]

    assert max(map(len, tables.splitlines())) <= 80
    assert "…" not in tables


def test_demo_says_that_it_leaves_settings_aside(finished: Finished) -> None:
    assert finished.output.startswith(f"The demo runs a stack of its own and leaves aside {', '.join(sorted(ELSEWHERE))}.")


@pytest.fixture
def interrupted(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo that has begun to play."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(COMMAND, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as demo:
        try:
            yield demo
        finally:
            demo.kill()


@pytest.mark.parametrize("moment", ["Starting Kafka", "All is up"])
def test_demo_that_is_interrupted_stops_within_10_seconds_and_leaves_nothing_behind(
    interrupted: subprocess.Popen[str], tmp_path: Path, moment: str
) -> None:
    assert interrupted.stdout is not None
    for line in interrupted.stdout:
        if line.startswith(moment):
            break
    began = time.monotonic()

    interrupted.send_signal(signal.SIGINT)

    rest = interrupted.stdout.read()
    assert interrupted.wait(STOP_SECONDS) == 130
    assert time.monotonic() - began < STOP_SECONDS
    assert rest.strip().splitlines()[-1] == "The demo was interrupted; everything is stopped and nothing is left behind."
    assert list(tmp_path.iterdir()) == []
    assert _children_that_know(tmp_path) == []


def _children_that_know(directory: Path) -> list[str]:
    """Processes that were started with ``directory`` for their temporary files."""
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"TMPDIR={directory}\0".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # it has ended, or is somebody else's
    return found
