"""What a step asks of Compose, with a stack that is a list of calls."""

import random
from pathlib import Path
from typing import Any

import pytest

from deploy.rehearsal.docker import Compose, Docker, RehearsalFailed
from deploy.rehearsal.load import Load
from deploy.rehearsal.steps import OURS, Addresses, Rehearsal
from streams.settings import Settings

NO_LOAD = Load("http://127.0.0.1:1", random.Random(1))


class PretendedStack(Docker):
    """A stack of which every container is started again as soon as its process is killed."""

    def __init__(self) -> None:
        super().__init__({})
        self.calls: list[tuple[str, ...]] = []
        self.restarts = {100: 0, 200: 0}
        self.workers = 1

    def run(self, *arguments: str, seconds: float = 0, directory: Path | None = None) -> str:
        self.calls.append(arguments)
        if arguments[0] == "run":
            self.restarts[int(arguments[-1].split()[-1])] += 1
        if "ps" in arguments:
            return {"kafka": "100", "postgres": "200", "classify": "100 " * self.workers}.get(arguments[-1], "100 200")
        return ""

    def inspect(self, *containers: str) -> list[dict[str, Any]]:
        return [
            {
                "Name": f"/{id}",
                "RestartCount": self.restarts[int(id)],
                "State": {"Pid": int(id), "Running": True, "Health": {"Status": "healthy"}},
                "HostConfig": {"RestartPolicy": {"Name": "unless-stopped"}},
            }
            for id in containers
        ]


@pytest.fixture
def stack() -> PretendedStack:
    return PretendedStack()


@pytest.fixture
def rehearsal(stack: PretendedStack) -> Rehearsal:
    return Rehearsal(Compose(stack, Path(), "s", {}), Addresses("", "", "", Settings()), print, 1)


def test_killing_is_done_from_outside_with_no_more_than_the_right_to_kill(
    stack: PretendedStack, rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal._compose, "docker", stack)

    rehearsal.kill("kafka", "postgres")(NO_LOAD)

    killed = [call for call in stack.calls if call[0] == "run"]
    assert [call[-1] for call in killed] == ["kill -KILL 100", "kill -KILL 200"]
    assert all(call[6:10] == ("--cap-drop", "ALL", "--cap-add", "KILL") and OURS in call for call in killed)


def test_scaling_that_starts_no_second_worker_is_told(stack: PretendedStack, rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal._compose, "docker", stack)

    with pytest.raises(RehearsalFailed, match=r"After --scale classify=2 there are 1 containers of classify\."):
        rehearsal.scale(NO_LOAD)


def test_gateway_that_refuses_for_good_fails_the_step_by_name(stack: PretendedStack, rehearsal: Rehearsal) -> None:
    class Refused(Load):
        def start(self) -> None:
            self._failed = AssertionError("400 bad signature")
            self._thread.run = lambda: None  # type: ignore[method-assign]
            super().start()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("deploy.rehearsal.steps.Load", Refused)
        with pytest.raises(RehearsalFailed, match="Kafka killed: 400 bad signature"):
            rehearsal.step("Kafka killed", lambda load: None)
