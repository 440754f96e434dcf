"""``tierstream deliveries``: what became of mails, and what an operator decides about those that nothing else can settle."""

import asyncio
import json
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from streams.cli.options import Because, DryRun, Json, Yes, confirm, plain_console
from streams.cli.settings import DataDir, command_settings
from streams.errors import ConfigurationError, TierstreamError
from streams.settings import Settings
from streams.stores.classification import RESOLVABLE, Classification
from streams.stores.deliveries import Decision, Delivery, Filters, Resolution

if TYPE_CHECKING:
    from streams.stores.deliveries import StoredDeliveries

T = TypeVar("T")

MOST_SHOWN = 1_000

Which = Annotated[list[Classification] | None, typer.Option("--classification", help="Only these; may be repeated.")]
Team = Annotated[str | None, typer.Option("--team", help="Only mails of this team.")]
Since = Annotated[str | None, typer.Option("--since", help="Only mails first seen since then: 2026-07-01 or 2026-07-01T12:00:00Z.")]
Until = Annotated[str | None, typer.Option("--until", help="Only mails first seen before then.")]


class MailsLeft(TierstreamError):
    """Some mails could not be resolved: their audit events stand on no topic any more."""


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    group = typer.Typer(no_args_is_help=True, help="What became of mails, and what an operator decides about them.")
    group.command("list")(show_list)
    group.command()(show)
    group.command()(resolve)
    app.add_typer(group, name="deliveries")


def show_list(
    classification: Which = None,
    team: Team = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=0, max=100_000, help="Show so many of them, the newest.")] = 20,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Count mails by what became of them, and list the newest.

    Example: tierstream deliveries list --classification in_doubt --since 2026-07-01
    """
    filters = _filters(classification, team, since, until)
    settings = command_settings(data_dir, "deliveries")

    async def read(store: "StoredDeliveries") -> tuple[dict[str, int], list[Delivery]]:
        return await store.counts(filters), await store.rows(filters, limit)

    counts, rows = _run(settings, read)
    if as_json:
        _print_json({"total": sum(counts.values()), "by_classification": counts, "deliveries": [_as_json(row) for row in rows]})
        return
    _print_counts(counts)
    if rows:
        table = Table("audit id", "classification", "kind", "recipient", "first seen", "attempts", "last error", box=None, pad_edge=False)
        for row in rows:
            table.add_row(
                str(row.audit_id),
                row.classification,
                row.kind,
                row.recipient or "",
                _time(row.recorded_at),
                str(row.attempts),
                row.last_error or "",
            )
        _console().print(table)


def show(audit: Annotated[str, typer.Argument(help="The audit id of a mail.")], as_json: Json = False, data_dir: DataDir = None) -> None:
    """Show what became of one mail: its attempts, what Loops reported, what an operator decided.

    Example: tierstream deliveries show 0b7c3c3e-4a56-5d3e-9b2e-0d8b8f1f6a11
    """
    audit_id = _uuid(audit, "AUDIT")
    settings = command_settings(data_dir, "deliveries")

    async def read(store: "StoredDeliveries") -> dict[str, Any] | None:
        rows = await store.rows(Filters(audit_ids=[audit_id]), 1)
        if not rows:
            return None
        feedback, suppression = await store.feedback(audit_id)
        mails = [{name: _plain(value) for name, value in mail._asdict().items() if value is not None} for mail in feedback]
        return {**_as_json(rows[0]), "feedback": mails, "address_suppressed": suppression}

    found = _run(settings, read)
    if found is None:
        raise MailsLeft(f"No mail has the audit id {audit_id}: its event has no mail, or the forwarder has not come to it yet.")
    if as_json:
        _print_json(found)
        return
    for name, value in found.items():
        if isinstance(value, list):
            print(f"{name}: {'' if value else 'none'}")
            for mail in value:
                print("  " + ", ".join(f"{key} {said}" for key, said in mail.items()))
        else:
            print(f"{name}: {'' if value is None else value if not isinstance(value, dict) else json.dumps(value)}")


def resolve(
    become: Annotated[Resolution, typer.Option("--as", help="What they are; retry has the forwarder send them again.")],
    because: Because,
    audits: Annotated[
        list[str] | None, typer.Argument(metavar="[AUDIT]...", help="Audit ids; without them, all that the filters leave.")
    ] = None,
    classification: Which = None,
    team: Team = None,
    since: Since = None,
    until: Until = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Decide what became of mails that are in doubt, refused or expired, or have them sent again.

    What an interrupted run has begun is finished first. Exit 1 when an event to be sent again stands on no topic any more.

    Example: tierstream deliveries resolve --as retry --classification expired --since 2026-07-01 --because "Loops was away for a day"
    """
    from streams.logging import configure_logging
    from streams.operate.actions import operator_name

    if not (audits or classification or team or since or until):
        raise ConfigurationError("Name the mails: audit ids, or --classification, --team, --since or --until.")
    others = [one.value for one in classification or () if one not in RESOLVABLE]
    if others:
        raise ConfigurationError(f"--classification {others[0]}: only {_resolvable()} can be resolved.")
    filters = _filters(classification or sorted(RESOLVABLE), team, since, until, audits or ())
    settings = command_settings(data_dir, "deliveries")
    configure_logging(settings)
    decision = Decision(become, because, operator_name(), datetime.fromtimestamp(int(time.time()), UTC))
    result = _run(settings, lambda store: _resolve(settings, store, filters, decision, dry_run, yes))
    if as_json:
        _print_json(result)
    else:
        print(f"{result['matched']} matched, {result['resolved']} resolved as {become.value}, {result['left']} left.")
    if result["left"] and not dry_run:
        raise MailsLeft(
            f"{result['left']} mails are left as they are: their events stand neither on audit.events nor in dead.letters any more; "
            "resolve them with --as sent or --as suppressed."
        )


