"""What every checker takes and gives: rules in, findings out, and the verdict that follows from them."""

from collections.abc import Iterable
from fractions import Fraction

import msgspec

from jepsen.edn import Char, Keyword, Symbol, write
from jepsen.history import NEVER, Op

EXAMPLES_MAX = 32
"""Examples kept of one anomaly; the count goes on."""

SHOWN_CHARACTERS_MAX = 240
"""Of an operation's value in an example."""

Example = dict[str, object]


class NotJudgeable(Exception):
    """The history does not hold what this checker judges; says what is missing."""


class Rules(msgspec.Struct, frozen=True):
    """How to judge. `sub_via` is "assign" or "subscribe": how consumers got their keys. `jepsen`: as Jepsen's own
    checker does."""

    sub_via: str = "assign"
    jepsen: bool = False


class Findings:
    """Anomalies by name: how many, and the first EXAMPLES_MAX of each."""

    def __init__(self) -> None:
        self.examples: dict[str, list[Example]] = {}
        self.counts: dict[str, int] = {}
        self.allowed: set[str] = set()
        self.unknown: list[str] = []
        """What could not be settled; without bad anomalies the verdict is then unknown."""

    def add(self, name: str, **example: object) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1
        if self.counts[name] <= EXAMPLES_MAX:
            self.examples.setdefault(name, []).append({key: plain(value) for key, value in example.items()})

    def allow(self, *names: str) -> None:
        """These are worth knowing and not bad."""
        self.allowed.update(names)


class Verdict(msgspec.Struct, frozen=True):
    """`valid` only if nothing bad was found and nothing stayed unknown. Exit status 0, 1 and 2 follow from it."""

    valid: bool
    anomalies: dict[str, list[Example]]
    bad: list[str]
    allowed: list[str]
    counts: dict[str, int]
    unknown: list[str]

    @property
    def exit_status(self) -> int:
        return 1 if self.bad else 2 if self.unknown else 0


def verdict_of(findings: Findings) -> Verdict:
    names = sorted(findings.counts)
    bad = [name for name in names if name not in findings.allowed]
    return Verdict(
        valid=not bad and not findings.unknown,
        anomalies={name: findings.examples[name] for name in names},
        bad=bad,
        allowed=[name for name in names if name in findings.allowed],
        counts={name: findings.counts[name] for name in names},
        unknown=list(findings.unknown),
    )


def plain(value: object) -> object:
    """`value` as JSON can hold it; operations as their line in the history, cut short."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Op):
        return shown(value)
    if isinstance(value, dict):
        return {key if isinstance(key, str) else write(key): plain(held) for key, held in value.items()}
    if isinstance(value, (Keyword, Symbol, Char, Fraction)):
        return write(value)
    if isinstance(value, (set, frozenset)):
        return [plain(one) for one in sorted(value, key=write)]
    if isinstance(value, Iterable):
        return [plain(one) for one in value]
    return write(value)


def shown(op: Op) -> Example:
    """An operation in an example: where to find it, and what it was."""
    value = write(value_of(op))
    if len(value) > SHOWN_CHARACTERS_MAX:
        value = value[:SHOWN_CHARACTERS_MAX] + "..."
    ended = None if op.ended == NEVER else op.ended
    return {"index": ended, "invoked": op.invoked, "process": op.process, "type": op.type, "f": op.f, "value": value}


def value_of(op: Op) -> object:
    """The completion's `:value`; micro-operations put together again, all reads in one poll."""
    if not op.sends and not op.reads:
        return op.value
    made: list[object] = [
        (Keyword("send"), key, value if offset is None else (offset, value)) for key, offset, value in op.sends
    ]
    if op.reads:
        polled = {key: tuple(zip(offsets, values, strict=True)) for key, offsets, values in op.reads}
        made.append((Keyword("poll"), polled))
    return tuple(made)
