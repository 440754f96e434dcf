"""What the stack starts, and asking a process whether it is ready: often, so it must cost the asking event loop next to nothing."""

import time
from pathlib import Path

import pytest

from streams.embedded.process import free_port
from streams.embedded.stack import PROCESS_NAMES, StackOptions, _Services, is_ready, pids_of
from streams.settings import Settings, load_settings

PROBES = 50
PROBE_CPU_SECONDS = 0.005


async def test_asking_costs_the_event_loop_little_while_nobody_listens() -> None:
    url = f"http://127.0.0.1:{free_port()}/readyz"
    assert not await is_ready(url)

    before = time.thread_time()
    for _ in range(PROBES):
        await is_ready(url)

    assert (time.thread_time() - before) / PROBES < PROBE_CPU_SECONDS


@pytest.mark.parametrize("accept_initial_tier", [True, False])
@pytest.mark.parametrize("single_process", [True, False])
def test_only_a_process_with_classify_in_it_is_told_to_accept_another_initial_tier(
    tmp_path: Path, accept_initial_tier: bool, single_process: bool
) -> None:
    settings = Settings(
        kafka_bootstrap_servers="127.0.0.1:9", postgres_dsn="postgresql://127.0.0.1:8/x", loops_base_url="http://127.0.0.1:7"
    )
    options = StackOptions({"classify": 2}, single_process, accept_initial_tier=accept_initial_tier)

    commands = [program._argv[3:] for _, program in _Services(settings, options, tmp_path).processes(settings)]

    with_classify = [command for command in commands if "classify" in command]
    assert len(with_classify) == (1 if single_process else 2)
    for command in commands:
        assert ("--accept-initial-tier" in command) is (accept_initial_tier and command in with_classify)
    assert {name for command in commands for name in command if name in PROCESS_NAMES} == set(PROCESS_NAMES)


def test_feedback_runs_inside_of_forward_and_the_ready_file_names_it_with_the_same_processes(tmp_path: Path) -> None:
    settings = Settings(
        kafka_bootstrap_servers="127.0.0.1:9", postgres_dsn="postgresql://127.0.0.1:8/x", loops_base_url="http://127.0.0.1:7"
    )
    services = _Services(settings, StackOptions({"forward": 2}), tmp_path)

    commands = [program._argv[3:] for _, program in services.processes(settings)]

    assert [command for command in commands if "feedback" in command] == [("worker", "forward", "feedback")] * 2
    assert pids_of({"gateway": [1], "normalise": [2], "classify": [3], "audit": [4], "forward": [5, 6], "kafka": [7]}) == {
        "gateway": [1],
        "normalise": [2],
        "classify": [3],
        "audit": [4],
        "forward": [5, 6],
        "feedback": [5, 6],
    }
    assert pids_of({"gateway": [1], "stages": [2]}) == {"gateway": [1], **{stage: [2] for stage in PROCESS_NAMES[1:]}}


def test_secret_that_stands_in_a_file_is_read_there_by_each_child_and_stands_in_no_childs_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("S3cretKey\n")
    monkeypatch.setenv("TIERSTREAM_LOOPS_API_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("TIERSTREAM_INGEST_TOKENS", "in-the-environment")
    settings = load_settings(
        kafka_bootstrap_servers="127.0.0.1:9", postgres_dsn="postgresql://127.0.0.1:8/x", loops_base_url="http://127.0.0.1:7"
    )

    children = [program._env for _, program in _Services(settings, StackOptions({}), tmp_path).processes(settings)]

    assert children
    for environment in children:
        assert "S3cretKey" not in str(environment)
        assert "TIERSTREAM_LOOPS_API_KEY" not in environment, "with the file's variable, which it inherits, it would be set twice"
        assert environment["TIERSTREAM_INGEST_TOKENS"] == "in-the-environment"


def test_secret_of_this_stack_alone_wins_over_a_file_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("S3cretKey\n")
    monkeypatch.setenv("TIERSTREAM_LOOPS_API_KEY_FILE", str(tmp_path / "key"))
    overrides = {"loops_api_key": "of-this-stack"}
    settings = load_settings(kafka_bootstrap_servers="127.0.0.1:9", postgres_dsn="postgresql://127.0.0.1:8/x", **overrides)

    children = [program._env for _, program in _Services(settings, StackOptions({}, overrides=overrides), tmp_path).processes(settings)]

    assert {environment["TIERSTREAM_LOOPS_API_KEY"] for environment in children} == {"of-this-stack"}
    assert {environment["TIERSTREAM_LOOPS_API_KEY_FILE"] for environment in children} == {""}
