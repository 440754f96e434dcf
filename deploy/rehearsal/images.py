"""The images that ``docker-compose.yml`` and the ``Dockerfile`` name: pulled, or stand-ins of the same names."""

import re
import shutil
from contextlib import ExitStack
from pathlib import Path

from deploy.rehearsal.docker import Docker, RehearsalFailed, end, last_lines
from deploy.rehearsal.engine import Engine, Report, make_base
from streams.embedded.kafka_jars import class_path

ROOT = Path(__file__).parents[2]
ANSWER_SECONDS = 20.0
"""How long a registry may take to answer at all."""

STAND_INS = Path(__file__).parent / "images"
MARK = "tierstream.stand-in"
"""The label of a stand-in."""


def named_images(root: Path = ROOT) -> dict[str, str]:
    """Return the images that are pulled, by the stand-in that can take the place of each. Raises RehearsalFailed where one is not named."""
    compose, dockerfile = root / "docker-compose.yml", root / "Dockerfile"
    python = _only(r"^ARG PYTHON_VERSION=(\S+)$", dockerfile)
    return {
        "python": f"python:{python}-slim",
        "kafka": _only(r"^ +image: (apache/kafka:\S+)$", compose),
        "postgres": _only(r"^ +image: (postgres:\S+)$", compose),
    }


def _only(pattern: str, path: Path) -> str:
    found = set(re.findall(pattern, path.read_text(encoding="utf-8"), re.MULTILINE))
    if len(found) != 1:
        raise RehearsalFailed(f"{path.name} has {len(found)} lines like {pattern}, and must have one: images are taken from it.")
    return str(found.pop())


def version(image: str) -> str:
    """Return the version that the name of an image begins its tag with; empty where it has none."""
    found = re.search(r":([0-9]+(?:\.[0-9]+)*)", image)
    return found[1] if found else ""


def provide_images(engine: Engine, directory: Path, report: Report, *, stand_ins: bool) -> dict[str, str]:
    """Have every image there; return where each is from: ``kept``, ``pulled`` or ``stand-in``.

    Where one can not be pulled, stand-ins are built, on an engine of our own or where ``stand_ins`` says so. Raises RehearsalFailed.
    """
    docker, images = engine.docker, named_images()
    sources = {image: _kind(docker, image) for image in images.values() if docker.has_image(image)}
    lacking = {name: image for name, image in images.items() if image not in sources}
    for name, image in list(lacking.items()):
        report(f"pulling {image}")
        refused = docker.pull(image, ANSWER_SECONDS)
        if refused is None:
            sources[lacking.pop(name)] = "pulled"
        elif engine.is_own or stand_ins:
            report(f"  can not be had ({refused}); building stand-ins for {', '.join(lacking.values())}")
            make_base(docker, directory, report)
            _build(docker, directory, lacking)
            return sources | dict.fromkeys(lacking.values(), "stand-in")
        else:
            raise RehearsalFailed(
                f"{image} can not be pulled: {refused}. With --stand-ins one is built under its name, and has to be removed afterwards."
            )
    return sources


def _kind(docker: Docker, image: str) -> str:
    labels = docker.run("image", "inspect", "--format", "{{json .Config.Labels}}", image)
    return "stand-in" if f'"{MARK}"' in labels else "kept"


def _build(docker: Docker, directory: Path, images: dict[str, str]) -> None:
    """Build all of them side by side: each waits for a mirror most of the time."""
    classic = Docker(docker.environment | {"DOCKER_BUILDKIT": "0"})  # needs no plugin
    with ExitStack() as builds:
        running = []
        for name, image in images.items():
            context = _context(name, directory)
            labels = ("--label", f"{MARK}={name}", "--build-arg", f"MAJOR={version(image).partition('.')[0]}")
            process = classic.start("build", "--tag", image, *labels, str(context))
            builds.callback(end, process)
            running.append((image, process))
        for image, process in running:
            output, _ = process.communicate()
            if process.returncode:
                raise RehearsalFailed(f"The stand-in for {image} can not be built:\n{last_lines(output)}")
    _check_versions(docker, images)


def _context(name: str, directory: Path) -> Path:
    """Gather what a stand-in is built from: its own files, and what this machine adds."""
    context = directory / "images" / name
    shutil.rmtree(context, ignore_errors=True)
    shutil.copytree(STAND_INS / name, context)
    machine, libs = context / "machine", context / "libs"
    machine.mkdir()
    libs.mkdir()
    if name == "kafka":
        for jar in class_path().split(":"):
            shutil.copy(jar, libs)
    if name == "python" and Path("/etc/pip.conf").is_file():
        shutil.copy("/etc/pip.conf", machine)
    return context


def _check_versions(docker: Docker, images: dict[str, str]) -> None:
    """A stand-in of another version than its name says would show nothing."""
    printed = {
        "python": ("python", "-c", "import platform; print(platform.python_version())"),
        "kafka": ("sh", "-c", "ls /opt/kafka/libs | sed -n 's/^kafka_2.13-\\(.*\\)\\.jar$/\\1/p'"),
        "postgres": ("sh", "-c", "postgres --version | cut -d ' ' -f 3"),
    }
    for name, image in images.items():
        said, wanted = docker.run("run", "--rm", image, *printed[name]), version(image)
        if not f"{said}.".startswith(f"{wanted}."):
            raise RehearsalFailed(f"The stand-in for {image} is of another version: {said}. Pull the image itself.")
