"""What must hold of the containers themselves: rights, limits, secrets, and that nothing is left of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from deploy.rehearsal.docker import Compose, RehearsalFailed, name_of
from deploy.rehearsal.steps import OURS

LOOK_AT_RIGHTS = """
id -u
if (: > /file) 2>/dev/null; then echo writable; else echo read-only; fi
sed -n 's/^CapEff:[^0-9a-f]*//p; s/^NoNewPrivs:[^0-9]*//p' /proc/1/status
cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z '
"""
"""Prints the user, whether the image can be written to, the capabilities, whether no more can be had, and the number of zombies."""


def check_limits(compose: Compose) -> int:
    """Return how many running containers were looked at. Raises RehearsalFailed where one has more than ``docker-compose.yml`` gives it."""
    running = [container for container in compose.containers() if container["State"]["Running"]]
    for container in running:
        said = compose.docker.attempt("exec", container["Id"], "sh", "-c", LOOK_AT_RIGHTS).stdout
        if more := exceeded(container, said.split()):
            raise RehearsalFailed(f"{name_of(container)} {more}.")
    return len(running)


def exceeded(container: dict[str, Any], said: Sequence[str]) -> str:
    """Return what a container has too much of, as a predicate; empty where there is nothing. ``said`` is what LOOK_AT_RIGHTS printed."""
    if len(said) != 5:
        return f"does not tell its rights: {' '.join(said)}"
    user, written, capabilities, no_new, zombies = said
    if container["HostConfig"]["Memory"] <= 0:
        return "may use all the memory of the machine"
    if container["State"].get("OOMKilled"):
        return "was killed because its memory was not enough"
    if zombies != "0":
        return f"has {zombies} processes that ended and were not waited for"
    if container["Config"]["Image"] == OURS and (user == "0" or written != "read-only" or int(capabilities, 16) or no_new != "1"):
        return f"has more rights than docker-compose.yml says: user {user}, {written}, capabilities {capabilities}, NoNewPrivs {no_new}"
    return ""


def check_secrets(compose: Compose, secrets: Sequence[str]) -> int:
    """Return how many containers were looked at. Raises RehearsalFailed where a secret shows: in a command line, a label, the output of a health
    check, or a log."""
    containers = compose.containers()
    for container in containers:
        logged = compose.docker.attempt("logs", container["Id"])
        processes = compose.docker.attempt("top", container["Id"], "-eo", "args").stdout if container["State"]["Running"] else ""
        if place := shows_in(container, processes, logged.stdout + logged.stderr, secrets):
            raise RehearsalFailed(f"A secret stands in {place} of {name_of(container)}.")
    return len(containers)


def shows_in(container: dict[str, Any], processes: str, logged: str, secrets: Sequence[str]) -> str:
    """Return where a secret shows; empty where none does. The environment is not looked at: Compose puts secrets there."""
    places = {
        "the command line": f"{container['Path']} {container['Args']} {container['Config'].get('Healthcheck')} {processes}",
        "a label": str(container["Config"]["Labels"]),
        "the health check's output": str((container["State"].get("Health") or {}).get("Log")),
        "the log": logged,
    }
    return next((place for place, text in places.items() if any(secret in text for secret in secrets)), "")


@contextmanager
def taken_down(compose: Compose) -> Iterator[None]:
    """Run the block, then ``down --volumes``. Raises RehearsalFailed where that leaves something behind."""
    try:
        yield
    finally:
        compose.run("--profile", "ops", "down", "--volumes")
    label = f"label=com.docker.compose.project={compose.name}"
    kinds = {"container": ("ps", "--all"), "volume": ("volume", "ls"), "network": ("network", "ls")}
    for kind, command in kinds.items():
        if left := compose.docker.run(*command, "--quiet", "--filter", label).split():
            raise RehearsalFailed(f"`docker compose down --volumes` left a {kind} behind: {', '.join(left)}.")
