"""The documents keep up with the code: what they name exists, what is generated is as it would be generated now."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest
import typer
from pydantic import SecretStr

from deploy.rehearsal.document import PAGE as LOCAL_STACK
from deploy.rehearsal.document import PARTS as COMPOSE_PARTS
from deploy.rehearsal.document import STEPS
from deploy.rehearsal.document import filled as compose_filled
from schemas.razorpay import parse_webhook
from streams.cli import app
from streams.cli.reference import PARTS, filled, overview_diagram, settings_table, topology_diagram
from streams.embedded.stack import EMBEDDED_DEFAULTS
from streams.gateway.ingest import accept
from streams.gateway.signatures import verify_razorpay
from streams.settings import CONFIG_VARIABLE, PREFIX, Settings
from streams.topics import TOPICS
from tests.faults.document import PAGE, RESULTS
from tests.faults.document import filled as faults_filled

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")
SENDING = (ROOT / "docs" / "sending.md").read_text(encoding="utf-8")
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
SETTINGS = {PREFIX + name.upper() for name in Settings.model_fields}
SECRET_FILES = {f"{PREFIX}{name.upper()}_FILE" for name, field in Settings.model_fields.items() if SecretStr in get_args(field.annotation)}
TEST_VARIABLES = {
    "TIERSTREAM_TEST_STACK",
    "TIERSTREAM_TEST_KAFKA",
    "TIERSTREAM_TEST_POSTGRES",
    "TIERSTREAM_TEST_POOLER",
    "TIERSTREAM_HYPOTHESIS_PROFILE",
}

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def code(text: str) -> str:
    """The code of a document, blocks and spans, one to a line."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))])


def shell_block(text: str, containing: str) -> str:
    (found,) = [block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if containing in block]
    return str(found)


# What is generated


def test_guarantees_report_the_results_of_the_fault_runs() -> None:
    assert faults_filled(text_of(PAGE)) == text_of(PAGE), "run: python -m tests.faults.document"


def test_committed_chaos_runs_broke_enough_and_left_no_difference() -> None:
    results = json.loads((RESULTS / "chaos.json").read_text())
    assert len({run["seed"] for run in results["runs"]}) >= 3
    for run in (results, *results["runs"]):
        assert run["events"] >= 200_000
        assert run["kills"] >= 60
        assert run["stalls"] >= 10
        assert min(run[name] for name in ("broker_restarts", "database_outages", "loops_outages")) >= 5
        assert [run[name] for name in ("missing", "wrong", "duplicate_rows", "duplicate_mails", "verify_clean")] == [0, 0, 0, 0, True]


def test_local_stack_reports_the_results_of_the_compose_run() -> None:
    text = text_of(LOCAL_STACK)

    assert set(re.findall(r"<!-- compose: (\w+) -->", text)) == set(COMPOSE_PARTS)
    assert compose_filled(text) == text, "run: python -m deploy.rehearsal.document"


def test_committed_compose_run_went_through_every_step_and_both_suites() -> None:
    results = json.loads((RESULTS / "compose.json").read_text())

    assert [step["step"] for step in results["steps"]] == list(STEPS)
    assert all(step["posts"] > 0 for step in results["steps"])
    assert [suite["stack"] for suite in results["suites"]] == ["external", "containers"]


def test_committed_runs_on_three_brokers_broke_each_in_every_way_and_left_no_difference() -> None:
    results = json.loads((RESULTS / "cluster.json").read_text())
    assert len({run["seed"] for run in results["runs"]}) >= 3
    for run in results["runs"]:
        assert (run["brokers"], run["posts"] >= 50_000) == (3, True)
        assert min(run[name] for name in ("leaders_killed", "brokers_paused", "two_brokers_away", "rolling_restarts")) >= 2
        assert [run[name] for name in ("missing", "wrong", "duplicate_rows", "duplicate_mails", "verify_clean")] == [0, 0, 0, 0, True]


@each_document
def test_generated_parts_are_up_to_date(path: Path) -> None:
    assert filled(text_of(path)) == text_of(path), "run: python -m streams.cli.reference README.md docs/*.md"


