"""The command line of ``make compose-test``."""

import argparse
import json
import os
import random
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from deploy.rehearsal.docker import Compose, RehearsalFailed
from deploy.rehearsal.document import STEPS, fill_document, summary
from deploy.rehearsal.engine import Engine, Report, engine
from deploy.rehearsal.images import ROOT, provide_images
from deploy.rehearsal.rules import check_limits, check_secrets, taken_down
from deploy.rehearsal.steps import WORKERS, Addresses, Rehearsal
from deploy.rehearsal.suites import CONTAINERS, EXTERNAL, run_suite, without_ryuk
from streams.embedded.process import free_ports
from streams.errors import TierstreamError
from streams.settings import load_settings
from tests.load import OLDEST_SECONDS

RESULTS = ROOT / "bench" / "results" / "compose.json"
KEPT = Path(__file__).parent / ".engine"
PROJECT = "tierstream-rehearsal"
PASSWORD = "rehearsal-password"
LOOPS_PER_SECOND = 200
PARTITIONS = 8
SECRETS = ("demo-secret", "demo-ingest", "demo-loops", "demo-console", "whsec_", PASSWORD)


def main() -> int:
    """Run all of it; 0 when nothing was missing, wrong or doubled."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.rehearsal", description="Run docker-compose.yml on a real engine, break it, and count what came out."
    )
    parser.add_argument("--kept", type=Path, default=KEPT, help="where images and plugins of an engine of its own are kept (%(default)s)")
    parser.add_argument("--stand-ins", action="store_true", help="build stand-ins on an engine that was there before, too")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000), help="of the traffic")
    parser.add_argument("--out", type=Path, default=RESULTS, help="write times and counts here (%(default)s)")
    arguments = parser.parse_args()
    began = time.monotonic()
    console = Console(highlight=False, soft_wrap=True)

    def report(text: str) -> None:
        console.print(f"{time.monotonic() - began:5.0f} s  {text}", markup=False)

    _interrupt_once(report)
    try:
        with engine(arguments.kept.absolute(), report) as found:
            results = _rehearse(found, arguments.kept.absolute(), report, arguments.seed, stand_ins=arguments.stand_ins)
    except (RehearsalFailed, TierstreamError) as error:
        console.print(str(error), style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        report("down")
        return 130
    results["seconds"] = round(time.monotonic() - began, 1)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if arguments.out.resolve() == RESULTS:
        fill_document()
    console.print(summary(results), markup=False)
    return 0


def _interrupt_once(report: Report) -> None:
    """Have the first SIGINT or SIGTERM take everything down, and leave that alone when another comes."""
    numbers = (signal.SIGINT, signal.SIGTERM)

    def interrupt(number: int, frame: object) -> None:
        for ignored in numbers:
            signal.signal(ignored, signal.SIG_IGN)
        report("interrupted; taking the stack and its engine down")
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, interrupt)


def _rehearse(found: Engine, kept: Path, report: Report, seed: int, *, stand_ins: bool) -> dict[str, Any]:
    images = provide_images(found, kept, report, stand_ins=stand_ins)
    kafka, postgres, loops, gateway, admin = free_ports(5)
    environment = {
        "HOST_KAFKA_PORT": str(kafka),
        "HOST_POSTGRES_PORT": str(postgres),
        "HOST_LOOPS_PORT": str(loops),
        "HOST_GATEWAY_PORT": str(gateway),
        "HOST_ADMIN_PORT": str(admin),
        "POSTGRES_PASSWORD": PASSWORD,
        "TIERSTREAM_LOOPS_RATE_PER_SECOND": str(LOOPS_PER_SECOND),
        "TIERSTREAM_FORWARD_MAX_AGE_SECONDS": str(OLDEST_SECONDS),
    }
    settings = load_settings(kafka_bootstrap_servers=f"127.0.0.1:{kafka}", partitions=PARTITIONS, replication_factor=1)
    dsn = f"postgresql://tierstream:{PASSWORD}@127.0.0.1:{postgres}/tierstream"
    addresses = Addresses(f"http://127.0.0.1:{gateway}", f"http://127.0.0.1:{loops}", dsn, settings)
    compose = Compose(found.docker, ROOT, PROJECT, environment)
    results: dict[str, Any] = {
        "seed": seed,
        "cpus": os.cpu_count(),
        "engine": found.version,
        "compose": found.compose,
        "images": images,
    }
    began = time.monotonic()
    with taken_down(compose):
        report("docker compose up --detach --wait --build")
        compose.run("up", "--detach", "--wait", "--build")
        results["up_seconds"] = round(time.monotonic() - began, 1)
        report(
            f"built and healthy after {results['up_seconds']:g} s; now it is broken, with seed {seed} (--seed {seed} sends the same again)"
        )
        results["steps"] = _steps(Rehearsal(compose, addresses, report, seed))
        looked = check_limits(compose), check_secrets(compose, SECRETS)
        report(f"rights and limits of {looked[0]} containers are as the file says; no secret shows in {looked[1]}")
        external = {"TIERSTREAM_TEST_KAFKA": f"127.0.0.1:{kafka}", "TIERSTREAM_TEST_POSTGRES": dsn}
        suites = [run_suite(found.docker, "external", EXTERNAL, external)]
        report(f"{suites[-1].passed} integration tests passed on the stack's own servers, in {suites[-1].seconds:g} s")
    report("docker compose down --volumes has left nothing")
    suites.append(run_suite(found.docker, "containers", CONTAINERS, without_ryuk(found.docker)))
    report(f"{suites[-1].passed} integration tests passed on containers of their own, in {suites[-1].seconds:g} s")
    results["suites"] = [asdict(suite) for suite in suites]
    return results


def _steps(rehearsal: Rehearsal) -> list[dict[str, Any]]:
    breaking = {
        "nothing": rehearsal.nothing,
        "workers": rehearsal.kill(*WORKERS, "gateway"),
        "kafka": rehearsal.kill("kafka"),
        "postgres": rehearsal.kill("postgres"),
        "scale": rehearsal.scale,
        "restart": rehearsal.restart,
        "down": rehearsal.down_and_up,
    }
    for name, title in STEPS.items():
        rehearsal.step(title, breaking[name])
    return [{"step": name} | asdict(result) for name, result in zip(STEPS, rehearsal.results, strict=True)]


if __name__ == "__main__":
    sys.exit(main())
