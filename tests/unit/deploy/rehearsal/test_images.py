"""Which images the stack asks for, and what becomes of those that can not be pulled."""

from pathlib import Path

import pytest
import yaml

from deploy.rehearsal.docker import Docker, RehearsalFailed
from deploy.rehearsal.engine import Engine
from deploy.rehearsal.images import ROOT, STAND_INS, named_images, provide_images, version


def test_named_images_are_those_that_compose_file_and_dockerfile_pull() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"].values()
    pulled = {service["image"] for service in services if service.get("pull_policy") != "never"}

    images = named_images()

    assert {images["kafka"], images["postgres"]} == pulled
    assert images["python"].removeprefix("python:").removesuffix("-slim") in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_each_named_image_has_a_stand_in() -> None:
    assert sorted(named_images()) == sorted(path.name for path in STAND_INS.iterdir())


def test_file_that_names_no_image_is_told(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n", encoding="utf-8")

    with pytest.raises(RehearsalFailed, match=r"Dockerfile has 0 lines like \^ARG PYTHON_VERSION"):
        named_images(tmp_path)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("postgres:17-alpine", "17"),
        ("apache/kafka:4.1.2", "4.1.2"),
        ("python:3.13-slim", "3.13"),
        ("postgres:latest", ""),
        ("postgres", ""),
    ],
)
def test_version_is_what_the_tag_begins_with(image: str, expected: str) -> None:
    assert version(image) == expected


class PretendedDocker(Docker):
    """Has the images of ``present``, pulls those of ``registry``, and keeps what it was asked to pull."""

    def __init__(self, present: dict[str, str], registry: set[str]) -> None:
        super().__init__({})
        self._present, self._registry = present, registry
        self.asked: list[str] = []

    def has_image(self, name: str) -> bool:
        return name in self._present

    def pull(self, name: str, answer_seconds: float) -> str | None:
        self.asked.append(name)
        return None if name in self._registry else "no such host"

    def run(self, *arguments: str, seconds: float = 0, directory: Path | None = None) -> str:
        return self._present[arguments[-1]]


def engine_with(docker: Docker) -> Engine:
    return Engine(docker, "28.0.0", "2.39.4", is_own=False)


def test_images_are_pulled_where_they_are_missing(tmp_path: Path) -> None:
    images = named_images()
    docker = PretendedDocker({images["python"]: "null", images["kafka"]: '{"tierstream.stand-in":"kafka"}'}, {images["postgres"]})

    sources = provide_images(engine_with(docker), tmp_path, print, stand_ins=False)

    assert sources == {images["python"]: "kept", images["kafka"]: "stand-in", images["postgres"]: "pulled"}
    assert docker.asked == [images["postgres"]]


def test_engine_of_somebody_else_gets_no_stand_in_unasked_and_no_other_pull_is_tried(tmp_path: Path) -> None:
    docker = PretendedDocker({}, set())

    with pytest.raises(RehearsalFailed, match=r"python:.* can not be pulled: no such host\. With --stand-ins"):
        provide_images(engine_with(docker), tmp_path, print, stand_ins=False)

    assert len(docker.asked) == 1
