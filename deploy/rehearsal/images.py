"""The images that ``docker-compose.yml`` and the ``Dockerfile`` name: pulled, or stand-ins of the same names."""

import re
import shutil
from pathlib import Path

from rich.console import Console

from deploy.rehearsal.docker import Docker, RehearsalFailed
from streams.embedded.kafka_jars import class_path

ROOT = Path(__file__).parents[2]
PULL_SECONDS = 300.0
STAND_INS = Path(__file__).parent / "images"
MARK = "tierstream.stand-in"
"""The label of a stand-in."""


def named_images() -> dict[str, str]:
    """Return the images that are pulled, by the stand-in that can take the place of each."""
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    python = _only(r"^ARG PYTHON_VERSION=(\S+)$", dockerfile)
    return {
        "python": f"python:{python}-slim",
        "kafka": _only(r"^ +image: (apache/kafka:\S+)$", compose),
        "postgres": _only(r"^ +image: (postgres:\S+)$", compose),
    }


def _only(pattern: str, text: str) -> str:
    found = set(re.findall(pattern, text, re.MULTILINE))
    if len(found) != 1:
        raise RehearsalFailed(f"{pattern} stands {len(found)} times in the file; the rehearsal takes it from there.")
    return str(found.pop())


def provide_images(docker: Docker, directory: Path, console: Console, *, may_build: bool) -> dict[str, str]:
    """Have every image there; return where each is from: ``kept``, ``pulled`` or ``stand-in``.

    ``may_build``: where one can not be pulled, stand-ins of all are built. Raises RehearsalFailed.
    """
    images = named_images()
    lacking = [image for image in images.values() if not docker.has_image(image)]
    sources = {image: _kind(docker, image) for image in images.values() if image not in lacking}
    for image in lacking:
        console.print(f"pulling {image}")
        pulled = docker.attempt("pull", "--quiet", image, seconds=PULL_SECONDS)
        if pulled.returncode == 0:
            sources[image] = "pulled"
        elif may_build:
            console.print("  can not be had; stand-ins are built")
            return sources | _build(docker, directory, console, {name: image for name, image in images.items() if image not in sources})
        else:
            raise RehearsalFailed(f"{image} can not be pulled: {pulled.stderr.strip()}")
    return sources


def _kind(docker: Docker, image: str) -> str:
    return "stand-in" if docker.run("image", "inspect", "--format", f'{{{{index .Config.Labels "{MARK}"}}}}', image) else "kept"


def _build(docker: Docker, directory: Path, console: Console, images: dict[str, str]) -> dict[str, str]:
    for name, image in images.items():
        console.print(f"building a stand-in for {image}")
        context = directory / "images" / name
        shutil.rmtree(context, ignore_errors=True)
        shutil.copytree(STAND_INS / name, context)
        machine = context / "machine"
        machine.mkdir()
        if name == "kafka":
            libs = context / "libs"
            libs.mkdir()
            for jar in class_path(console).split(":"):
                shutil.copy(jar, libs)
        if name == "python" and Path("/etc/pip.conf").is_file():
            shutil.copy("/etc/pip.conf", machine)
        arguments = ("--label", f"{MARK}={name}", "--build-arg", f"MAJOR={_version(image).partition('.')[0]}")
        classic = Docker(docker.environment | {"DOCKER_BUILDKIT": "0"})  # needs no plugin
        classic.run("build", "--quiet", "--tag", image, *arguments, str(context))
    _check_versions(docker, images)
    return dict.fromkeys(images.values(), "stand-in")


def _version(image: str) -> str:
    return re.sub(r"^.*:([0-9.]+).*$", r"\1", image)


def _check_versions(docker: Docker, images: dict[str, str]) -> None:
    """A stand-in of another version than its name says would show nothing."""
    printed = {
        "python": ("python", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"),
        "postgres": ("postgres", "--version"),
    }
    for name, command in printed.items():
        if name in images:
            said, wanted = docker.run("run", "--rm", images[name], *command), _version(images[name])
            if not re.search(rf"(^| ){re.escape(wanted)}\b", said):
                raise RehearsalFailed(f"The stand-in for {images[name]} is of another version: {said}.")
