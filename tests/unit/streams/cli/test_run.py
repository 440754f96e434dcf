"""What ``tierstream worker`` makes of its options."""

import pytest

from agents import registry
from streams.cli import run
from streams.cli.run import StageName, worker
from streams.errors import ConfigurationError


def test_worker_told_to_accept_another_initial_tier_without_classify_is_a_usage_error() -> None:
    with pytest.raises(ConfigurationError, match="--accept-initial-tier is for classify") as error:
        worker([StageName.AUDIT, StageName.FORWARD], None, accept_initial_tier=True)

    assert error.value.exit_code == 2


@pytest.mark.parametrize("accept_initial_tier", [True, False])
def test_worker_tells_its_stages_whether_another_initial_tier_is_accepted(
    monkeypatch: pytest.MonkeyPatch, accept_initial_tier: bool
) -> None:
    built: list[tuple[str, bool]] = []
    monkeypatch.setenv("TIERSTREAM_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9")
    monkeypatch.setattr(registry, "stage_factory", lambda _, name, accept_initial_tier: built.append((name, accept_initial_tier)))
    monkeypatch.setattr(run, "serve", lambda *_: None)

    worker([StageName.CLASSIFY, StageName.CLASSIFY], None, accept_initial_tier=accept_initial_tier)

    assert built == [("classify", accept_initial_tier)]
