"""The plan file: which plans mean another tier than before, what the log says of it, and what a wrong file leaves in force."""

from pathlib import Path

import orjson
import pytest
from structlog.testing import capture_logs

from agents.normalise.decide import Rules
from agents.normalise.plans import PlanChange, PlanWarnings, changed_plans, load_rules, read_again, tiers_by_plan
from agents.normalise.stage import NormaliseStage
from schemas.kinds import Kind
from schemas.tiers import Tier
from streams.settings import Settings

RULES = Rules({"plan_pro": Tier.PRO, "plan_hobby": Tier.HOBBY}, team_note="workspace", grace_days=3)


@pytest.mark.parametrize(
    ("former", "now", "changes"),
    [
        pytest.param({}, {"plan_a": "pro"}, [], id="all are new"),
        pytest.param({"plan_a": "pro"}, {"plan_a": "pro", "plan_b": "team"}, [], id="one more"),
        pytest.param({"plan_a": "pro", "plan_b": "team"}, {"plan_a": "pro"}, [], id="one less"),
        pytest.param({"plan_a": "pro"}, {"plan_a": "Pro_Yearly"}, [], id="the same in other words"),
        pytest.param({"plan_a": "pro"}, {"plan_a": "team"}, [PlanChange("plan_a", "pro", "team", Kind.UPGRADED)], id="up"),
        pytest.param({"plan_a": "pro"}, {"plan_a": "hobby"}, [PlanChange("plan_a", "pro", "hobby", Kind.DOWNGRADED)], id="down"),
        pytest.param(
            {"plan_b": "pro", "plan_a": "free"},
            {"plan_b": "hobby", "plan_a": "pro"},
            [PlanChange("plan_a", "free", "pro", Kind.UPGRADED), PlanChange("plan_b", "pro", "hobby", Kind.DOWNGRADED)],
            id="several, by name",
        ),
    ],
)
def test_changed_plans_are_those_whose_tier_differs(former: dict[str, str], now: dict[str, str], changes: list[PlanChange]) -> None:
    assert changed_plans(former, now) == changes


def test_warning_names_the_plan_both_tiers_and_what_follows_once_a_process() -> None:
    warnings = PlanWarnings()

    with capture_logs() as logs:
        for _partition in range(3):
            warnings.warn({"plan_a": "pro"}, {"plan_a": "hobby"})

    assert logs == [
        {
            "event": "plan_changed",
            "log_level": "warning",
            "plan": "plan_a",
            "former_tier": "pro",
            "tier": "hobby",
            "consequence": "the next charge of each team on this plan emits subscription.downgraded",
        }
    ]


def test_warning_comes_again_for_a_plan_that_changed_back_and_forth() -> None:
    warnings = PlanWarnings()

    with capture_logs() as logs:
        for former, now in (("pro", "hobby"), ("hobby", "pro"), ("pro", "hobby")):
            warnings.warn({"plan_a": former}, {"plan_a": now})

    assert [log["tier"] for log in logs] == ["hobby", "pro", "hobby"]


def test_file_that_grew_is_read_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "plans.toml"
    path.write_text('plan_pro = "team"\nplan_hobby = "hobby"\nplan_new = "growth"\n')

    with capture_logs() as logs:
        rules = read_again(RULES, path, PlanWarnings())

    assert tiers_by_plan(rules) == {"plan_pro": "team", "plan_hobby": "hobby", "plan_new": "growth"}
    assert (rules.team_note, rules.grace_days) == ("workspace", 3), "all else stays"
    assert [(log["event"], log["log_level"]) for log in logs] == [("plan_changed", "warning"), ("plans_read", "info")]
    assert (logs[1]["plans"], logs[1]["added"], logs[1]["removed"]) == (3, 1, 0)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("plan_pro = ", "no valid TOML"),
        ('plan_pro = "gold"', "gives plan_pro the tier 'gold'"),
        ("", "holds no plan"),
        (None, "can not be read"),
    ],
)
def test_file_that_is_wrong_is_an_error_and_the_plans_stay(tmp_path: Path, text: str | None, problem: str) -> None:
    path = tmp_path / "plans.toml"
    if text is not None:
        path.write_text(text)

    with capture_logs() as logs:
        assert read_again(RULES, path, PlanWarnings()) is RULES

    (log,) = logs
    assert (log["event"], log["log_level"], log["plans_in_force"]) == ("plans_not_read", "error", 2)
    assert str(path) in log["error"]
    assert problem in log["error"]


def test_rules_are_those_of_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "plans.toml"
    path.write_text('plan_pro = "pro"\n')

    rules = load_rules(Settings(plans=path, razorpay_team_note="workspace", grace_days=5, grace_reminder_days="4,1"))

    assert rules == Rules({"plan_pro": Tier.PRO}, "workspace", None, 5, (1, 4))


# The stage


def test_stage_keeps_its_plans_in_one_form() -> None:
    stage, other = (NormaliseStage(Settings(), Rules(dict(plans))) for plans in (RULES.plans, reversed(RULES.plans.items())))
    assert stage.settings == other.settings
    assert orjson.loads(stage.settings) == {"plan_hobby": "hobby", "plan_pro": "pro"}


def test_stage_warns_of_what_its_table_was_decided_with() -> None:
    stage = NormaliseStage(Settings(), RULES)

    with capture_logs() as logs:
        stage.settings_changed(b"{}", {})
        stage.settings_changed(b'{"plan_pro": "team"}', {})

    assert [(log["plan"], log["former_tier"], log["tier"]) for log in logs] == [("plan_pro", "team", "pro")]


def test_stage_decides_with_the_file_from_when_it_was_read_again(tmp_path: Path) -> None:
    path = tmp_path / "plans.toml"
    path.write_text('plan_new = "growth"\n')
    stage = NormaliseStage(Settings(), RULES)

    stage.read_plans(path)

    assert stage.rules.plans == {"plan_new": Tier.GROWTH}
    assert orjson.loads(stage.settings) == {"plan_new": "growth"}
