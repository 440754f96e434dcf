"""The Dockerfile, what it copies, and the locks that it installs from."""

import fnmatch
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from streams.settings import load_plans

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def copied() -> list[tuple[str, str]]:
    """Every (source, destination) that the Dockerfile copies from the checkout."""
    found: list[tuple[str, str]] = []
    for arguments in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        *sources, destination = arguments.split()
        found += [(source.rstrip("/"), destination) for source in sources]
    return found


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets ``path`` through to the build: the last line that matches it or a directory above it decides."""
    sent = True
    parents = [path, *(str(parent) for parent in Path(path).parents if parent != Path())]
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.lstrip("!").removeprefix("**/")
        names = [Path(part).name for part in parents] if "**/" in line else parents
        if line and not line.startswith("#") and any(fnmatch.fnmatchcase(name, pattern) for name in names):
            sent = line.startswith("!")
    return sent


def locked(name: str) -> dict[str, str]:
    """The packages of a lock: name → its whole entry, with version, marker and hashes."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return {entry.split("==")[0]: entry.strip() for entry in re.split(r"\n(?=[a-z])", text) if "==" in entry}


def normalised(requirement: str) -> str:
    match = re.match(r"[\w.-]+", requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match[0]).lower()


@pytest.mark.parametrize("source", [source for source, _ in copied()])
def test_copied_file_exists_and_is_not_ignored(source: str) -> None:
    path = ROOT / source
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts]

    assert files
    assert all(is_sent(file.relative_to(ROOT).as_posix()) for file in files)


@pytest.mark.parametrize(
    "path", [".env", ".git/config", ".venv/bin/python", "tests/conftest.py", "streams/__pycache__/app.cpython-313.pyc"]
)
def test_what_the_image_does_not_need_is_not_sent(path: str) -> None:
    assert not is_sent(path)


def test_every_package_and_the_command_are_in_the_image() -> None:
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]

    assert set(packages) <= {source for source, _ in copied()}
    assert re.findall(r'^ENTRYPOINT \["(\w+)"\]$', DOCKERFILE, re.MULTILINE) == list(PROJECT["project"]["scripts"])


def test_image_runs_as_a_numbered_user_that_is_not_root() -> None:
    (user,) = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)

    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert f"--uid {user.split(':')[0]}" in DOCKERFILE


def test_everything_that_the_image_adds_can_be_read_by_all_and_has_the_time_of_the_build() -> None:
    build, final = DOCKERFILE.split("\nFROM ")[-2:]
    trees = re.findall(r"^COPY --from=build (\S+) (\S+)$", final, re.MULTILINE)

    assert trees
    assert not re.findall(r"^COPY (?!--from=build)", final, re.MULTILINE)
    for source, destination in trees:
        assert source == destination
        assert re.search(rf"chmod -R u=rwX,go=rX .*{source}\b", build)
        assert re.search(rf"find .*{source}\b.* -exec touch --no-dereference --date=@\$SOURCE_DATE_EPOCH", build)


def test_first_process_of_the_image_is_the_command_itself() -> None:
    assert re.findall(r"^(?:ENTRYPOINT|CMD) (.).*$", DOCKERFILE, re.MULTILINE) == ["[", "["]  # a shell would not pass SIGTERM on


def test_bytecode_is_looked_for_where_it_is_compiled_to() -> None:
    assert len(set(re.findall(r"PYTHONPYCACHEPREFIX=(\S+)", DOCKERFILE))) == 1
    assert len(re.findall(r"PYTHONPYCACHEPREFIX=", DOCKERFILE)) == 2


def test_no_installation_compiles_with_a_time() -> None:
    assert "compileall -q --invalidation-mode checked-hash" in DOCKERFILE
    assert [line for line in DOCKERFILE.splitlines() if "bin/python install" in line and "--no-compile" not in line] == []


def test_python_of_the_image_is_new_enough() -> None:
    (version,) = re.findall(r"^ARG PYTHON_VERSION=3\.(\d+)$", DOCKERFILE, re.MULTILINE)

    assert int(version) >= int(PROJECT["project"]["requires-python"].removeprefix(">=3."))


def test_plans_of_the_compose_file_are_in_the_image() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    inside = compose["services"]["normalise"]["environment"]["TIERSTREAM_PLANS"]
    (source,) = [source for source, destination in copied() if f":-{destination}}}" in inside]

    assert load_plans(ROOT / source)


@pytest.mark.parametrize("name", ["requirements.runtime.lock", "requirements.build.lock"])
def test_lock_of_the_image_agrees_with_the_tests_lock(name: str) -> None:
    entries, all_entries = locked(name), locked("requirements.lock")

    assert entries
    assert {package: all_entries.get(package) for package in entries} == entries


def test_runtime_lock_holds_what_the_project_needs_and_no_extra() -> None:
    packages = locked("requirements.runtime.lock")
    extras = PROJECT["project"]["optional-dependencies"]

    needed = {normalised(requirement) for requirement in PROJECT["project"]["dependencies"]}
    unwanted = {normalised(requirement) for extra in ("embedded", "dev") for requirement in extras[extra]} - needed

    assert needed <= set(packages)
    assert unwanted & set(packages) - {"pyyaml", "packaging"} == set()  # uvicorn[standard] and aiokafka bring them, too


def test_build_lock_holds_the_build_backend() -> None:
    assert {normalised(requirement) for requirement in PROJECT["build-system"]["requires"]} <= set(locked("requirements.build.lock"))
