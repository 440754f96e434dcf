"""The command line of ``make compose-test``."""

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from deploy.rehearsal.docker import Compose, Docker, RehearsalFailed
from deploy.rehearsal.engine import engine
from deploy.rehearsal.images import ROOT, provide_images
from deploy.rehearsal.steps import WORKERS, Addresses, Rehearsal, Result, check_limits, check_secrets, taken_down
from streams.embedded.process import free_ports
from streams.settings import load_settings
from tests.load import OLDEST_SECONDS

RESULTS = ROOT / "bench" / "results" / "compose.json"
PROJECT = "tierstream-rehearsal"
PASSWORD = "rehearsal-password"
LOOPS_PER_SECOND = 200
SECRETS = ("demo-secret", "demo-ingest", "demo-loops", "demo-console", "whsec_", PASSWORD)


def main() -> int:
    """Run all of it; 0 when nothing was missing, wrong or doubled."""
    parser = argparse.ArgumentParser(description="Run docker-compose.yml on a real engine, break it, and count what came out.")
    parser.add_argument("--work", type=Path, help="keep engine and images here for the next time; without it, all of it goes at the end")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--out", type=Path, default=RESULTS, help="write times and counts here")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    # Short: the engine's socket lies in it, and its path may have a hundred letters.
    work = arguments.work or Path(tempfile.mkdtemp(prefix="rehearsal-"))
    try:
        with engine(work.absolute(), console) as (docker, is_own):
            report = _rehearse(docker, work.absolute(), console, arguments.seed, may_build=is_own)
    except RehearsalFailed as error:
        console.print(f"[red]{error}[/red]", markup=True)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; the stack and its engine are stopped")
        return 130
    finally:
        if arguments.work is None:
            shutil.rmtree(work, ignore_errors=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def _rehearse(docker: Docker, work: Path, console: Console, seed: int, *, may_build: bool) -> dict[str, object]:
    images = provide_images(docker, work, console, may_build=may_build)
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
    settings = load_settings(kafka_bootstrap_servers=f"127.0.0.1:{kafka}", partitions=8, replication_factor=1)
    dsn = f"postgresql://tierstream:{PASSWORD}@127.0.0.1:{postgres}/tierstream"
    addresses = Addresses(f"http://127.0.0.1:{gateway}", f"http://127.0.0.1:{loops}", dsn, settings)
    compose = Compose(docker, ROOT, PROJECT, environment)
    console.print(f"seed {seed} (repeat with --seed {seed})")
    return asyncio.run(_steps(compose, addresses, console, seed, images))


async def _steps(compose: Compose, addresses: Addresses, console: Console, seed: int, images: dict[str, str]) -> dict[str, object]:
    rehearsal = Rehearsal(compose, addresses, console.print, seed)
    async with taken_down(compose):
        began = time.monotonic()
        console.print("docker compose up --detach --wait --build")
        await asyncio.to_thread(compose.run, "up", "--detach", "--wait", "--build")
        up_seconds = round(time.monotonic() - began, 1)
        await rehearsal.step("nothing breaks", lambda: asyncio.sleep(0))
        await rehearsal.step("workers and gateway killed", lambda: rehearsal.kill(*WORKERS, "gateway"))
        await rehearsal.step("Kafka killed", lambda: rehearsal.kill("kafka"))
        await rehearsal.step("PostgreSQL killed", lambda: rehearsal.kill("postgres"))
        await rehearsal.step("classify scaled to two and back", rehearsal.scale)
        await rehearsal.step("docker compose restart", rehearsal.restart)
        await rehearsal.step("docker compose down and up", rehearsal.down_and_up)
        await asyncio.to_thread(check_limits, compose)
        await asyncio.to_thread(check_secrets, compose, SECRETS)
    console.print(_table(rehearsal.results))
    console.print(f"built and healthy after {up_seconds:g} s; nothing is missing, wrong or doubled, and nothing is left behind")
    return {"seed": seed, "images": images, "up_seconds": up_seconds, "steps": [asdict(result) for result in rehearsal.results]}


def _table(results: list[Result]) -> Table:
    table = Table("step", "s", "posts", "sent again", "longest wait s", "rows", "mails", "healthy again after s", box=None)
    for result in results:
        healthy = ", ".join(f"{name} {seconds:g}" for name, seconds in result.healthy_after.items())
        counts = (result.posts, result.sent_again, result.longest_wait, result.rows, result.mails)
        table.add_row(result.name, f"{result.seconds:g}", *(f"{count:,}" for count in counts), healthy)
    return table


if __name__ == "__main__":
    sys.exit(main())