def test_every_part_that_can_be_generated_stands_in_a_document() -> None:
    marked = {
        name for path in DOCUMENTS for name in re.findall(r"<!-- generated: (\w+) -->\n.*?<!-- end of \1 -->", text_of(path), re.DOTALL)
    }

    assert marked == set(PARTS)


def test_diagram_has_every_topic_between_its_producers_and_consumers() -> None:
    diagram = topology_diagram()
    labels = dict(re.findall(r"^  (\w+)[\[(]+([^\])]+)[\])]+$", diagram, re.MULTILINE))
    drawn = {(labels[start], labels[end]) for start, end in re.findall(r"^  (\w+) (?:-->|<-\.->) (\w+)$", diagram, re.MULTILINE)}

    tables = [topic for topic in TOPICS if topic.producers == topic.consumers]
    written = {(name, topic.name) for topic in TOPICS for name in topic.producers}
    read = {(topic.name, name) for topic in TOPICS if topic not in tables for name in topic.consumers}
    assert drawn == written | read
    assert all(f"[({topic.name})]" in diagram for topic in TOPICS if topic.cleanup == "compact")


def test_overview_shows_the_way_from_the_sources_to_the_sinks_and_nothing_of_operation() -> None:
    overview = overview_diagram()

    assert set(overview.splitlines()) < set(topology_diagram().splitlines())
    assert all(f"{topic}" in overview for topic in ("razorpay.webhooks", "team.events", "audit.events", "tier.current"))
    assert re.search("changelog|dead.letters|operators|feedback|import", overview) is None


# Settings


def test_settings_table_has_every_variable_with_its_default_and_its_meaning() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", settings_table(), re.MULTILINE))

    assert set(rows) == SETTINGS
    for name, field in Settings.model_fields.items():
        default, _, meaning = rows[PREFIX + name.upper()].split(" | ", 2)
        assert default == ("-" if field.default in (None, "") else f"`{field.default}`")
        assert field.description, f"{name} has no description"
        assert meaning.startswith(field.description.replace("|", "\\|"))


@each_document
def test_variables_that_a_document_names_exist(path: Path) -> None:
    named = set(re.findall(r"TIERSTREAM_[A-Z_]*[A-Z]", text_of(path)))

    assert named - SETTINGS - SECRET_FILES - TEST_VARIABLES - {CONFIG_VARIABLE} == set()


def test_embedded_defaults_are_the_documented_ones() -> None:
    _, _, embedded = CONFIGURATION.partition("## The embedded stack")

    for name, value in EMBEDDED_DEFAULTS.items():
        assert f"| `{PREFIX}{name.upper()}` | `{value}` |" in embedded


# Links, paths, commands


@each_document
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", text_of(path)):
        linked = (path.parent / target) if target else path
        assert linked.exists(), f"{target} is not there"
        if anchor:
            assert anchor in anchors(text_of(linked)), f"{target} has no heading for #{anchor}"


def anchors(text: str) -> set[str]:
    """The anchors of a Markdown text's headings, as forges make them."""
    without_code = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", without_code, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_document
def test_paths_that_a_document_names_exist(path: Path) -> None:
    named = re.findall(r"(?<![\w/.-])((?:schemas|agents|streams|tests|examples|docs|\.ci)/[\w/.-]*\w/?)", code(text_of(path)))

    assert [name for name in named if not (ROOT / name).exists()] == []


@each_document
def test_tests_that_a_document_names_exist(path: Path) -> None:
    for file, name in re.findall(r"`((?:unit|property|fuzz|packages|integration|acceptance|faults)/[\w/]+\.py)::(\w+)`", text_of(path)):
        assert re.search(rf"^(async )?def {name}\(", text_of(ROOT / "tests" / file), re.MULTILINE), f"{file} has no {name}"


