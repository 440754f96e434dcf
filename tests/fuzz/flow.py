"""One request after the other through gateway, normalise and classify, in one process and without a broker; and the law that each must keep.

The app, the stages and the slices are the product's own. Only Kafka is a double: what the gateway produces is handed to normalise, and what
that produces to classify.
"""

import io
import json
import logging
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.audit import decide as audit
from agents.audit.record import DeadLetter
from agents.classify.stage import ClassifyStage
from agents.normalise.decide import Rules
from agents.normalise.stage import NormaliseStage
from schemas.reasons import DEAD_LETTER_REASONS, Reason
from streams.demo.deliveries import WEBHOOKS
from streams.engine.changelog import TablePartition
from streams.engine.slices import Slices
from streams.engine.table_stage import Effect, TableStage
from streams.engine.transactions import Output
from streams.errors import StageFailed
from streams.gateway.app import create_app
from streams.gateway.http import MAX_BODY_BYTES
from streams.gateway.openapi import statuses
from streams.gateway.signatures import sign_razorpay
from streams.kafka.records import Record
from streams.logging import configure_logging
from streams.settings import Settings, load_plans
from tests.fuzz.bodies import NOW, Request
from tests.gateway_doubles import RememberingProducer, ask
from tests.logs import logging_restored
from tests.webhooks import record

PLANS = Path(__file__).parents[2] / "examples" / "plans.toml"
SECRET, TOKEN = "fuzz-webhook-secret", "fuzz-ingest-token"
SETTINGS = Settings(
    partitions=1, razorpay_webhook_secrets=SECRET, ingest_tokens=f"fuzz:{TOKEN}", log_level="debug", log_format="json", grace_days=7
)
NEVER = float("inf")
TOGETHER = 500
"""Records in a slice of several."""

FORGED_OF_A_PEER = 200
"""So many forged requests are sent of one address: the gateway makes one wait that sends more of them in a minute."""

MAX_DEPTH_OF_ALL = 400
"""Down to so many levels every reader of JSON agrees on what is an object."""

TEAM_EVENTS, AUDIT_EVENTS, DEAD_LETTERS, RAZORPAY = "team.events", "audit.events", "dead.letters", "razorpay.webhooks"

_SENTENCE = re.compile(r"[A-Z][^\x00-\x1f\x7f\u2028\u2029]{5,498}[.?…]")
_NO_OUTCOME = frozenset({Reason.HANDLER_FAILED, Reason.REROUTED})
"""What no body may lead to: a stage that raised, and a gateway that read another subscription than normalise."""


class Broken(AssertionError):
    """What one request broke of the law."""


def require(holds: bool, sentence: str) -> None:
    """Raise Broken with ``sentence`` unless ``holds``."""
    if not holds:
        raise Broken(sentence)


class WithoutRuns(TableStage):
    """A stage without its fast path."""

    def __init__(self, stage: TableStage) -> None:
        self.name, self.settings, self.by_key = stage.name, stage.settings, stage.by_key
        self._stage = stage

    def effect(self, record: Record, row: Any) -> Effect:
        return self._stage.effect(record, row)

    def pack(self, row: Any) -> bytes:
        return self._stage.pack(row)

    def unpack(self, key: bytes, packed: bytes) -> Any:
        return self._stage.unpack(key, packed)


