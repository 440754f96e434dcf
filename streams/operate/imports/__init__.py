"""``tierstream import-tiers``: what another system knew of teams becomes their starting point, without an audit row or a mail.

1. The file is read once, and each line is checked and kept in a table on disk (``staging``), so that memory stays the same for any file.
2. What was imported before is read from Kafka (``known``), and each line is compared with it (``decide``, pure).
3. What is new is produced: the link of a subscription first, and its team's tier once Kafka has the link, so that a webhook finds its team.

Nothing is produced while a line is bad, unless the caller says that bad ones are to be left out. An event's id derives from what it says, and
what is known already is not produced again: a run that was interrupted is finished by the next one, and the one after it changes nothing.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from streams.kafka import topic_admin
from streams.operate.imports.known import note_imports, note_links
from streams.operate.imports.lines import Bad, read_lines
from streams.operate.imports.publish import publish, reason_headers
from streams.operate.imports.staging import Staging
from streams.operate.logs import KafkaLogs
from streams.settings import Settings

OnProgress = Callable[[str, int, int | None], None]
"""What is being done, how much of it is done, and how much there is (None: not known)."""

_REPORT_EVERY = 1_000


@dataclass(frozen=True, slots=True)
class Options:
    """How to import. ``because`` and ``by`` say why, and who does it; ``dry_run`` produces nothing."""

    because: str
    by: str
    skip_bad: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What became of the lines. ``applied`` is what was produced, or would be by a dry run; ``without_plan`` of those name no plan.

    ``held_back`` are lines that are fit, and were not produced because others are bad.
    """

    read: int
    applied: int
    unchanged: int
    bad: int
    held_back: int
    without_plan: int


def import_tiers(
    settings: Settings, path: Path, staging: Staging, options: Options, now: float, on_progress: OnProgress = lambda what, done, total: None
) -> Result:
    """Import the file at ``path``; the bad lines stand in ``staging`` afterwards. ``now`` is in Unix seconds. Blocking, without an event loop.

    Raises ConfigurationError for a file that can not be read at all, TopologyError, KafkaUnavailable.
    """
    read = 0
    for line in read_lines(path, now):
        read += 1
        if isinstance(line, Bad):
            staging.refuse(line)
        else:
            staging.add(line)
        if read % _REPORT_EVERY == 0:
            on_progress("reading the file", read, None)
    topic_admin.require(settings)
    with KafkaLogs(settings) as logs:
        note_links(logs, staging, on_progress)
        note_imports(logs, settings, staging, on_progress)
    counts = staging.decide()
    if counts.bad and not options.skip_bad:
        return Result(read, 0, counts.unchanged, counts.bad, counts.new, 0)
    if not options.dry_run:
        headers = reason_headers(options.because, options.by)
        asyncio.run(publish(settings, staging.new_lines(), headers, lambda done: on_progress("importing", done, counts.new)))
    return Result(read, counts.new, counts.unchanged, counts.bad, 0, counts.without_plan)
