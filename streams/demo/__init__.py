"""``tierstream demo``: simulates fifteen teams from sign-up to cancellation on a real stack, and checks every outcome.

The demo always runs a stack of its own, with the settings of its own: it must not write into anybody's Kafka, database or Loops
account, and records of others would be counted too. So it leaves every ``TIERSTREAM_*`` variable aside, and says so.
"""

import asyncio
import io
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from streams.demo.accounting import Accounting, Evidence, balance, derived_events, replayed_events
from streams.demo.playback import play
from streams.demo.razorpay import DAY
from streams.demo.scenario import SCENARIO_DAYS, Scenario, build_scenario
from streams.demo.tables import show, totals
from streams.embedded.kafka_jars import class_path
from streams.embedded.stack import EXAMPLE_PLANS, Stack, StackOptions, start_stack
from streams.errors import TierstreamError
from streams.settings import PREFIX

_MAX_FAULTS = 3


async def run_demo() -> int:
    """Run the demo and return its exit status: 0, or 130 (143) when SIGINT (SIGTERM) ends it.

    Raises TierstreamError, with one sentence, when the accounting does not balance, when something expected does not come in time, or when
    the stack does not start. Whatever happens, no process and no file is left, but for the logs that such a sentence may name.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a name with an umlaut must not end the demo on a terminal without one
    console = Console(highlight=False, markup=False, emoji=False)
    interrupted: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, _settle, interrupted, number)
    living = asyncio.create_task(_live(console))
    await asyncio.wait((living, interrupted), return_when=asyncio.FIRST_COMPLETED)
    if living.done():
        interrupted.cancel()
        return living.result()
    living.cancel()
    await asyncio.wait((living,))
    console.show_cursor()
    console.print("The demo was interrupted; everything is stopped and nothing is left behind.")
    sys.stdout.flush()
    # Not by way of the event loop's end: that would wait for a thread that still downloads Kafka.
    os._exit(128 + interrupted.result())


async def _live(console: Console) -> int:
    began = time.monotonic()
    if set_aside := _set_settings_aside():
        console.print(f"The demo runs a stack of its own and leaves aside {', '.join(set_aside)}.", soft_wrap=True)
    await asyncio.to_thread(class_path, console)  # the one long download, with a progress bar of its own
    scenario = build_scenario(time.time())
    evidence, accounting = await _play_on_a_stack(console, scenario)
    show(console, scenario, evidence, accounting)
    if accounting.faults:
        more = f" (and {len(accounting.faults) - _MAX_FAULTS} more)" if len(accounting.faults) > _MAX_FAULTS else ""
        raise TierstreamError(f"The demo's accounting does not balance: {' '.join(accounting.faults[:_MAX_FAULTS])}{more}")
    console.print(f"Every count and every record agrees with every other, in {time.monotonic() - began:.0f} s.")
    console.print(
        f"Totals of {len(evidence.answers)} requests, {derived_events(evidence.team_events).total()} records that followed by themselves, "
        f"and {len(replayed_events(evidence))} replayed:"
    )
    console.print(
        totals(accounting.total), style="bold", soft_wrap=not console.is_terminal
    )  # one line for a pipe, whole words for a person
    return 0


async def _play_on_a_stack(console: Console, scenario: Scenario) -> tuple[Evidence, Accounting]:
    console.print("Starting Kafka, PostgreSQL, a fake Loops, the gateway and four stages")
    with console.status("starting") as status, tempfile.TemporaryDirectory(prefix="tierstream-demo-") as directory:
        plans = Path(shutil.copy(EXAMPLE_PLANS, directory))  # a copy, for the demo adds to it
        overrides = {"forward_max_age_seconds": (SCENARIO_DAYS + 1) * DAY, "plans": plans}
        async with start_stack(StackOptions(workers={}, overrides=overrides)) as stack:
            console.print(
                f"All is up. {len(scenario.team_ids)} teams are simulated over {SCENARIO_DAYS} days in {len(scenario.deliveries)} requests to {stack.gateway}"
            )
            console.print("(mail older than 24 h is held elsewhere; the demo lets it go out)")
            try:
                evidence = await play(stack, scenario, status.update)
            except TierstreamError as error:
                raise TierstreamError(f"{error} The logs of the stack are kept in {_keep_logs(stack)}.") from error
            console.print("All is worked in. Stopping the stack", end="\n\n")
            status.update("stopping")
        return evidence, balance(scenario, evidence, stack.settings)


def _set_settings_aside() -> list[str]:
    """Take our settings out of the environment, for this process and those that it starts; return the names of those that were set."""
    names = sorted(name for name in os.environ if name.upper().startswith(PREFIX))
    for name in names:
        del os.environ[name]
    return names


def _keep_logs(stack: Stack) -> Path:
    kept = Path(tempfile.mkdtemp(prefix="tierstream-demo-logs-"))
    shutil.copytree(stack.data_dir / "logs", kept, dirs_exist_ok=True)
    return kept


def _settle(interrupted: "asyncio.Future[int]", number: int) -> None:
    if not interrupted.done():
        interrupted.set_result(number)