class Stage:
    """A stage with the slices that give it its records, one at a time; and beside them, with its fast path and a table of their own, ``TOGETHER`` at a time."""

    def __init__(self, stage: TableStage) -> None:
        self.name = stage.name
        self._table, self._table_together = TablePartition(0), TablePartition(0)
        self._slices = Slices(SETTINGS, WithoutRuns(stage), f"changelog of {stage.name}", self._table)
        self._slices_together = Slices(SETTINGS, stage, f"changelog of {stage.name}", self._table_together)
        self._offsets: Counter[str] = Counter()
        self._outcomes, self._outcomes_together = Counter[Reason](), Counter[Reason]()
        self._waiting: list[Record] = []

    def decide(self, topic: str, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]], at: int) -> "Decided":
        """Work in one record; return its one outcome, and what follows from it by topic. Raises Broken."""
        consumed = record(value, key, topic=topic, offset=self._offsets[topic], headers=tuple(headers), timestamp=at * 1000)  # type: ignore[arg-type]
        self._offsets[topic] += 1
        self._waiting.append(consumed)
        if len(self._waiting) == TOGETHER:
            self._decide_together()
        outputs: list[Output] = []

        def produce(more: Iterable[Output]) -> None:
            outputs.extend(more)

        end, outcomes = self._slices.fill([consumed], 0, 1, NEVER, produce)
        require(end == 1 and outcomes.total() == 1, f"{self.name} counted {outcomes.total()} outcomes of one record")
        self._outcomes += outcomes
        (reason,) = outcomes
        require(reason not in _NO_OUTCOME, f"{self.name} ended a record as {reason.value}")
        decided = Decided(consumed, reason, outputs)
        expected = 1 if reason in DEAD_LETTER_REASONS else 0
        dead = decided.of(DEAD_LETTERS)
        require(len(dead) == expected, f"{self.name} wrote {len(dead)} dead letters for a record that is {reason.value}")
        for letter in dead:
            require((letter.key, letter.value) == (key, value), f"a dead letter of {self.name} is not the record that it was")
            require(dict(letter.headers).get("dlq-reason") == reason.value.encode(), f"a dead letter of {self.name} names another reason")
        return decided

    def finish(self) -> None:
        """Require that the records together have left what they left one at a time. Raises Broken."""
        self._decide_together()
        differ = (self._outcomes - self._outcomes_together) + (self._outcomes_together - self._outcomes)
        require(not differ, f"in slices {self.name} counts others of {', '.join(reason.value for reason in differ)}")
        require(self._table.rows == self._table_together.rows, f"in slices {self.name} leaves other rows")

    def _decide_together(self) -> None:
        records, self._waiting, at = self._waiting, [], 0
        while at < len(records):
            at, outcomes = self._slices_together.fill(records, at, TOGETHER, NEVER, lambda outputs: None)
            self._outcomes_together += outcomes


@dataclass(frozen=True, slots=True)
class Decided:
    """What became of one record."""

    record: Record
    reason: Reason
    outputs: list[Output]

    def of(self, topic: str) -> list[Output]:
        """The outputs on a topic."""
        return [output for output in self.outputs if output.topic == topic]


