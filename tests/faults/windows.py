"""What a window of time looked like from outside, to a service that publishes and to a sender of webhooks; and what was promised."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from rich.table import Table

from streams.publisher import Stats

PUBLISH_P99_SECONDS = 0.001
ANSWER_SECONDS = 2.5
NEARLY_NORMAL = 1.1
FAR_FROM_NORMAL = 2.0
NOISE_SECONDS = 0.02
"""A gateway that waited for PostgreSQL or Loops would be late by seconds; less than this is the machine's own."""


class Sort(StrEnum):
    """What a window is for."""

    NORMAL = "normal"
    OUTAGE = "outage"
    BACK = "back"  # from the end of an outage until all is well


@dataclass
class Window:
    """What was measured between two moments. Times in seconds; an answer is its status, 0 for none, and the time it took."""

    name: str
    sort: Sort
    kafka: bool = False
    """Whether it is an outage of Kafka's, when the gateway may answer 503."""
    began: float = 0.0
    """Monotonic seconds."""
    seconds: float = 0.0
    publish: list[float] = field(default_factory=list)
    answers: list[tuple[int, float]] = field(default_factory=list)
    counted: Stats = field(default_factory=Stats)
    """What the publisher's counts grew by."""

    @property
    def answer_seconds(self) -> list[float]:
        """How long each answer took."""
        return [took for _, took in self.answers]

    @property
    def statuses(self) -> dict[str, int]:
        """Answers by status."""
        counts = Counter(status for status, _ in self.answers)
        return {str(status) if status else "none": counts[status] for status in sorted(counts)}

    def as_json(self, ratio: float | None) -> dict[str, Any]:
        """One row of the results file."""
        return {
            "window": self.name,
            "seconds": round(self.seconds, 1),
            "published": len(self.publish),
            "publish_us": {name: round(value * 1e6) for name, value in spread(self.publish).items()},
            "sent": self.counted.sent,
            "spooled": self.counted.spooled,
            "dropped": self.counted.dropped,
            "gateway_ms": {name: round(value * 1e3, 2) for name, value in spread(self.answer_seconds).items()},
            "answers": self.statuses,
            "gateway_p99_to_normal": ratio and round(ratio, 2),
        }


def quantile(values: Sequence[float], part: float) -> float:
    """The smallest value that at least ``part`` of ``values`` do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, -int(-len(ordered) * part // 1) - 1)] if ordered else 0.0


def spread(values: Sequence[float]) -> dict[str, float]:
    """p50, p99 and the largest."""
    return {"p50": quantile(values, 0.5), "p99": quantile(values, 0.99), "max": max(values, default=0.0)}


def normal_p99(windows: Sequence[Window], index: int) -> float:
    """p99 of the gateway's answers in the nearest normal windows before and after the one at ``index``, together."""
    before = [window for window in windows[:index] if window.sort is Sort.NORMAL][-1:]
    after = [window for window in windows[index + 1 :] if window.sort is Sort.NORMAL][:1]
    return quantile([took for window in (*before, *after) for took in window.answer_seconds], 0.99)


def ratios(windows: Sequence[Window]) -> list[float | None]:
    """For each outage, p99 of the gateway's answers in relation to that of the normal windows around it."""
    return [
        quantile(window.answer_seconds, 0.99) / normal if window.sort is Sort.OUTAGE and (normal := normal_p99(windows, index)) else None
        for index, window in enumerate(windows)
    ]


def broken_promises(windows: Sequence[Window], *, publish_p99_seconds: float = PUBLISH_P99_SECONDS) -> Iterator[str]:
    """One sentence for each promise that a window breaks.

    The gateway's p99 without PostgreSQL or Loops is to be within a tenth of normal. Two normal windows of a busy machine differ by
    more than that, so what is judged is only whether it is out of reach of noise: more than twice the normal one, and 20 ms above it.
    """
    for index, window in enumerate(windows):
        if not window.publish or not window.answers:
            yield f"{window.name}: nothing was measured"
        p99 = quantile(window.publish, 0.99)
        if p99 >= publish_p99_seconds:
            yield f"{window.name}: p99 of publish() is {p99 * 1e6:.0f} µs"
        if window.counted.dropped:
            yield f"{window.name}: {window.counted.dropped} events were dropped"
        late = [took for took in window.answer_seconds if took > ANSWER_SECONDS]
        if late:
            yield f"{window.name}: {len(late)} requests waited longer than {ANSWER_SECONDS} s, {max(late):.1f} s the longest"
        allowed = {200, 503} if window.kafka else {200}
        wrong = Counter(status for status, _ in window.answers if status not in allowed)
        if wrong:
            yield f"{window.name}: answers {dict(wrong)}"
        if window.sort is Sort.OUTAGE and not window.kafka:
            normal, found = normal_p99(windows, index), quantile(window.answer_seconds, 0.99)
            if found > normal * FAR_FROM_NORMAL and found > normal + NOISE_SECONDS:
                yield f"{window.name}: p99 of the gateway is {found * 1e3:.1f} ms, and {normal * 1e3:.1f} ms normally"


def table(windows: Sequence[Window]) -> Table:
    """All windows, for a terminal."""
    shown = Table(title="While a service is away", title_justify="left")
    shown.add_column("window")
    for heading in ("s", "publish() p50 µs", "p99", "max", "sent", "spooled", "dropped", "gateway p50 ms", "p99", "max"):
        shown.add_column(heading, justify="right")
    shown.add_column("answers")
    shown.add_column("p99 to normal", justify="right")
    for window, ratio in zip(windows, ratios(windows), strict=True):
        publish, gateway, counted = spread(window.publish), spread(window.answer_seconds), window.counted
        style = "yellow" if not window.kafka and ratio and ratio > NEARLY_NORMAL else ""
        shown.add_row(
            window.name,
            f"{window.seconds:.0f}",
            *(f"{value * 1e6:.0f}" for value in publish.values()),
            *(str(count) for count in (counted.sent, counted.spooled, counted.dropped)),
            *(f"{value * 1e3:.1f}" for value in gateway.values()),
            " ".join(f"{count} of {status}" for status, count in window.statuses.items()),
            "" if ratio is None else f"[{style}]{ratio:.2f}[/]" if style else f"{ratio:.2f}",
        )
    return shown
