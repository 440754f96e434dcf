"""What ``tierstream up`` makes of its options."""

from typing import Any

import pytest

from streams.cli.stack import STAGES, up
from streams.embedded import stack
from streams.errors import ConfigurationError


@pytest.mark.parametrize("accept_initial_tier", [True, False])
def test_up_tells_the_stack_whether_another_initial_tier_is_accepted(monkeypatch: pytest.MonkeyPatch, accept_initial_tier: bool) -> None:
    run: list[Any] = []

    async def run_up(*call: Any, **options: Any) -> None:
        run.append((call, options))

    monkeypatch.setattr(stack, "run_up", run_up)

    up(None, ["classify=2"], accept_initial_tier=accept_initial_tier, brokers=3)

    counts = {**dict.fromkeys(STAGES, 1), "classify": 2}
    assert run == [((None, counts, None), {"single_process": False, "accept_initial_tier": accept_initial_tier, "brokers": 3})]


@pytest.mark.parametrize("option", ["classify", "classify=", "classify=many", "classify=33", "nonsense=1"])
def test_up_with_workers_that_can_not_be_counted_is_a_usage_error(option: str) -> None:
    with pytest.raises(ConfigurationError, match="write STAGE=N"):
        up(None, [option])
