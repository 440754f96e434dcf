"""``tierstream dlq``: what stands in ``dead.letters``, and what becomes of it."""

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.progress import TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from streams.cli.options import Because, DryRun, Json, Yes, confirm, plain_console
from streams.cli.progress import progress_bar
from streams.cli.settings import DataDir, command_settings
from streams.errors import ConfigurationError, TierstreamError

if TYPE_CHECKING:
    from streams.operate.dead_letters.filters import Filters
    from streams.operate.dead_letters.letters import Action, DeadLetter, Place
    from streams.operate.dead_letters.open_letters import OpenLetters
    from streams.operate.dead_letters.plan import Plan
    from streams.settings import Settings

_LISTED = 20
_SHOWN_OF_PLAN = 10
_HINT = "tierstream dlq show --at PLACE shows one whole; docs/operating.md says for each reason what to run."

Reason = Annotated[str | None, typer.Option("--reason", metavar="REASON", help="Only those parked for this, such as unknown_plan.")]
Stage = Annotated[str | None, typer.Option("--stage", metavar="STAGE", help="Only those that this stage parked.")]
Key = Annotated[str | None, typer.Option("--key", metavar="KEY", help="Only those whose record has this key.")]
Since = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="Only those parked at this time or later (RFC 3339, or Unix seconds).")
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Only those parked before this time.")]
At = Annotated[
    str | None,
    typer.Option("--at", metavar="TOPIC:PARTITION:OFFSET", help="Only this one: its place, or that of the record that it is of."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    dlq = typer.Typer(
        help="Dead letters: list, look at, replay, discard. Example: tierstream dlq list --reason unknown_plan", no_args_is_help=True
    )
    dlq.command("list")(list_dead_letters)
    dlq.command("show")(show)
    dlq.command("replay")(replay)
    dlq.command("discard")(discard)
    app.add_typer(dlq, name="dlq")


def list_dead_letters(
    reason: Reason = None,
    stage: Stage = None,
    key: Key = None,
    since: Since = None,
    until: Until = None,
    at: At = None,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """List the dead letters that nobody has replayed or discarded: how many of each reason, since when, and the first of them.

    Example: tierstream dlq list --stage normalise --since 2026-03-01
    """
    from streams.logging import mask_text
    from streams.operate.dead_letters.listing import Histogram, columns, listed

    with _open_letters(data_dir, reason, stage, key, since, until, at) as (_, filters, letters):
        matching = filter(filters.matches, letters)
        if as_json:
            for part in listed(matching):
                sys.stdout.write(part)
            return
        histogram = Histogram()
        first = list["DeadLetter"]()
        for letter in matching:
            if histogram.total < _LISTED:
                first.append(letter)
            histogram.add(letter)
    if not histogram.total:
        print("No dead letters.")
        return
    table = Table("reason", "count", "oldest", "newest", box=None, pad_edge=False)
    for name, group in histogram.by_count():
        table.add_row(name or "-", f"{group.count:,}", _age(group.oldest), _age(group.newest))
    console = plain_console()
    console.print(table)
    console.print()
    head, *lines = columns(first)
    console.print(head, style="bold", soft_wrap=True)
    for line, letter in zip(lines, first, strict=True):
        console.print(line, soft_wrap=True)  # a place is copied into the next command, so nothing of it may be cut
        if letter.error:
            console.print(Padding(Text(mask_text(letter.error)), (0, 0, 0, 2)))
    if histogram.total > _LISTED:
        console.print(f"… and {histogram.total - _LISTED:,} more: narrow it down, or take --json.")
    console.print(_HINT, soft_wrap=True)


def show(
    at: Annotated[str, typer.Option("--at", metavar="TOPIC:PARTITION:OFFSET", help="Its place, or that of the record that it is of.")],
    raw: Annotated[bool, typer.Option("--raw", help="Show e-mail addresses as they are.")] = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Show one dead letter whole: why it is there, its headers, key and value. Exit 1 when there is none, or it was decided on.

    Example: tierstream dlq show --at dead.letters:3:17
    """
    from streams.operate.dead_letters.listing import whole

    with _open_letters(data_dir, at=at) as (_, filters, letters):
        found = next(filter(filters.matches, letters), None)
    if found is None:
        raise TierstreamError(f"No open dead letter is at {at}; `tierstream dlq list` shows where they are.")
    shown = whole(found, raw=raw)
    if as_json:
        print(json.dumps(shown))
        return
    console = plain_console()
    for name, value in shown.items():
        text = json.dumps(value, indent=2, ensure_ascii=False) if isinstance(value, dict | list) else str("-" if value is None else value)
        console.print(f"{name}: {text}", soft_wrap=True)


def replay(
    because: Because,
    reason: Reason = None,
    stage: Stage = None,
    key: Key = None,
    since: Since = None,
    until: Until = None,
    at: At = None,
    at_most: Annotated[int | None, typer.Option("--max", min=1, metavar="N", help="Replay no more than N records.")] = None,
    rate: Annotated[float | None, typer.Option("--rate", min=0.001, metavar="N", help="Records a second at most.")] = None,
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="With --at: replay it although it was replayed three times and came back.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Produce records again to the topic that they were read from, once what kept them from being acted on is mended.

    Records of one key keep their order. Each is committed together with the mark that closes its dead letter, so a command that is stopped, at any
    moment, is finished by the same one. Exit 1 when something matched and nothing of it can be replayed, or nothing open is at --at.

    Example: tierstream dlq replay --reason unknown_plan --because "plan_2019 is in the plan file now"
    """
    from streams.operate.dead_letters.letters import Action

    if quarantined and at is None:
        raise ConfigurationError("--quarantined is for one record: name it with --at.")
    with _open_letters(data_dir, reason, stage, key, since, until, at) as (settings, filters, letters):
        _decide(
            settings,
            filters,
            letters,
            Action.REPLAYED,
            because,
            quarantined=quarantined,
            at_most=at_most,
            rate=rate,
            dry_run=dry_run,
            yes=yes or not sys.stdin.isatty(),
            as_json=as_json,
        )


def discard(
    because: Because,
    reason: Reason = None,
    stage: Stage = None,
    key: Key = None,
    since: Since = None,
    until: Until = None,
    at: At = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Close dead letters that nothing is to be made of. Their records stay in the log until its retention takes them.

    Asks, unless --at names one. Exit 1 when nothing open is there.

    Example: tierstream dlq discard --at dead.letters:3:17 --because "a test of the sender"
    """
    from streams.operate.dead_letters.letters import Action

    with _open_letters(data_dir, reason, stage, key, since, until, at) as (settings, filters, letters):
        _decide(settings, filters, letters, Action.DISCARDED, because, dry_run=dry_run, yes=yes or at is not None, as_json=as_json)


@contextmanager
def _open_letters(
    data_dir: DataDir,
    reason: str | None = None,
    stage: str | None = None,
    key: str | None = None,
    since: str | None = None,
    until: str | None = None,
    at: str | None = None,
) -> "Iterator[tuple[Settings, Filters, OpenLetters]]":
    from streams.kafka import topic_admin
    from streams.logging import configure_logging
    from streams.operate.dead_letters.filters import filters_of
    from streams.operate.dead_letters.open_letters import OpenLetters
    from streams.operate.logs import KafkaLogs

    settings = command_settings(data_dir, "dlq")
    filters = filters_of(reason=reason, stage=stage, key=key, since=since, until=until, at=at, topic_prefix=settings.topic_prefix)
    configure_logging(settings)
    topic_admin.require(settings)
    with KafkaLogs(settings) as logs:
        letters = OpenLetters(settings, logs)
        letters.catch_up()
        yield settings, filters, letters


def _decide(
    settings: "Settings",
    filters: "Filters",
    letters: "OpenLetters",
    action: "Action",
    because: str,
    *,
    quarantined: bool = False,
    at_most: int | None = None,
    rate: float | None = None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    from streams.operate.actions import operator_name
    from streams.operate.dead_letters.outcomes import Decree
    from streams.operate.dead_letters.plan import make_plan
    from streams.operate.dead_letters.run import carry_out
    from streams.operate.dead_letters.writer import TransactionalOutcomes

    plan = make_plan(letters, filters.matches, action, quarantined=quarantined, limit=at_most)
    matched, done, interrupted = plan.matched.total(), 0, False
    console = plain_console(stderr=as_json)
    if not matched and filters.at is not None:
        _say_none_at(filters.at, letters)
    else:
        _show_plan(console, plan, action)
    if dry_run and not as_json and plan.items:
        _show_first(console, letters, plan)
    if plan.to_do and not dry_run:
        confirm(f"{plan.to_do:,} dead letters are to be {action}. Go on?", yes)
        decree = Decree(action, because, operator_name(), time.time())
        with TransactionalOutcomes(settings) as writer, _until_interrupted() as stop, progress_bar(TimeRemainingColumn()) as progress:
            letters.catch_up()
            task = progress.add_task(action.value, total=plan.to_do)
            carried_out = carry_out(
                settings,
                plan,
                letters,
                writer,
                decree,
                rate=rate,
                stopped=stop.wait,
                on_progress=lambda count: progress.update(task, completed=count),
            )
            done, plan.left, interrupted = carried_out.done, plan.left + carried_out.left, stop.is_set()
    if as_json:
        counts = {"matched": matched, str(action): done, "quarantined": plan.quarantined, "left": matched - done - plan.quarantined}
        print(json.dumps(counts))
    elif matched:
        console.print(f"{done:,} of {matched:,} {action}{' (dry run)' if dry_run else ''}.")
    for sentence, count in plan.left.items():
        print(f"{count:,} left: {sentence}", file=sys.stderr)
    if plan.quarantined:
        print(
            f"{plan.quarantined:,} quarantined: replayed three times and back again; --at PLACE --quarantined replays one.", file=sys.stderr
        )
    if interrupted and done < plan.to_do:
        print("tierstream: Stopped; what was counted is done, and the same command goes on with the rest.", file=sys.stderr)
        raise typer.Exit(130)
    is_missing = filters.at is not None and not matched
    raise typer.Exit(1 if is_missing or (matched and not (done if not dry_run else plan.to_do)) else 0)


def _say_none_at(at: "Place", letters: "OpenLetters") -> None:
    if letters.is_closed_at(at):
        print(f"tierstream: The dead letter at {at} is closed: it was replayed or discarded before.", file=sys.stderr)
    else:
        print(f"tierstream: No dead letter that matches is at {at}; `tierstream dlq list` shows where they are.", file=sys.stderr)


def _show_first(console: Console, letters: "OpenLetters", plan: "Plan") -> None:
    from streams.operate.dead_letters.listing import columns
    from streams.operate.dead_letters.plan import chunks

    items = plan.items[:_SHOWN_OF_PLAN]
    first = list["DeadLetter"]()
    for some in chunks(items, _SHOWN_OF_PLAN):
        offsets = [item.place.offset for item in some]
        found = letters.fetch(some[0].place.partition, offsets)
        first += (found[offset] for offset in offsets)
    for line in columns(first):
        console.print(line, soft_wrap=True)
    if len(plan.items) > len(items):
        console.print(f"… and {len(plan.items) - len(items):,} more.")


def _show_plan(console: Console, plan: "Plan", action: "Action") -> None:
    if not plan.matched:
        console.print("No open dead letter matches.")
        return
    table = Table("reason", "matched", box=None, pad_edge=False)
    for name, count in plan.matched.most_common():
        table.add_row(name or "-", f"{count:,}")
    console.print(table)
    console.print(f"{plan.to_do:,} to be {action}, {plan.quarantined:,} quarantined, {plan.left.total():,} left.")


@contextmanager
def _until_interrupted() -> Iterator[threading.Event]:
    """Let the chunk that is under way end before Ctrl-C, or SIGTERM, ends the command; the second one ends it at once."""
    stop = threading.Event()

    def interrupt(_number: int, _frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    former = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _age(since: float) -> str:
    seconds = max(0, int(time.time() - since))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"
