"""The layout of docs/adr/0008-layout.md: where modules stand, how large they are, and where their tests are found."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNIT = "tests/unit"

COVERED_BY: dict[str, str] = {
    "deploy/rehearsal/__main__.py": "tests/unit/deploy/rehearsal/test_rehearsal.py",
    "streams/settings/roles.py": "tests/unit/streams/settings/test_settings.py",
    "agents/registry.py": "tests/unit/streams/test_topics.py",
    "agents/audit/decide.py": "tests/unit/agents/audit/test_stage.py",
    "agents/audit/record.py": "tests/property/test_audit.py",
    "agents/forward/settling.py": "tests/property/test_settling.py",
    "agents/classify/fast_path.py": "tests/property/test_fast_path.py",
    "streams/errors.py": "tests/unit/streams/settings/test_settings.py",
    "streams/metrics.py": "tests/unit/streams/runtime/test_admin.py",
    "streams/cli/__main__.py": "tests/integration/test_verify.py",
    "streams/cli/broker.py": "tests/integration/test_topics.py",
    "streams/cli/imports.py": "tests/integration/test_imports.py",
    "streams/cli/progress.py": "tests/unit/streams/cli/test_verify.py",
    "streams/cli/reconcile.py": "tests/integration/test_reconcile.py",
    "streams/cli/explain.py": "tests/integration/test_explain.py",
    "streams/cli/dlq.py": "tests/integration/test_dlq.py",
    "streams/cli/deliveries.py": "tests/integration/test_deliveries_command.py",
    "streams/cli/reference.py": "tests/unit/test_docs.py",
    "streams/demo/deliveries.py": "tests/unit/streams/demo/test_scenario.py",
    "streams/demo/playback.py": "tests/integration/test_demo.py",
    "streams/demo/razorpay.py": "tests/unit/streams/demo/test_scenario.py",
    "streams/embedded/file_lock.py": "tests/unit/streams/embedded/test_kafka_jars.py",
    "streams/embedded/kafka.py": "tests/integration/test_embedded_kafka.py",
    "streams/embedded/launcher.py": "tests/integration/test_supervisor.py",
    "streams/embedded/postgres.py": "tests/integration/test_embedded_postgres.py",
    "streams/embedded/process.py": "tests/unit/streams/embedded/test_stack.py",
    "streams/embedded/program.py": "tests/integration/test_supervisor.py",
    "streams/embedded/supervisor.py": "tests/integration/test_supervisor.py",
    "streams/engine/app.py": "tests/integration/test_handler_stages.py",
    "streams/engine/table_stage.py": "tests/unit/streams/engine/test_slices.py",
    "streams/engine/tables.py": "tests/integration/test_rebalance.py",
    "streams/gateway/http.py": "tests/unit/streams/gateway/test_app.py",
    "streams/gateway/server.py": "tests/integration/test_gateway.py",
    "streams/gateway/webhooks.py": "tests/unit/streams/gateway/test_app.py",
    "streams/kafka/client.py": "tests/unit/streams/kafka/test_partitioner.py",
    "streams/kafka/log_reader.py": "tests/integration/test_log_reader.py",
    "streams/kafka/log_search.py": "tests/integration/test_log_search.py",
    "streams/kafka/producer.py": "tests/integration/test_producer.py",
    "streams/kafka/records.py": "tests/integration/test_log_reader.py",
    "streams/operate/imports/known.py": "tests/integration/test_imports.py",
    "streams/operate/imports/publish.py": "tests/integration/test_imports.py",
    "streams/operate/reconcile/state.py": "tests/integration/test_reconcile.py",
    "streams/operate/reconcile/webhooks.py": "tests/integration/test_reconcile.py",
    "streams/operate/explain/entries.py": "tests/unit/streams/operate/explain/test_timeline.py",
    "streams/operate/deliveries/resolve.py": "tests/integration/test_deliveries_command.py",
    "streams/operate/replay/apply.py": "tests/integration/test_replay.py",
    "streams/operate/replay/shadow.py": "tests/integration/test_replay.py",
    "streams/operate/verify/accounts.py": "tests/unit/streams/operate/verify/test_verify.py",
    "streams/operate/verify/dead_letters.py": "tests/unit/streams/operate/verify/test_verify.py",
    "streams/operate/verify/evidence.py": "tests/unit/streams/operate/verify/test_verify.py",
    "streams/operate/logs.py": "tests/integration/test_verify.py",
    "streams/operate/verify/outputs.py": "tests/unit/streams/operate/verify/test_verify.py",
    "streams/operate/verify/report.py": "tests/unit/streams/operate/verify/test_verify.py",
    "streams/operate/verify/tables.py": "tests/unit/streams/operate/verify/test_verify.py",
    "streams/operate/verify/traces.py": "tests/unit/streams/operate/verify/test_verify.py",
    "streams/operate/verify/verification.py": "tests/unit/streams/operate/verify/test_verify.py",
    "streams/publisher/entries.py": "tests/unit/streams/publisher/test_publisher.py",
    "streams/publisher/failures.py": "tests/unit/streams/publisher/test_publisher.py",
    "streams/publisher/frames.py": "tests/unit/streams/publisher/test_spool.py",
    "streams/publisher/transport.py": "tests/integration/test_publisher.py",
    "streams/publisher/window.py": "tests/unit/streams/publisher/test_delivery.py",
    "streams/runtime/http_server.py": "tests/unit/streams/runtime/test_admin.py",
    "streams/stores/blocking.py": "tests/integration/test_verify.py",
    "streams/stores/accounts.py": "tests/integration/test_verify.py",
    "streams/stores/audit_log.py": "tests/integration/test_audit_log.py",
    "streams/stores/explanations.py": "tests/integration/test_explain.py",
    "streams/stores/deliveries.py": "tests/integration/test_deliveries_command.py",
    "streams/stores/feedback.py": "tests/integration/test_feedback.py",
    "streams/stores/ledger.py": "tests/integration/test_ledger.py",
    "streams/stores/mail_history.py": "tests/integration/test_settling.py",
    "streams/stores/loops_slots.py": "tests/integration/test_loops_slots.py",
    "streams/stores/replays.py": "tests/integration/test_replay.py",
    "streams/stores/tables.py": "tests/integration/test_constraints.py",
}
"""Modules without a unit test at the mirrored path, and the test that covers each instead."""


def modules() -> list[Path]:
    """Return the modules of ``agents``, ``streams`` and ``deploy``, relative to the root; a package's own ``__init__`` belongs to the package."""
    tracked = subprocess.run(
        ["git", "ls-files", "agents/*.py", "streams/*.py", "deploy/*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [path for line in tracked.stdout.splitlines() if (path := Path(line)).name != "__init__.py" and (ROOT / path).exists()]


def mirrored(module: Path) -> Path:
    return UNIT / module.parent / f"test_{module.name}"


@pytest.mark.parametrize("module", modules(), ids=str)
def test_module_has_a_unit_test_at_the_mirrored_path_or_names_the_test_that_covers_it(module: Path) -> None:
    covered_by = COVERED_BY.get(str(module))

    if (ROOT / mirrored(module)).exists():
        assert covered_by is None, "it has a unit test at the mirrored path; remove its line"
    else:
        assert covered_by is not None, f"write {mirrored(module)}, or add a line to COVERED_BY"
        assert (ROOT / covered_by).is_file()


def test_every_line_names_a_module() -> None:
    assert [module for module in COVERED_BY if not (ROOT / module).is_file()] == []


def test_every_unit_test_of_a_package_mirrors_a_module_or_a_package() -> None:
    unit = [path.relative_to(ROOT / UNIT) for top in ("agents", "streams", "deploy") for path in (ROOT / UNIT / top).rglob("test_*.py")]
    names = {path.parent: {module.stem for module in modules() if module.parent == path.parent} | {path.parent.name} for path in unit}

    stray = [path for path in unit if not any(path.stem.startswith(f"test_{name}") for name in names[path.parent])]

    assert stray == []


def test_streams_has_at_most_five_modules_beside_its_packages() -> None:
    assert sorted(path.stem for path in (ROOT / "streams").glob("*.py")) == [
        "__init__",
        "errors",
        "logging",
        "metrics",
        "topics",
    ]


def test_no_module_has_more_than_400_lines() -> None:
    tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()

    assert [name for name in tracked if len((ROOT / name).read_text(encoding="utf-8").splitlines()) > 400] == []
