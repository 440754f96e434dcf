"""The ordinary process of a stage, or the gateway, that ends at a given point.

Settings come from the environment, as for ``tierstream worker``. ``--kill`` and ``--stop`` name points of the stage, as
POINT or POINT:COUNT (at which of its calls); ``--mutate`` a commit order broken on purpose.
"""

import argparse
import dataclasses

from streams.cli import run
from tests.faults.crash_points import POINTS, Point, arm, kill, stop_at
from tests.faults.mutations import MUTATIONS


def main() -> None:
    """Arm the points and run the process; returns never."""
    parser = argparse.ArgumentParser(prog="crashing_worker", description=__doc__)
    parser.add_argument("stage", choices=POINTS)
    parser.add_argument("--kill", metavar="POINT", help="SIGKILL ourselves there")
    parser.add_argument("--stop", metavar="POINT", help="SIGSTOP ourselves there")
    parser.add_argument("--mutate", choices=MUTATIONS, action="append", default=[])
    arguments = parser.parse_args()
    # Points first: a mutation that makes a step twice then has a point at each.
    if arguments.kill:
        arm(_point(arguments.stage, arguments.kill), kill)
    if arguments.stop:
        point = _point(arguments.stage, arguments.stop)
        arm(point, stop_at(point.name))
    for name in arguments.mutate:
        MUTATIONS[name]()
    if arguments.stage == "gateway":
        run.gateway()
    else:
        run.worker([run.StageName(arguments.stage)])


def _point(stage: str, given: str) -> Point:
    name, _, count = given.partition(":")
    (found,) = [point for point in POINTS[stage] if point.name == name]
    return dataclasses.replace(found, count=int(count)) if count else found
