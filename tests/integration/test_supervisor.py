"""The supervisor with real child processes: what dies comes back, what is started is stopped, and nothing is left behind."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from rich.console import Console

from streams.embedded.program import LineSink, Program, console_sink, file_sink
from streams.embedded.supervisor import PidTable, Supervisor, restart_delay
from streams.errors import StageFailed
from tests.processes import is_alive, parent_running
from tests.waiting import eventually

WAIT_FOR_SIGTERM = (
    "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); print('up', flush=True); signal.sigwait([signal.SIGTERM])"
)
IGNORE_SIGTERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"


class Recorder:
    """What a supervisor reported: the pid tables and the sentences, in order."""

    def __init__(self) -> None:
        self.tables: list[PidTable] = []
        self.sentences: list[str] = []
        self.supervisor = Supervisor(on_change=lambda pids: self.tables.append(dict(pids)), report=self.sentences.append)


@pytest.fixture
async def recorder() -> AsyncIterator[Recorder]:
    recorder = Recorder()
    async with recorder.supervisor:
        yield recorder


def program(
    script: str,
    *arguments: str,
    title: str = "child",
    sink: LineSink | None = None,
    ready: Callable[[], Awaitable[bool]] | None = None,
    ready_seconds: float = 30,
    stop_seconds: float = 5,
) -> Program:
    argv = (sys.executable, "-c", script, *arguments)
    return Program(title, argv, sink=sink, ready=ready, ready_seconds=ready_seconds, stop_seconds=stop_seconds)


def printed(lines: list[str], text: str) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        return text in lines

    return ready


async def test_supervisor_restarts_a_killed_process_and_emits_its_new_pid(recorder: Recorder) -> None:
    await recorder.supervisor.start(("child", program(WAIT_FOR_SIGTERM)), ("other", program(WAIT_FOR_SIGTERM)))
    before = recorder.supervisor.pids

    os.kill(before["child"][0], signal.SIGKILL)
    await eventually(lambda: recorder.supervisor.pids["child"] != before["child"])

    after = recorder.supervisor.pids
    assert is_alive(after["child"][0])
    assert after["other"] == before["other"]
    assert recorder.tables == [before, after]
    assert recorder.sentences == [f"child (process {before['child'][0]}) was ended by signal 9 and is started again."]


async def test_supervisor_with_several_processes_of_a_name_keeps_them_apart(recorder: Recorder) -> None:
    await recorder.supervisor.start(*(("worker", program(WAIT_FOR_SIGTERM)) for _ in range(3)))
    first, second, third = recorder.supervisor.pids["worker"]

    os.kill(second, signal.SIGKILL)
    await eventually(lambda: second not in recorder.supervisor.pids["worker"])

    assert recorder.supervisor.pids["worker"][0::2] == [first, third]


async def test_supervisor_restarts_a_process_that_ends_by_itself_again_and_again(recorder: Recorder, tmp_path: Path) -> None:
    starts = tmp_path / "starts"

    await recorder.supervisor.start(("child", program(f"open({str(starts)!r}, 'a').write('x')")))

    await eventually(lambda: starts.exists() and len(starts.read_text()) >= 4)
    assert "ended with status 0" in recorder.sentences[0]


async def test_supervisor_tries_again_when_a_restart_fails(recorder: Recorder, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    lines: list[str] = []
    child = program(
        f"import os, sys; os.path.exists({str(broken)!r}) and sys.exit('no room'); {WAIT_FOR_SIGTERM}",
        sink=lines.append,
        ready=printed(lines, "up"),
    )
    await recorder.supervisor.start(("child", child))
    first = recorder.supervisor.pids["child"]

    lines.clear()
    broken.touch()
    os.kill(first[0], signal.SIGKILL)
    await eventually(lambda: any("no room" in sentence for sentence in recorder.sentences))
    assert recorder.supervisor.pids["child"] == first, "a name never vanishes from the table"
    broken.unlink()

    await eventually(lambda: recorder.supervisor.pids["child"] != first)
    assert is_alive(recorder.supervisor.pids["child"][0])


async def test_supervisor_stop_ends_the_layers_in_reverse_order(tmp_path: Path) -> None:
    order = tmp_path / "order"
    script = f"{WAIT_FOR_SIGTERM}; import sys; open({str(order)!r}, 'a').write(sys.argv[1])"
    lines: list[str] = []

    def child(name: str) -> tuple[str, Program]:
        return name, program(script, name, sink=lambda line: lines.append(f"{name} {line}"), ready=printed(lines, f"{name} up"))

    async with Supervisor() as supervisor:
        await supervisor.start(child("a"))
        await supervisor.start(child("b"))
        await supervisor.start(child("c"))
        pids = [pid for (pid,) in supervisor.pids.values()]

    assert order.read_text() == "cba"
    assert not any(map(is_alive, pids))
    assert supervisor.pids == {}


async def test_supervisor_stop_kills_a_process_that_ignores_sigterm(recorder: Recorder) -> None:
    lines: list[str] = []
    await recorder.supervisor.start(("stubborn", program(IGNORE_SIGTERM, sink=lines.append, ready=printed(lines, "up"), stop_seconds=0.2)))
    (pid,) = recorder.supervisor.pids["stubborn"]

    async with asyncio.timeout(5):
        await recorder.supervisor.stop()

    assert not is_alive(pid)


async def test_supervisor_stop_takes_a_suspended_process_and_the_children_of_one_along(recorder: Recorder) -> None:
    lines: list[str] = []
    script = f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()']); print(child.pid, flush=True); {WAIT_FOR_SIGTERM}"
    await recorder.supervisor.start(("parent", program(script, sink=lines.append, ready=printed(lines, "up"), stop_seconds=0.2)))
    pids = [*recorder.supervisor.pids["parent"], int(lines[0])]
    os.kill(pids[0], signal.SIGSTOP)

    await recorder.supervisor.stop()

    await eventually(lambda: not any(map(is_alive, pids)))


async def test_supervisor_stop_that_is_cancelled_still_leaves_no_process(recorder: Recorder) -> None:
    lines: list[str] = []
    await recorder.supervisor.start(("stubborn", program(IGNORE_SIGTERM, sink=lines.append, ready=printed(lines, "up"), stop_seconds=60)))
    (pid,) = recorder.supervisor.pids["stubborn"]

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await recorder.supervisor.stop()

    await eventually(lambda: not is_alive(pid))


async def test_supervisor_whose_layer_fails_to_start_raises_its_reason_and_leaves_no_process() -> None:
    good = program(WAIT_FOR_SIGTERM)
    bad = program("import sys; sys.exit('TIERSTREAM_PLANS is not set')", title="normalise", ready=printed([], "up"))

    with pytest.raises(
        StageFailed, match="normalise ended with status 1 before it was ready; its last lines are\n  TIERSTREAM_PLANS is not set"
    ):
        async with Supervisor() as supervisor:
            await supervisor.start(("good", good), ("normalise", bad))

    assert good.pid is None
    assert bad.pid is None


async def test_supervisor_that_cannot_report_its_pids_says_so_to_who_runs_it() -> None:
    tables: list[PidTable] = []

    def report_pids(pids: PidTable) -> None:
        tables.append(pids)
        if len(tables) == 2:
            raise OSError("disk full")

    async with Supervisor(on_change=report_pids) as supervisor:
        await supervisor.start(("child", program(WAIT_FOR_SIGTERM)))
        os.kill(supervisor.pids["child"][0], signal.SIGKILL)

        with pytest.raises(OSError, match="disk full"):
            await supervisor.run_until(asyncio.Event())


async def test_supervisor_run_until_returns_when_the_event_is_set(recorder: Recorder) -> None:
    stopped = asyncio.Event()
    running = asyncio.create_task(recorder.supervisor.run_until(stopped))

    stopped.set()

    async with asyncio.timeout(5):
        await running


async def test_program_that_is_not_ready_in_time_is_killed_and_named() -> None:
    child = program(WAIT_FOR_SIGTERM, title="gateway", ready=printed([], "never"), ready_seconds=0.3)

    with pytest.raises(StageFailed, match=r"gateway was not ready within 0\.3 s"):
        await child.start()

    await child.wait()
    assert child.pid is None


async def test_program_is_out_of_reach_of_the_terminals_signals() -> None:
    child = program(WAIT_FOR_SIGTERM)
    await child.start()
    assert child.pid is not None

    assert os.getpgid(child.pid) == os.getsid(child.pid) == child.pid

    await child.stop()


async def test_program_output_of_any_shape_reaches_its_sink_line_by_line() -> None:
    lines: list[str] = []
    script = r"import os; os.write(1, b'a\r\n\nb' + b'x' * 200_000 + b'\n'); os.write(2, b'\xff err\n'); os.write(1, b'no end')"
    child = program(script, sink=lines.append)

    await child.start()
    await child.wait()

    assert lines == ["a", "", "b" + "x" * 200_000, "\ufffd err", "no end"]


async def test_children_die_with_a_supervisor_that_is_killed() -> None:
    script = """
