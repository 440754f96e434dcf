"""The sizing page states what was measured, and what it calculates follows from that."""

import re
from pathlib import Path

import pytest

from bench.disk import disk_table, topic_bytes
from bench.document import filled
from bench.report import RESULTS
from bench.sizing import PAGE, PARTS, read_results

GROWTH = {"teams": 1_000_000, "events_per_second": 20_000, "partitions": 8}
RESULTS_OF_100 = {
    "quiet": [
        {"partitions": 32, "rate": rate, "cpu_percent": percent, "cpu_by_process": {"kafka": kafka}, "rss_mb": 500}
        for rate, percent, kafka in ((0, 6, 2), (20, 46, 22), (100, 70, 30), (500, 130, 50))
    ],
    "stages": {
        "gateway": {"requests_per_second": 10_000},
        "normalise": {"events_per_second": 40_000},
        "audit": {"rows_per_second": 100_000},
        "forward": [{"sent_per_second": 1_990.5}],
    },
    "growth": [GROWTH | {"teams": 1_000, "events_per_second": 1}, GROWTH],
}
DISK = {
    "partitions": 8,
    "rates": [
        {"rate": 20, "webhooks": 1, "topics": {"razorpay.webhooks": 1_000, "tier.current": 9_000}, "tables": {"audit_log": 500}},
        {"rate": 500, "webhooks": 1, "topics": {"razorpay.webhooks": 100}, "tables": {"audit_log": 400, "forwarder_sent": 100}},
    ],
}


def cells(table: str, first: str) -> list[str]:
    """The cells of a row of a table in Markdown."""
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {first}")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_page_states_the_results() -> None:
    if not (RESULTS / "latest.json").is_file():
        pytest.skip("there is no full run yet")
    text = PAGE.read_text(encoding="utf-8")

    assert filled(text, read_results(), PARTS) == text, "run: python -m bench.sizing"
    assert set(re.findall(r"<!-- bench: (\w+) -->", text)) == set(PARTS)


def test_cpu_of_few_webhooks_lies_between_idle_and_20_a_second_and_that_of_many_is_the_sum_of_full_loads() -> None:
    costs = PARTS["sizing_costs"](RESULTS_OF_100)

    # idle 0.04 and 0.24 at 20/s, so 0.05; 10,000/s: 1 of the gateway, 0.25 of normalise, 0.5 of classify and 0.1 of audit
    assert cells(costs, "CPU of the gateway and the stages") == ["0.05 *", "0.40", "1.9 **"]
    # 0.02 and 0.22; from 0.3 to 0.5 in 400/s, so 0.0005 for each of the 9,500 above 500
    assert cells(costs, "CPU of Kafka") == ["0.03 *", "0.30", "at most 5.2 ***"]


def test_classify_is_taken_with_the_most_teams_for_that_is_its_lowest_rate() -> None:
    table = PARTS["sizing_extrapolated"](RESULTS_OF_100)

    assert cells(table, "classify, 1,000,000 teams")[:2] == ["20,000/s", "50 %"]


def test_disk_is_what_is_kept_in_three_copies_and_rows_are_kept_for_ever() -> None:
    costs = PARTS["sizing_costs"](RESULTS_OF_100 | {"disk": DISK})

    # 1,000 bytes x 30 days x 86,400 x three copies, and 100 bytes at the higher rate; tier.current is compacted, and does not grow
    assert cells(costs, "Kafka's disk") == ["7.8 GB", "78 GB", "7.8 TB"]
    assert cells(costs, "PostgreSQL's disk a day") == ["43 MB", "4.3 GB", "432 GB"]


def test_what_was_not_measured_is_said_to_be() -> None:
    assert set(cells(PARTS["sizing_costs"](RESULTS_OF_100), "Kafka's disk")) == {"not measured yet"}
    assert PARTS["sizing_disk"](RESULTS_OF_100) == "*Not measured yet.*"


def test_bytes_of_a_topic_are_those_of_its_partitions_logs(tmp_path: Path) -> None:
    for directory, file, size in (
        ("team.events-0", "00000000000000000000.log", 10),
        ("team.events-11", "00000000000000000000.log", 20),
        ("team.events-11", "00000000000000000000.index", 1_000),
        ("tierstream.classify-teams-changelog-3", "00000000000000000042.log", 5),
        ("__consumer_offsets-0", "00000000000000000000.log", 7_000),
    ):
        (tmp_path / "kafka" / directory).mkdir(parents=True, exist_ok=True)
        (tmp_path / "kafka" / directory / file).write_bytes(b"x" * size)
    (tmp_path / "classify.log").write_text("a log of a process")

    found = topic_bytes(tmp_path)

    assert {name: size for name, size in found.items() if size} == {"team.events": 30, "tierstream.classify-teams-changelog": 5}


def test_table_of_the_disk_begins_with_what_takes_most() -> None:
    names = re.findall(r"^\| `([\w.]+)`", disk_table(DISK), re.MULTILINE)

    assert names == ["tier.current", "razorpay.webhooks", "audit_log", "forwarder_sent"]
