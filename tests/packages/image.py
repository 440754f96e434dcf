"""The packages that the image holds: what ``requirements.runtime.lock`` pins for its Python, described by their installed metadata."""

import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements.runtime.lock"
DOCKERFILE = ROOT / "Dockerfile"

Environment = Mapping[str, str]
"""What a marker is evaluated in, by the names of PEP 508."""


class NotInstalled(Exception):
    """The environment does not hold what the lock pins; the message names the package."""


@dataclass(frozen=True, slots=True)
class Package:
    """One pinned package. ``needs`` are the pinned packages that it needs; ``bundled`` its shared libraries: file, and SHA-256 in hex."""

    name: str
    version: str
    distribution: Distribution
    needs: tuple[str, ...]
    bundled: tuple[tuple[str, str], ...]


def environment() -> Environment:
    """Return the environment of the image: Linux, and the Python that the Dockerfile names."""
    found = re.search(r"^ARG PYTHON_VERSION=(3\.\d+)$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    version = found[1]
    of_linux = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "implementation_name": "cpython"}
    return {
        **{name: str(value) for name, value in default_environment().items()},
        **of_linux,
        "python_version": version,
        "python_full_version": f"{version}.0",
    }


def pinned(lock: str, environment: Environment) -> dict[str, str]:
    """Return the version of each package that ``lock`` installs in ``environment``, by its canonical name. Pure."""
    pins: dict[str, str] = {}
    for line in re.findall(r"^[a-zA-Z0-9].*$", lock, re.MULTILINE):
        requirement = Requirement(line.rstrip("\\ "))
        if requirement.marker is None or requirement.marker.evaluate(dict(environment)):
            pins[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix("==")
    return pins


def packages() -> list[Package]:
    """Return the packages of the image, by name. Raises NotInstalled where this environment has another version, or none."""
    within = environment()
    pins = pinned(LOCK.read_text(encoding="utf-8"), within)
    found = []
    for name, version in sorted(pins.items()):
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            raise NotInstalled(f"{name} {version} is locked and not installed; run make, which installs requirements.lock.") from None
        if installed.version != version:
            raise NotInstalled(
                f"{name} {version} is locked and {installed.version} is installed; run make, which installs requirements.lock."
            )
        found.append(Package(name, version, installed, tuple(sorted(_needs(installed, within) & pins.keys())), tuple(_bundled(installed))))
    return found


def _needs(installed: Distribution, within: Environment) -> set[str]:
    """Return what a distribution needs, with any of its extras."""
    extras = ["", *(installed.metadata.get_all("Provides-Extra") or ())]
    requirements = [Requirement(line) for line in installed.requires or ()]
    return {
        canonicalize_name(each.name)
        for each in requirements
        if each.marker is None or any(each.marker.evaluate({**within, "extra": extra}) for extra in extras)
    }


def _bundled(installed: Distribution) -> list[tuple[str, str]]:
    """Return the shared libraries of others that a wheel brings in its folder ``*.libs``."""
    return [
        (file.name, urlsafe_b64decode(file.hash.value + "=").hex())
        for file in installed.files or ()
        if file.parts[0].endswith(".libs") and file.hash is not None and file.hash.mode == "sha256"
    ]
