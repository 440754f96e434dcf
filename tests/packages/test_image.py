"""The packages of the image, as the lock and the installed metadata have them."""

from pathlib import Path

import pytest

from tests.packages import image
from tests.packages.image import LOCK, NotInstalled, environment, packages, pinned

LINUX = {"sys_platform": "linux", "python_version": "3.13"}


def test_pinned_are_the_packages_whose_marker_fits() -> None:
    lock = (
        "# a comment\n"
        "A_b==1.0 \\\n    --hash=sha256:00\n"
        "c==2.0 ; sys_platform == 'win32' \\\n    --hash=sha256:00\n"
        "d==3 ; python_version >= '3.12'\n"
    )

    assert pinned(lock, LINUX) == {"a-b": "1.0", "d": "3"}


def test_environment_is_that_of_the_image_and_not_of_this_python() -> None:
    assert f"ARG PYTHON_VERSION={environment()['python_version']}\n" in image.DOCKERFILE.read_text(encoding="utf-8")
    assert "colorama" not in pinned(LOCK.read_text(encoding="utf-8"), environment())


def test_packages_are_those_that_are_pinned_and_need_only_each_other() -> None:
    held = packages()

    names = {each.name for each in held}
    assert {each.name: each.version for each in held} == pinned(LOCK.read_text(encoding="utf-8"), environment())
    assert all(set(each.needs) <= names for each in held)
    assert {"aiokafka", "mode-streaming"} & {name for each in held if each.name == "faust-streaming" for name in each.needs}


def test_shared_libraries_that_a_wheel_brings_are_found() -> None:
    bundled = {each.name: each.bundled for each in packages()}["confluent-kafka"]

    if not bundled:
        pytest.skip("confluent-kafka was built for this machine, with the librdkafka that was there")
    assert any(name.startswith("librdkafka") and len(digest) == 64 for name, digest in bundled)


@pytest.mark.parametrize(
    ("line", "sentence"), [("aiohttp==0.0.1", "0.0.1 is locked and"), ("no-such-package==1", "is locked and not installed")]
)
def test_other_version_than_the_lock_has_is_refused(line: str, sentence: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text(line + "\n", encoding="utf-8")
    monkeypatch.setattr(image, "LOCK", lock)

    with pytest.raises(NotInstalled, match=sentence):
        packages()