async def _resolve(
    settings: Settings, store: "StoredDeliveries", filters: Filters, decision: Decision, dry_run: bool, yes: bool
) -> dict[str, int]:
    from streams.kafka import topic_admin
    from streams.kafka.producer import AcknowledgedProducer
    from streams.operate.deliveries.resolve import find_events, finish, resolve
    from streams.operate.logs import KafkaLogs

    rows = await store.rows(filters, 1_000_000)
    await _check_named(store, filters, rows)
    unfinished = await store.open_resolutions()
    resends = [*(row for row in unfinished if row.resolution and row.resolution["as"] == Resolution.RETRY)]
    if decision.resolution is Resolution.RETRY:
        resends += rows
    await asyncio.to_thread(topic_admin.require, settings)
    with KafkaLogs(settings) as logs:
        events = await asyncio.to_thread(find_events, logs, settings, resends) if resends else {}
    chosen = [row for row in rows if decision.resolution is not Resolution.RETRY or row.audit_id in events]
    result = {"matched": len(rows), "resolved": 0, "left": len(rows) - len(chosen)}
    if dry_run:
        return result
    if chosen:
        confirm(f"Resolve {len(chosen)} mails as {decision.resolution.value}?", yes)
    async with AcknowledgedProducer(settings) as producer:
        finished, stuck = await finish(store, producer, settings, events)
        if finished:
            print(f"Finished {finished} that an interrupted run had begun.", file=sys.stderr)
        if stuck:
            print(
                f"{len(stuck)} that an interrupted run had begun can not be sent: their events are gone, and they stay in_flight.",
                file=sys.stderr,
            )
        result["resolved"] = await resolve(store, producer, settings, chosen, decision, events)
    return result


async def _check_named(store: "StoredDeliveries", filters: Filters, rows: list[Delivery]) -> None:
    """Raise when a mail that is named by its id can not be resolved: nothing is done then."""
    found = {row.audit_id for row in rows}
    for audit_id in filters.audit_ids:
        if audit_id in found:
            continue
        others = await store.rows(Filters(audit_ids=[audit_id]), 1)
        if not others:
            raise MailsLeft(f"No mail has the audit id {audit_id}; nothing was changed.")
        if others[0].resolution is None or others[0].classification in RESOLVABLE:  # else this command has come to it before
            raise MailsLeft(
                f"The mail {audit_id} is {others[0].classification}; only {_resolvable()} can be resolved, and the filters must take it. "
                "Nothing was changed."
            )


def _run(settings: Settings, work: "Callable[[StoredDeliveries], Awaitable[T]]") -> T:
    from streams.runtime.waiting import Waiting
    from streams.stores.deliveries import StoredDeliveries
    from streams.stores.pool import PostgresPool
    from streams.stores.tables import FORWARDER_SENT

    assert settings.postgres_dsn is not None  # ``require`` saw to it
    dsn = settings.postgres_dsn.get_secret_value()

    async def run() -> T:
        pool = PostgresPool(dsn, Waiting("deliveries", "postgres"), table=FORWARDER_SENT, max_connections=1)
        await pool.open()
        try:
            return await work(StoredDeliveries(pool))
        finally:
            await pool.close()

    return asyncio.run(run())


def _filters(
    classifications: "list[Classification] | None",
    team: str | None,
    since: str | None,
    until: str | None,
    audits: "list[str] | tuple[()]" = (),
) -> Filters:
    return Filters(
        [one.value for one in classifications or ()],
        None if team is None else _uuid(team, "--team"),
        None if since is None else _moment(since, "--since"),
        None if until is None else _moment(until, "--until"),
        [_uuid(audit, "AUDIT") for audit in dict.fromkeys(audits)],
    )


def _uuid(text: str, what: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise ConfigurationError(f"{what} {text!r} is no UUID, such as 0b7c3c3e-4a56-5d3e-9b2e-0d8b8f1f6a11.") from None


def _moment(text: str, option: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"{option} {text!r} is no time: write 2026-07-01 or 2026-07-01T12:00:00Z.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _resolvable() -> str:
    return " and ".join(", ".join(sorted(RESOLVABLE)).rsplit(", ", 1))


def _as_json(row: Delivery) -> dict[str, Any]:
    return {name: _plain(value) for name, value in row._asdict().items()}


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return _time(value)
    return str(value) if isinstance(value, uuid.UUID) else value


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _print_counts(counts: dict[str, int]) -> None:
    table = Table("classification", "mails", box=None, pad_edge=False)
    for name, count in counts.items():
        table.add_row(name, f"{count:,}")
    table.add_row("all", f"{sum(counts.values()):,}")
    _console().print(table)


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))


def _console() -> Console:
    return plain_console(width=None if sys.stdout.isatty() else 200)
