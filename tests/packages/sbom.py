"""The command line of ``make sbom``: what the image holds, as a CycloneDX document.

One component for each package of the lock, with its licence, what it needs, and the shared libraries that its wheel brings. What is below,
Python and the base image, is described by whoever makes that image.
"""

import argparse
import hashlib
import sys
import tomllib
import uuid
from collections.abc import Sequence
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from tests.packages.image import LOCK, ROOT, Package, packages
from tests.packages.licences import licence_of

OUT = Path("sbom.cdx.json")


def sbom(of: list[Package]) -> str:
    """Return the CycloneDX 1.6 document of these packages, as JSON. Its serial number follows from the lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    licence = LicenseFactory().make_from_string
    root = Component(
        type=ComponentType.APPLICATION,
        name=project["name"],
        version=project["version"],
        bom_ref="tierstream",
        licenses=[licence(project["license"])],
    )
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_OID, hashlib.sha256(LOCK.read_bytes()).hexdigest()))
    bom.metadata.component = root
    components = {each.name: _component(each) for each in of}
    for each in of:
        bom.components.add(components[each.name])
        bom.register_dependency(components[each.name], [components[name] for name in each.needs])
    needed = {name for each in of for name in each.needs}
    bom.register_dependency(root, [component for name, component in components.items() if name not in needed])
    text: str = JsonV1Dot6(bom).output_as_string(indent=2)
    return text


def _component(package: Package) -> Component:
    return Component(
        type=ComponentType.LIBRARY,
        name=package.name,
        version=package.version,
        bom_ref=f"{package.name}=={package.version}",
        purl=PackageURL("pypi", name=package.name, version=package.version),
        licenses=[LicenseFactory().make_from_string(licence_of(package.name, package.distribution.metadata))],
        components=[
            Component(
                type=ComponentType.FILE,
                name=name,
                bom_ref=f"{package.name}=={package.version}/{name}",
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
            )
            for name, digest in package.bundled
        ],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the document."""
    parser = argparse.ArgumentParser(description="Write what the image holds as a CycloneDX document.")
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args(arguments).out
    held = packages()
    out.write_text(sbom(held) + "\n", encoding="utf-8")
    print(f"{out}: {len(held)} packages and {sum(len(each.bundled) for each in held)} bundled libraries, CycloneDX 1.6")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
