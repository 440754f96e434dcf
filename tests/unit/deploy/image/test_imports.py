"""The list of modules whose bytecode the image holds."""

import importlib.util
import subprocess
import sys
from pathlib import Path

from deploy.image.imports import LATER, module_names

ROOT = Path(__file__).parents[4]


def test_every_module_of_ours_is_imported_but_for_those_that_run() -> None:
    files = {path for top in ("agents", "schemas", "streams") for path in (ROOT / top).rglob("*.py") if path.name != "__main__.py"}
    specs = [importlib.util.find_spec(name) for name in module_names()]

    assert {Path(spec.origin) for spec in specs if spec is not None and spec.origin is not None} == files


def test_every_module_that_is_named_exists() -> None:
    assert [name for name in LATER if importlib.util.find_spec(name) is None] == []


def test_list_has_sources_of_ours_of_packages_and_of_python() -> None:
    command = [sys.executable, str(ROOT / "deploy" / "image" / "imports.py")]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    files = done.stdout.splitlines()

    assert files == sorted(set(files))
    assert all(Path(file).is_file() for file in files)
    assert str(ROOT / "streams" / "cli" / "__init__.py") in files
    assert {"faust", "uvloop"} <= {Path(file).parent.name for file in files}
    assert any(file.endswith("/http/client.py") for file in files)
