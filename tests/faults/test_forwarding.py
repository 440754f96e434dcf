"""The forwarder's faults. ``TRIALS=20`` in the environment runs so many seeds, and the larger numbers of mails."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from streams.settings import Settings
from tests.faults.forwarding import Trial, killed_again_and_again, killed_while_many_wait, one_team_fails_beside_others
from tests.sinks import served_sink

SEEDS = int(os.environ.get("TRIALS", "1"))
LARGE = SEEDS > 1


@pytest.fixture
async def trial(stage_settings: Settings, tmp_path: Path) -> AsyncIterator[Trial]:
    async with served_sink(api_key="key") as sink:
        own = {
            "loops_base_url": sink.url,
            "loops_api_key": SecretStr("key"),
            "loops_rate_per_second": 1_000.0,
            "loops_timeout_seconds": 0.5,
            "session_timeout_seconds": 6.0,
            "instance_id": "0",  # kept over restarts, so that a successor need not wait until a session has expired
        }
        yield Trial(stage_settings.model_copy(update=own), sink, tmp_path / "forward.log")


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_forwarder_that_is_killed_at_any_point_while_loops_misbehaves_sends_each_mail_once_in_its_teams_order(
    trial: Trial, seed: int
) -> None:
    assert await killed_again_and_again(trial, seed, lives=6 if LARGE else 2, mails=60) == []


async def test_forwarder_that_is_killed_while_many_mails_wait_sends_each_once_in_its_teams_order(trial: Trial) -> None:
    assert await killed_while_many_wait(trial, 250 if LARGE else 25) == []


async def test_forwarder_sends_others_mails_while_one_teams_fail_and_those_in_order_when_they_do_not(trial: Trial) -> None:
    assert await one_team_fails_beside_others(trial, 1_000 if LARGE else 100) == []