@dataclass
class Flow:
    """The way of all requests of one run, the outcomes by place, and what was broken: the number of a request and a sentence."""

    stages: Sequence[TableStage] = ()
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    broken: list[tuple[int, str]] = field(default_factory=list)
    requests: int = 0
    log_lines: int = 0

    def __post_init__(self) -> None:
        rules = Rules(load_plans(PLANS), grace_days=7, grace_reminder_days=(3, 6))
        normalise, classify = self.stages or (NormaliseStage(SETTINGS, rules), ClassifyStage(SETTINGS))
        self.normalise, self.classify = Stage(normalise), Stage(classify)
        self._producer, self._now, self._forged = RememberingProducer(), float(NOW), 0
        self._app = create_app(SETTINGS, self._producer, lambda: self._now)

    async def feed(self, request: Request, log: io.StringIO) -> None:
        """Take one request all the way, and note what it breaks. ``log`` gets the lines of the process."""
        self.requests += 1
        try:
            await self._take(request)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the finding
            sentence = str(error) if isinstance(error, Broken) else f"{type(error).__name__} came out: {error}"
            self.broken.append((request.number, sentence))
        written = log.getvalue()
        if written:
            log.seek(0)
            log.truncate()
            self.log_lines += written.count("\n")
            said = [address for address in request.addresses if address in written or json.dumps(address)[1:-1] in written]
            if said or SECRET in written or TOKEN in written:
                self.broken.append((request.number, "a log line holds an address of the body, or a secret"))

    def finish(self) -> None:
        """Note what only all requests together can break."""
        for stage in (self.normalise, self.classify):
            try:
                stage.finish()
            except (Broken, StageFailed) as broken:
                self.broken.append((self.requests, str(broken)))

    async def _take(self, request: Request) -> None:
        self._now, self._producer.records = request.at + 0.25, []
        status, answer = await ask(self._app, request.route, _parts(request), self._headers(request), client=self._peer(request))
        landed = self._producer.records
        self._count(f"gateway, {request.route}", str(status))
        require(status in statuses(request.route, "post"), f"the gateway answered {status}, which is no documented status")
        require(status < 500, f"the gateway answered {status}")
        require((status == 401) == request.forged or status == 413, f"a request with forged={request.forged} got {status}")
        require(isinstance(json.loads(answer), dict), "an answer is no JSON object")
        topics = [each.topic for each in landed]
        if request.route != WEBHOOKS:
            ids = json.loads(answer).get("ids", ())
            require(topics == [TEAM_EVENTS] * len(ids), f"{status} with {len(ids)} ids and records on {topics}")
            require(status == 202 or not topics, f"{status} with records on {topics}")
            for each in landed:
                self._classify(each.topic, each.key, each.value, each.headers, request, own=False)
            return
        require(topics == {200: [RAZORPAY], 400: [DEAD_LETTERS]}.get(status, []), f"{status} with records on {topics}")
        if (is_object := _is_object(request.body)) is not None and status in (200, 400):
            require(is_object == (status == 200), f"a body that is {'an' if is_object else 'no'} object got {status}")
        for each in landed:
            require(each.value == request.body, "what has landed is not the body, byte for byte")
            if each.topic == DEAD_LETTERS:
                self._require_sentence(dict(each.headers).get("dlq-error"), request)
            else:
                self._normalise(each.key, each.value, each.headers, request)

    def _normalise(self, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes | None]], request: Request) -> None:
        decided = self._decide(self.normalise, RAZORPAY, key, value, headers, request)
        facts = decided.of(TEAM_EVENTS)
        require(bool(facts) == (decided.reason is Reason.NORMALISED), f"{decided.reason.value} with {len(facts)} facts")
        for fact in facts:
            self._classify(fact.topic, fact.key, fact.value, fact.headers, request, own=True)

    def _classify(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
        request: Request,
        *,
        own: bool,
    ) -> None:
        decided = self._decide(self.classify, topic, key, value, headers, request)
        is_dead = decided.reason in DEAD_LETTER_REASONS
        require(not (own and is_dead), f"classify can not act on what normalise wrote: {decided.reason.value}")
        require(
            not is_dead or decided.reason is Reason.ID_CONFLICT, f"classify can not act on what the gateway took: {decided.reason.value}"
        )

    def _decide(
        self,
        stage: Stage,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
        request: Request,
    ) -> Decided:
        decided = stage.decide(topic, key, value, headers, request.at)
        self._count(stage.name, decided.reason.value)
        for letter in decided.of(DEAD_LETTERS):
            self._require_sentence(dict(letter.headers).get("dlq-error"), request)
        for event in decided.of(AUDIT_EVENTS):
            row = audit.decide(event.value)
            require(not isinstance(row, DeadLetter), f"audit can not act on what {stage.name} wrote: {row}")
        return decided

    def _require_sentence(self, error: bytes | None, request: Request) -> None:
        text = (error or b"").decode()
        require(_SENTENCE.fullmatch(text) is not None, f"a dead letter's reason is no sentence of one line: {text!r}")
        require(not any(address in text for address in request.addresses), f"a dead letter's reason holds an address: {text!r}")

    def _count(self, place: str, outcome: str) -> None:
        self.outcomes[place, outcome] += 1

    def _headers(self, request: Request) -> dict[bytes, bytes]:
        secret = "of-nobody" if request.forged else SECRET
        headers = {b"content-type": b"application/json"}
        if request.route == WEBHOOKS:
            headers[b"x-razorpay-signature"] = sign_razorpay(request.body, secret.encode()).encode()
            if request.event_id is not None:
                headers[b"x-razorpay-event-id"] = request.event_id
        else:
            headers[b"authorization"] = f"Bearer {'of-nobody' if request.forged else TOKEN}".encode()
        return headers

    def _peer(self, request: Request) -> str:
        self._forged += request.forged
        peer = self._forged // FORGED_OF_A_PEER
        return f"198.51.{peer >> 8}.{peer & 255}"


def _parts(request: Request) -> list[bytes]:
    """The body as it arrives: whole, or in two pieces."""
    body, chance = request.body, random.Random(request.number)
    if chance.random() < 0.9 or len(body) < 2:
        return [body]
    at = chance.randrange(1, len(body))
    return [body[:at], body[at:]]


def _is_object(body: bytes) -> bool | None:
    """Whether a body is a JSON object, by another reader than the product's; None where readers differ or it is longer than is taken."""
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH_OF_ALL or len(body) > MAX_BODY_BYTES:
        return None
    try:
        return isinstance(json.loads(body.decode(), parse_constant=_no_constant, parse_int=float), dict)
    except ValueError:
        return False


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


@contextmanager
def captured_log() -> Iterator[io.StringIO]:
    """Have the log as a process has it, in a buffer instead of on stderr."""
    with logging_restored():
        configure_logging(SETTINGS)
        (handler,) = logging.getLogger().handlers
        assert isinstance(handler, logging.StreamHandler)
        buffer = io.StringIO()
        handler.setStream(buffer)
        yield buffer
