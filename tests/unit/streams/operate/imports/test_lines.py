"""Reading a file of tiers: what each line says, or what is wrong with it, without repeating any of it."""

from pathlib import Path

import pytest

from streams.errors import ConfigurationError
from streams.operate.imports.lines import MAX_LINE_BYTES, Bad, Line, read_lines

NOW = 1_790_000_000.0
A, B = "7b0c54c8-2f55-4c1b-9f59-0d1c0c6c1a11", "7b0c54c8-2f55-4c1b-9f59-0d1c0c6c1a12"
ADDRESS = "jane.doe@example.com"


def read(tmp_path: Path, content: str | bytes, name: str = "teams.csv") -> list[Line | Bad]:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_lines(path, NOW))


def test_csv_line_has_the_columns_that_its_header_names_in_any_order(tmp_path: Path) -> None:
    head = "tier,Team_ID, email,subscription_id,plan_id,occurred_at\n"
    row = f"Pro_Yearly,{A.upper()},{ADDRESS},sub_1,plan_pro,2026-03-01T12:00:00.5+05:30\n"

    assert read(tmp_path, head + row) == [Line(2, A, "pro", "sub_1", "plan_pro", ADDRESS, 1_772_346_600_500_000)]


def test_json_line_is_the_same(tmp_path: Path) -> None:
    row = f'{{"tier": "pro", "team_id": "{A}", "email": null, "subscription_id": "", "occurred_at": 1772346600}}\n'

    assert read(tmp_path, row, "teams.jsonl") == [Line(1, A, "pro", at=1_772_346_600_000_000)]


@pytest.mark.parametrize("name", ["teams", "teams.txt", "teams.csv"])
def test_file_with_a_header_is_csv(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, b"\xef\xbb\xbfteam_id,tier\r\n" + f"{A},pro\r\n".encode(), name) == [Line(2, A, "pro")]


def test_file_of_objects_without_a_suffix_is_json(tmp_path: Path) -> None:
    assert read(tmp_path, f'{{"team_id":"{A}","tier":"pro"}}', "teams") == [Line(1, A, "pro")]


def test_numbers_count_every_line_also_blank_ones_and_those_within_quotes(tmp_path: Path) -> None:
    content = f'team_id,tier,email\n\n{A},pro,"a\nb"\n,,\n{B},none,\n'

    assert [line.number for line in read(tmp_path, content)] == [3, 6]


@pytest.mark.parametrize(
    ("columns", "values", "problem"),
    [
        ("team_id,tier", "42,pro", "team_id: is no UUID"),
        ("team_id,tier", ",pro", "team_id: is missing"),
        ("team_id,tier", f"{A},", "tier: is missing"),
        ("team_id,tier", f"{A},gold", "tier: is none; use one of anonymous, free, hobby, hobby_plus, pro, growth, team"),
        ("team_id,tier,email", f"{A},pro,jane.doe", "email: is no address"),
        (
            "team_id,tier,email",
            "42,gold,jane.doe",
            "team_id: is no UUID; tier: is none; use one of anonymous, free, hobby, hobby_plus, pro, growth, team; email: is no address",
        ),
        ("team_id,tier,email", f"{A},pro,a@{'b' * 255}", "email: is no address"),
        ("team_id,tier,plan_id", f"{A},pro,plän", "plan_id: is no id of Razorpay's (up to 100 printable ASCII characters)"),
        (
            "team_id,tier,subscription_id",
            f"{A},pro,{'s' * 101}",
            "subscription_id: is no id of Razorpay's (up to 100 printable ASCII characters)",
        ),
        (
            "team_id,tier,occurred_at",
            f"{A},pro,2026-03-01 12:00",
            "occurred_at: is no time; write RFC 3339 with an offset, or Unix seconds",
        ),
        ("team_id,tier,occurred_at", f"{A},pro,1790000000000", "occurred_at: is no time; write RFC 3339 with an offset, or Unix seconds"),
        ("team_id,tier,occurred_at", f"{A},pro,1790000301", "occurred_at: lies in the future"),
        ("team_id,tier,occurred_at", f"{A},pro,1969-12-31T23:59:59Z", "occurred_at: lies before 1970"),
        ("team_id,tier", f"{A},pro,{ADDRESS}", "has 3 values, and the header has 2 columns"),
        ("team_id,tier", f'"{A}"x,pro', "is no CSV: ',' expected after '\"'"),
    ],
)
def test_csv_line_that_can_not_be_taken_says_why_and_the_next_one_is_read(tmp_path: Path, columns: str, values: str, problem: str) -> None:
    missing = "," * (columns.count(",") - 1)

    assert read(tmp_path, f"{columns}\n{values}\n{B},free{missing}\n") == [Bad(2, problem), Line(3, B, "free")]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("{", "is no JSON object"),
        ("[1]", "is no JSON object"),
        (
            '{"team_id": 7, "mail": 1, "occurred_at": 9790000000}',
            "has another key than team_id, tier, subscription_id, plan_id, email and occurred_at; "
            "team_id: is no text; tier: is missing; occurred_at: lies in the future",
        ),
        (f'{{"team_id": "{A}", "tier": 3}}', "tier: is no text"),
        (f'{{"team_id": "{A}", "tier": "pro", "mail": "{ADDRESS}"}}', "has another key than team_id, tier, subscription_id, plan_id, email and occurred_at"),
        (f'{{"team_id": "{A}", "tier": "pro", "occurred_at": true}}', "occurred_at: is no text"),
    ],
)  # fmt: skip
def test_json_line_that_can_not_be_taken_says_why_and_the_next_one_is_read(tmp_path: Path, row: str, problem: str) -> None:
    good = f'{{"team_id": "{B}", "tier": "free"}}'

    assert read(tmp_path, f"{good}\n{row}\n{good}\n", "t.jsonl") == [Line(1, B, "free"), Bad(2, problem), Line(3, B, "free")]


def test_bytes_that_are_no_utf8_are_a_bad_line(tmp_path: Path) -> None:
    assert read(tmp_path, b"team_id,tier\n" + A.encode() + b",pr\xf6\n") == [Bad(2, "tier: is no UTF-8")]


@pytest.mark.parametrize(
    ("content", "name", "sentence"),
    [
        ("", "t.csv", "lacks team_id and tier"),
        ("team_id\n", "t.csv", "lacks tier"),
        ("team_id,tier,mail\n", "t.csv", "has another name in column 3"),
        ("team_id,tier,tier\n", "t.csv", "has tier twice"),
        ("", "t.jsonl", "holds no line with a JSON object"),
        ("[\n{}\n]\n", "t.json", "holds no line with a JSON object"),
        ("team_id,tier\n" + "x" * (MAX_LINE_BYTES + 1), "t.csv", "line 2 is longer than"),
    ],
)
def test_file_that_is_none_of_tiers_is_refused_as_a_whole(tmp_path: Path, content: str, name: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        read(tmp_path, content, name)


def test_file_that_is_not_there_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none.csv can not be read: No such file or directory\.$"):
        list(read_lines(tmp_path / "none.csv", NOW))
