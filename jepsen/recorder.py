"""Writes down what happened, in the order it happened: the history's lines, and samples for figures and plots.

One recorder a run, used from one event loop. Lines go out as they come, so a run that dies leaves what it had seen.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from jepsen.history import line

NOTHING: Mapping[str, object] = {}


@dataclass(frozen=True)
class Op:
    """What a worker is to do next: `f` and `value` as they stand in the history, `extra` further keys of its line.

    `keys` are the partitions or names that it touches, for figures of availability; `hint` is for the client alone."""

    f: str
    value: object = None
    extra: Mapping[str, object] = field(default_factory=dict)
    keys: tuple[int, ...] = ()
    hint: str = ""


@dataclass(frozen=True)
class Outcome:
    """How an operation ended: "ok", "fail" (it certainly did not happen) or "info" (nobody knows)."""

    type: str
    value: object = None
    extra: Mapping[str, object] = field(default_factory=dict)
    keys: tuple[int, ...] | None = None
    """The keys for which it ended ok, where that is not all of the operation's."""
    reached: Mapping[int, int] = field(default_factory=dict)
    """Per key, the offset at which its reader goes on; not recorded."""

    @classmethod
    def failed(cls, error: str) -> "Outcome":
        return cls("fail", extra={"error": error[:300]})

    @classmethod
    def unknown(cls, error: str) -> "Outcome":
        return cls("info", extra={"error": error[:300]})


@dataclass(frozen=True, slots=True)
class Sample:
    """One completed operation. Times are seconds since the run began."""

    began: float
    ended: float
    f: str
    type: str
    keys: tuple[int, ...]
    final: bool


@dataclass(slots=True)
class FaultSpan:
    """A fault, from the moment it began until it was healed (None: it still holds)."""

    name: str
    began: float
    ended: float | None
    detail: str


class Recorder:
    """See the module's text."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.samples: list[Sample] = []
        self.faults: list[FaultSpan] = []
        self.final = False
        """Whether the last phase runs, in which nothing is broken any more."""
        self._file: TextIO = path.open("w", encoding="utf-8")
        self._index = 0
        self._began = time.monotonic_ns()
        self._open: dict[int, tuple[Op, int]] = {}

    @property
    def now(self) -> float:
        return (time.monotonic_ns() - self._began) / 1e9

    def invoke(self, process: int, op: Op) -> None:
        self._open[process] = op, self._write("invoke", process, op.f, op.value, op.extra)

    def complete(self, process: int, outcome: Outcome) -> Sample:
        op, began = self._open.pop(process)
        value = op.value if outcome.value is None else outcome.value
        ended = self._write(outcome.type, process, op.f, value, outcome.extra)
        keys = op.keys if outcome.keys is None else outcome.keys
        sample = Sample(began / 1e9, ended / 1e9, op.f, outcome.type, keys, self.final)
        self.samples.append(sample)
        return sample

    def nemesis(self, f: str, value: object = None) -> None:
        """A line that no client wrote. `value` in EDN's types."""
        from jepsen.edn import Keyword

        self._write("info", Keyword("nemesis"), f, value, NOTHING)

    def began_fault(self, name: str, detail: str) -> FaultSpan:
        span = FaultSpan(name, self.now, None, detail)
        self.faults.append(span)
        self.nemesis(f"start-{name}", detail)
        return span

    def ended_fault(self, span: FaultSpan) -> None:
        span.ended = self.now
        self.nemesis(f"stop-{span.name}", span.detail)

    def close(self) -> None:
        self._file.close()

    def _write(self, kind: str, process: object, f: str, value: object, extra: Mapping[str, object]) -> int:
        time_ns = time.monotonic_ns() - self._began
        entry = {"index": self._index, "time": time_ns, "type": kind, "process": process, "f": f, "value": value}
        self._file.write(line({**entry, **extra}) + "\n")
        self._index += 1
        return time_ns
