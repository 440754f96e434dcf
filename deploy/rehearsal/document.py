"""Fills the parts of ``docs/local-stack.md`` that ``make compose-test`` measured, between ``<!-- compose: NAME -->`` and ``<!-- end of NAME -->``.

``python -m deploy.rehearsal.document`` does it; a test fails where page and results differ.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from bench.document import markdown_table

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "local-stack.md"
RESULTS = ROOT / "bench" / "results" / "compose.json"
NOT_YET = "*Not run yet.*"
STEPS = {
    "nothing": "nothing is broken",
    "workers": "every worker and the gateway killed (SIGKILL)",
    "kafka": "Kafka killed (SIGKILL)",
    "postgres": "PostgreSQL killed (SIGKILL)",
    "scale": "`--scale classify=2`, and back",
    "restart": "`docker compose restart`",
    "down": "`docker compose down`, and `up`",
}
"""The steps in their order, each with its title."""

Results = dict[str, Any]


def _steps(results: Results) -> str:
    rows = [
        (
            step["name"],
            f"{step['posts']:,}",
            f"{step['sent_again']:,}",
            f"{step['longest_wait']:g}",
            ", ".join(f"{name} {seconds:g}" for name, seconds in step["healthy_after"].items()) or "-",
            f"{step['rows']:,}",
            f"{step['mails']:,}",
        )
        for step in results["steps"]
    ]
    head = ("under load", "posts", "sent again", "longest wait (s)", "healthy again after (s)", "audit rows", "mails")
    images = {image: source for image, source in results["images"].items() if source == "stand-in"}
    from_where = f"stand-ins for {', '.join(f'`{image}`' for image in images)}" if images else "the official images"
    suites = "; ".join(
        f"{suite['passed']} integration tests on `{suite['stack']}` in {suite['seconds']:.0f} s" for suite in results["suites"]
    )
    machine = (
        f"Docker {results['engine']}, Compose {results['compose']}, {results['cpus']} cores that others share, {from_where}. Built and healthy after "
        f"{results['up_seconds']:.0f} s; {suites}; {results['seconds']:.0f} s in all."
    )
    return f"{markdown_table(head, rows)}\n\n{machine}"


def _waits(results: Results) -> str:
    waits = {step["step"]: step["longest_wait"] for step in results["steps"]}
    return (
        f"A sender that tries again every half second waited at most {waits['kafka']:g} s when the broker was killed, "
        f"{waits['workers']:g} s when the gateway was, {waits['restart']:g} s over `docker compose restart`, and {waits['down']:g} s over `down` "
        f"and `up`. It had to wait {waits['postgres']:g} s when PostgreSQL was killed: the gateway does not talk to it."
    )


PARTS: dict[str, Callable[[Results], str]] = {"steps": _steps, "waits": _waits}

_PART = re.compile(r"(<!-- compose: (\w+) -->\n).*?(<!-- end of \2 -->)", re.DOTALL)


def filled(text: str, results: Results | None = None) -> str:
    """Return ``text`` with every part as ``results`` have it, by default the committed ones."""
    if results is None and RESULTS.is_file():
        results = orjson.loads(RESULTS.read_bytes())
    return _PART.sub(lambda part: f"{part[1]}{PARTS[part[2]](results) if results else NOT_YET}\n{part[3]}", text)


def summary(results: Results) -> str:
    """The closing words of a run."""
    posts, rows, mails = sum(step["posts"] for step in results["steps"]), results["steps"][-1]["rows"], results["steps"][-1]["mails"]
    return (
        f"{posts:,} posts, {rows:,} audit rows and {mails:,} mails over {len(results['steps'])} steps: nothing missing, wrong or doubled, "
        f"in {results['seconds']:.0f} s."
    )


def fill_document() -> None:
    """Write the page anew."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    fill_document()
