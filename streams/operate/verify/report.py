"""What a verification found: one check for each claim, with what was compared and a sentence for each difference."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

SHOWN = 20
"""So many differences of each sort are reported one by one; the others are counted."""

Json = dict[str, object]


@dataclass
class Check:
    """One claim. ``pending`` is what is not worked in yet, which is no difference; ``unchecked`` what could not be compared."""

    name: str
    claim: str
    compared: int = 0
    pending: Counter[str] = field(default_factory=Counter)
    unchecked: Counter[str] = field(default_factory=Counter)
    _reported: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _counted: Counter[str] = field(default_factory=Counter)

    def differs(self, sort: str, sentence: str) -> None:
        """Note one difference. ``sentence`` holds ids, never an address."""
        self._counted[sort] += 1
        if len(self._reported[sort]) < SHOWN:
            self._reported[sort].append(sentence)

    @property
    def differing(self) -> int:
        """How many differences there are."""
        return self._counted.total()

    def lines(self) -> Iterator[str]:
        """The differences, the first of each sort, and how many more there are."""
        for sort, sentences in self._reported.items():
            yield from sentences
            if self._counted[sort] > len(sentences):
                yield f"… and {self._counted[sort] - len(sentences)} more like this ({sort})."


@dataclass
class Report:
    """All checks; ``notes`` say what could not be checked and why."""

    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def check(self, name: str, claim: str) -> Check:
        """Add a check and return it."""
        made = Check(name, claim)
        self.checks.append(made)
        return made

    @property
    def clean(self) -> bool:
        """Whether nothing differs. What is pending, and what could not be checked, is no difference."""
        return not any(check.differing for check in self.checks)

    def differences(self) -> list[str]:
        """Every difference that is reported, check by check."""
        return [line for check in self.checks for line in check.lines()]

    def as_json(self) -> Json:
        """The report as ``--json`` prints it."""
        return {
            "clean": self.clean,
            "checks": [
                {
                    "name": check.name,
                    "claim": check.claim,
                    "compared": check.compared,
                    "differing": check.differing,
                    "differences": list(check.lines()),
                    "pending": dict(check.pending),
                    "not_checked": dict(check.unchecked),
                }
                for check in self.checks
            ],
            "notes": self.notes,
        }
