"""The lines of a file, and what is known of their teams, in a table on disk: memory stays the same for any number of lines.

The database is SQLite's own temporary file, which nobody else can read and which is gone when it is closed, or its process ends.
"""

import sqlite3
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import msgspec

from streams.operate.imports.decide import Known, New, Refused, Statement, decide
from streams.operate.imports.lines import Bad, Line

_SCHEMA = """
pragma journal_mode = off;
pragma synchronous = off;
pragma cache_size = -65536;
create table line (
    team blob primary key, number integer, tier text, plan text, subscription text, email text, at integer
) without rowid;
create unique index subscription on line (subscription) where subscription is not null;
create table known (team blob primary key, at integer, said blob, ids blob) without rowid;
create table link (subscription text primary key, team text) without rowid;
create table bad (number integer primary key, problem text);
"""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Statement).decode


@dataclass(frozen=True, slots=True)
class Counts:
    """Lines by what they do. A line that repeats another one of the file is unchanged."""

    new: int
    unchanged: int
    bad: int
    without_plan: int


class Staging:
    """One import at work. Close it at the end."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(_SCHEMA)
        self._database.execute("begin")  # and never committed: all of it is thrown away at the end
        self._repeated = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def add(self, line: Line) -> None:
        """Keep a line; one of a team or a subscription that another line names is bad, unless it says the same."""
        values = (_key(line.team_id), line.number, line.tier, line.plan_id, line.subscription_id, line.email, line.at)
        added = self._database.execute("insert or ignore into line values (?, ?, ?, ?, ?, ?, ?)", values)
        if added.rowcount:
            return
        same = self._row("select number, tier, plan, subscription, email, at from line where team = ?", values[0])
        if same is not None and same[1:] == values[2:]:
            self._repeated += 1
        elif same is not None:
            self.refuse(Bad(line.number, f"team_id: line {same[0]} says something else of this team"))
        else:
            (number,) = self._row("select number from line where subscription = ?", line.subscription_id) or (0,)
            self.refuse(Bad(line.number, f"subscription_id: line {number} has it for another team"))

    def refuse(self, bad: Bad) -> None:
        """Keep why a line is bad."""
        self._database.execute("insert or ignore into bad values (?, ?)", (bad.number, bad.problem))

    def has_team(self, team: bytes) -> bool:
        """Whether a line is about the team, given as a key of ``team.events``."""
        key = _key_or_none(team)
        return key is not None and self._row("select 1 from line where team = ?", key) is not None

    def has_subscription(self, subscription_id: str) -> bool:
        """Whether a line names the subscription."""
        return self._row("select 1 from line where subscription = ?", subscription_id) is not None

    def note(self, team_id: str, known: Known | None) -> None:
        """Take in what is known of a team; the last word counts, and None says that no import of it is known."""
        if known is None:
            self._database.execute("delete from known where team = ?", (_key(team_id),))
            return
        self._database.execute(
            "insert or replace into known values (?, ?, ?, ?)", (_key(team_id), known.at, _encode(known.said), known.ids)
        )

    def known(self, team_id: str) -> Known | None:
        """Return what was noted of a team."""
        row = self._row("select at, said, ids from known where team = ?", _key(team_id))
        return None if row is None else _known(*row)

    def note_link(self, subscription_id: str, team_id: str) -> None:
        """Take in whose an earlier import says a subscription to be; the last word counts."""
        self._database.execute("insert or replace into link values (?, ?)", (subscription_id, team_id))

    def decide(self) -> Counts:
        """Compare every line with what was noted, and count; those that can not be applied are bad from then on."""
        new = unchanged = without_plan = 0
        refused = []
        for line, known, linked_team in self._lines():
            outcome = decide(line, known, linked_team)
            if isinstance(outcome, New):
                new += 1
                without_plan += line.subscription_id is not None and line.plan_id is None
            elif isinstance(outcome, Refused):
                refused.append((line.number, outcome.problem))
                if len(refused) == 1_000:
                    self._refuse_all(refused)
            else:
                unchanged += 1
        self._refuse_all(refused)
        (bad,) = self._row("select count(*) from bad") or (0,)
        return Counts(new, unchanged + self._repeated, bad, without_plan)

    def new_lines(self) -> Iterator[tuple[Line, New]]:
        """Yield what is to be produced. The same at each call, whatever has been produced since."""
        for line, known, linked_team in self._lines():
            outcome = decide(line, known, linked_team)
            if isinstance(outcome, New):
                yield line, outcome

    def bad_lines(self) -> Iterator[Bad]:
        """Yield the bad lines in their order."""
        for number, problem in self._database.execute("select number, problem from bad order by number"):
            yield Bad(number, problem)

    def _refuse_all(self, refused: list[tuple[int, str]]) -> None:
        self._database.executemany("insert or ignore into bad values (?, ?)", refused)
        refused.clear()

    def _lines(self) -> Iterator[tuple[Line, Known | None, str | None]]:
        query = (
            "select line.team, number, tier, subscription, plan, email, line.at, known.at, said, ids, link.team from line"
            " left join known on known.team = line.team left join link using (subscription)"
        )
        for team, number, tier, subscription, plan, email, at, known_at, said, ids, linked_team in self._database.execute(query):
            known = None if said is None else _known(known_at, said, ids)
            yield Line(number, str(uuid.UUID(bytes=team)), tier, subscription, plan, email, at), known, linked_team

    def _row(self, query: str, *values: object) -> Any:
        return self._database.execute(query, values).fetchone()


def _key(team_id: str) -> bytes:
    return bytes.fromhex(team_id.replace("-", ""))


def _key_or_none(team: bytes) -> bytes | None:
    try:
        return bytes.fromhex(team.decode().replace("-", ""))
    except ValueError:
        return None


def _known(at: int, said: bytes, ids: bytes) -> Known:
    return Known(at, _decode(said), ids)
