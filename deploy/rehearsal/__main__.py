"""The command line of ``make compose-test``."""

import argparse
import json
import os
import random
import re
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from deploy.rehearsal.docker import Compose, Docker, RehearsalFailed
from deploy.rehearsal.document import STEPS, fill_document, summary
from deploy.rehearsal.engine import Engine, Report, engine
from deploy.rehearsal.image import check_image
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
BROKERS = ("kafka", "kafka-2", "kafka-3")
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
    part = parser.add_mutually_exclusive_group()
    part.add_argument(
        "--cluster", action="store_true", help="with deploy/cluster.env: brokers are killed, and nothing else; nothing is written"
    )
    part.add_argument("--image", action="store_true", help="look at the image by itself instead; nothing is written")
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
            images = provide_images(found, arguments.kept.absolute(), report, stand_ins=arguments.stand_ins)
            if arguments.image:
                looked = check_image(found.docker, report)
                report(f"the image has {looked.megabytes:g} MB over its base, and is as docs/deployment.md says")
                return 0
            if arguments.cluster:
                _rehearse_cluster(found, report, arguments.seed)
                return 0
            results = _rehearse(found, images, report, arguments.seed)
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


def _stack(docker: Docker, *, cluster: bool = False) -> tuple[Compose, Addresses]:
    """A stack under a name and on ports of its own, and where it will be."""
    brokers = BROKERS if cluster else BROKERS[:1]
    postgres, loops, gateway, admin, *kafka = free_ports(4 + len(brokers))
    environment = {
        "HOST_POSTGRES_PORT": str(postgres),
        "HOST_LOOPS_PORT": str(loops),
        "HOST_GATEWAY_PORT": str(gateway),
        "HOST_ADMIN_PORT": str(admin),
        "POSTGRES_PASSWORD": PASSWORD,
        "TIERSTREAM_LOOPS_RATE_PER_SECOND": str(LOOPS_PER_SECOND),
        "TIERSTREAM_FORWARD_MAX_AGE_SECONDS": str(OLDEST_SECONDS),
    }
    environment |= {f"HOST_{name.upper().replace('-', '_')}_PORT": str(port) for name, port in zip(brokers, kafka, strict=True)}
    profiles: list[str] = []
    if cluster:
        set_there = dict(re.findall(r"^([A-Z_]+)=(.*)$", (ROOT / "deploy" / "cluster.env").read_text(encoding="utf-8"), re.MULTILINE))
        del set_there["COMPOSE_PROJECT_NAME"]  # ours is another one
        profiles.append(set_there.pop("COMPOSE_PROFILES"))
        environment |= set_there
    servers = ",".join(f"127.0.0.1:{port}" for port in kafka)
    settings = load_settings(kafka_bootstrap_servers=servers, partitions=PARTITIONS, replication_factor=len(brokers))
    dsn = f"postgresql://tierstream:{PASSWORD}@127.0.0.1:{postgres}/tierstream"
    addresses = Addresses(f"http://127.0.0.1:{gateway}", f"http://127.0.0.1:{loops}", dsn, settings)
    return Compose(docker, ROOT, PROJECT, environment, profiles), addresses


def _rehearse_cluster(found: Engine, report: Report, seed: int) -> None:
    compose, addresses = _stack(found.docker, cluster=True)
    with taken_down(compose):
        report(f"docker compose --env-file deploy/cluster.env up --detach --wait --build; then brokers die, with seed {seed}")
        compose.run("up", "--detach", "--wait", "--build")
        rehearsal = Rehearsal(compose, addresses, report, seed)
        rehearsal.step("nothing is broken", rehearsal.nothing)
        for name in BROKERS:
            rehearsal.step(f"{name} killed (SIGKILL)", rehearsal.kill(name))
        rehearsal.step("all brokers killed, one after the other", rehearsal.kill(*BROKERS))
        rehearsal.step("`docker compose restart`", rehearsal.restart)
    report("docker compose down --volumes has left nothing")


def _rehearse(found: Engine, images: dict[str, str], report: Report, seed: int) -> dict[str, Any]:
    compose, addresses = _stack(found.docker)
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
        external = {
            "TIERSTREAM_TEST_KAFKA": addresses.settings.kafka_bootstrap_servers,
            "TIERSTREAM_TEST_POSTGRES": addresses.postgres,
        }
        suites = [run_suite(found.docker, "external", EXTERNAL, external)]
        report(f"{suites[-1].passed} integration tests passed on the stack's own servers, in {suites[-1].seconds:g} s")
    report("docker compose down --volumes has left nothing")
    results["stale_endpoints"] = compose.stale
    if compose.stale:
        report(f"the engine had kept the endpoints of {', '.join(compose.stale)}, which were gone; they were disconnected by hand")
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
