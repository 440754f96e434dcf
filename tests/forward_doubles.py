"""A forwarder with doubles all round, for the unit tests of the forward stage."""

import uuid
from collections import Counter
from datetime import timedelta

from agents.forward.decide import Policy
from agents.forward.stage import Forwarder
from schemas.reasons import Reason
from streams.engine.backlog import Backlog
from streams.loops.client import Answer
from streams.runtime.waiting import Backoff, Waiting
from tests.stage_doubles import Clock, MemoryLedger, OpenLimiter, Record, RecordingDeadLetters, ScriptedLoops, Sleeps

POLICY = Policy(sending=True, max_age=timedelta(hours=24))


class Stage:
    """A forwarder, and the world that it works in."""

    def __init__(self, *answers: Answer, policy: Policy = POLICY, most_waiting: int = 1_000) -> None:
        self.name = f"forward-{uuid.uuid4()}"
        """What its waiting is known by, which is the process' own."""
        self.ledger = MemoryLedger()
        self.loops = ScriptedLoops(*answers)
        self.limiter = OpenLimiter()
        self.dead_letters = RecordingDeadLetters()
        self.clock = Clock()
        self.sleeps = Sleeps()
        self.policy = policy
        self.most_waiting = most_waiting
        self.forwarder = self.restarted()

    def restarted(self) -> Forwarder:
        """A new forwarder on the same world: what a worker is after a crash."""
        self.forwarder = Forwarder(
            self.ledger,
            self.loops,
            self.limiter,
            self.dead_letters,
            self.policy,
            Waiting(self.name, "loops", backoff=Backoff(1.0, 8.0), sleep=self.sleeps),
            clock=self.clock,
            sleep=self.sleeps,
            new_backlog=lambda: Backlog(self.most_waiting),
        )
        return self.forwarder

    async def handle(self, *records: Record) -> Counter[Reason]:
        return await self.forwarder.handle(records)