@each_document
def test_make_targets_that_a_document_names_exist(path: Path) -> None:
    makefile = text_of(ROOT / "Makefile")

    for target in re.findall(r"(?:^|\s)make ([a-z][\w-]*)", code(text_of(path)), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"


def test_make_targets_are_all_in_the_documents() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", text_of(ROOT / "Makefile"), re.MULTILINE))

    assert targets <= set(re.findall(r"make ([a-z-]+)", code(README) + code(text_of(ROOT / "CONTRIBUTING.md"))))


def test_readme_begins_with_the_two_commands_that_show_the_system() -> None:
    assert README.index("make demo") < README.index("make test") < README.index("```mermaid")
    assert re.findall(r"```sh\n(.*?)```", README, re.DOTALL)[0].split("\n") == ["make demo", "make test", ""]


@each_document
def test_commands_that_a_document_names_exist(path: Path) -> None:
    for command in re.findall(r"(?:^|[\s/])tierstream ((?:[a-z][a-z-]+ ?)+)", code(text_of(path)), re.MULTILINE):
        assert command.split()[0] in commands(), f"tierstream {command}"


def test_commands_are_all_in_the_documents() -> None:
    everything = "\n".join(code(text_of(path)) for path in DOCUMENTS)

    assert [name for name in commands() if not re.search(rf"\b{name}\b", everything)] == []


def commands() -> list[str]:
    return list(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("pattern", ["*.py", "*.toml", "*.yml", "Dockerfile", "Makefile", "*.lock"])
def test_documents_that_the_code_names_exist(pattern: str) -> None:
    for path in tracked(pattern):
        for name in re.findall(r"\bdocs/[\w/-]+\.md\b", text_of(path)):
            assert (ROOT / name).is_file(), f"{path.relative_to(ROOT)} names {name}"


# What a document asks its reader to type


def run_shell(block: str) -> list[str]:
    """Run a block of a document with a curl that prints its arguments, and return them."""
    if not shutil.which("bash") or not shutil.which("openssl"):
        pytest.skip("needs bash and openssl")
    script = "set -eu; curl() { printf '%s\\0' \"$@\"; }\n" + block
    return subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True).stdout.split("\0")


def test_documented_event_is_one_that_the_gateway_takes() -> None:
    arguments = run_shell(shell_block(SENDING, "v1/events"))
    event = json.loads(arguments[arguments.index("--data") + 1])

    ids, (record,) = accept([event], "default", datetime.now(UTC), "team.events")

    assert ids == ["claim-1"]
    assert record.key == event["team_id"].encode()


def test_documented_webhook_is_signed_as_the_gateway_verifies_and_says_what_it_should() -> None:
    arguments = run_shell(shell_block(SENDING, "openssl"))
    body = arguments[arguments.index("--data-binary") + 1].encode()
    (signature,) = [argument.partition(": ")[2] for argument in arguments if argument.startswith("X-Razorpay-Signature")]

    assert verify_razorpay(body, signature.encode(), [EMBEDDED_DEFAULTS["razorpay_webhook_secrets"].encode()])
    webhook = parse_webhook(body)
    assert (webhook.event, webhook.subscription and webhook.subscription.plan_id) == ("subscription.charged", "plan_pro")
    assert webhook.note("team_id") == "7b0c54c8-2f55-4c1b-9f59-0d1c0c6c1a11"


# What no file may hold


def tracked(pattern: str = "*") -> Iterator[Path]:
    """The text files that belong to the project and fit ``pattern``."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", pattern], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and b"\0" not in path.read_bytes()[:8_000]:
            yield path


@pytest.mark.parametrize(
    "forbidden",
    [
        r"pypi\.org|pythonhosted\.org|npmjs\.(?:org|com)|crates\.io|proxy\.golang\.org",
        r"repo1?\.maven|maven\.apache\.org/maven2|deb\.debian\.org|index-url|extra-index",
        r"(?:^|[^\w.])/(?:work|root|farm)/",
    ],
    ids=["package registries", "repositories", "paths of one machine"],
)
def test_no_file_names_a_host_or_a_path_of_one_machine(forbidden: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked()
        if path != Path(__file__)
        for number, line in enumerate(text_of(path).splitlines(), start=1)
        if re.search(forbidden, line)
    ]

    assert found == []