import asyncio, sys
from streams.embedded.program import Program
from streams.embedded.supervisor import Supervisor

async def main():
    async with Supervisor() as supervisor:
        child = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
        await supervisor.start(*(("child", Program("child", (sys.executable, "-c", child))) for _ in range(3)))
        print(*supervisor.pids["child"], flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
    async with parent_running(script) as (parent, pids):
        assert len(pids) == 3
        assert all(map(is_alive, pids))

        parent.kill()

        await eventually(lambda: not any(map(is_alive, pids)))


@pytest.mark.parametrize(("deaths", "seconds"), [(1, 0), (2, 0.25), (3, 0.5), (4, 1), (5, 2), (6, 4), (7, 5), (8, 5), (10_000, 5)])
def test_restart_delay_is_none_at_first_then_doubles_up_to_five_seconds(deaths: int, seconds: float) -> None:
    assert restart_delay(deaths) == seconds


async def test_supervisor_forgives_earlier_deaths_after_a_stable_run(tmp_path: Path) -> None:
    starts = tmp_path / "starts"

    async with Supervisor(stable_seconds=0.0) as supervisor:
        await supervisor.start(("child", program(f"open({str(starts)!r}, 'a').write('x')")))

        # With delays of 0, 0.25, 0.5, 1, 2, 4, 5 s ten starts would take longer than that.
        await eventually(lambda: starts.exists() and len(starts.read_text()) >= 10, seconds=12)


def test_console_sink_puts_the_title_before_the_line_and_takes_it_literally(capsys: pytest.CaptureFixture[str]) -> None:
    console_sink(Console(highlight=False), "audit.2")("rows [bold]written[/bold] " + "x" * 200)

    assert capsys.readouterr().out == "    audit.2 rows [bold]written[/bold] " + "x" * 200 + "\n"


def test_file_sink_appends_lines_to_a_file_in_a_new_directory(tmp_path: Path) -> None:
    sink = file_sink(tmp_path / "logs" / "audit.log")

    sink("first")
    sink("second")

    assert (tmp_path / "logs" / "audit.log").read_text() == "first\nsecond\n"
