"""Prints the source file of each module that a role imports; the image holds the bytecode of these.

Run in the image's build, by the Python of its environment. A module that can not be imported ends it with a traceback: the build fails.
"""

import importlib
import pkgutil
import sys

PACKAGES = ("agents", "schemas", "streams")
LATER = (
    "anyio._backends._asyncio",
    "certifi",
    "encodings.idna",
    "http.client",  # the health checks of docker-compose.yml, with the next one
    "urllib.request",
    "httpcore",
    "rich._emoji_codes",
    "rich.markdown",
    "typer._adapters",
    "typer._click.decorators",
    "uvicorn.lifespan.off",
    "uvloop",
)
"""What no module of ours imports when it is imported itself, and what a role or `--help` imports later."""


def module_names() -> list[str]:
    """Return the modules of tierstream, but for those that run when they are imported."""
    found = list(PACKAGES)
    for name in PACKAGES:
        paths = importlib.import_module(name).__path__
        found += [module.name for module in pkgutil.walk_packages(paths, f"{name}.") if not module.name.endswith(".__main__")]
    return found


def source_files() -> list[str]:
    """Return the source files of all modules that are imported by now, sorted."""
    files = {getattr(module, "__file__", None) for module in sys.modules.values()}
    return sorted(file for file in files if file is not None and file.endswith(".py") and file != __file__)


def main() -> None:
    """Import everything and print the list."""
    for name in (*module_names(), *LATER):
        importlib.import_module(name)
    sys.stdout.write("\n".join(source_files()) + "\n")


if __name__ == "__main__":
    main()
