"""`python -m jepsen cover`: the runs that together try every pair, one after the other, in one sitting or in many.

Every run is a `python -m jepsen test` of its own. What came of it is a line of `STORE/cover-SEED.jsonl`; runs that have
a line are not run again, unless they are named. A run that could not tell counts as run: its line says so. Once the
plan is done, further runs are drawn for pairs that did not come in it, until there were so many minutes in all.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import msgspec

from jepsen import store
from jepsen.apart import COULD_NOT_RUN, Outcome, run_apart
from jepsen.availability import Availability, FaultFigures, summary
from jepsen.faults import FAULTS
from jepsen.pairs import Pair, Planned, every_pair, one_more, plan

LOADS: dict[str, tuple[str, ...]] = {
    "log over HTTP": ("--workload=log",),
    "log over Kafka": ("--workload=log", "--client=kafka"),
    "log, both, subscribed": ("--workload=log", "--client=both", "--sub-via=subscribe"),
    "txn": ("--workload=txn",),
    "queue": ("--workload=queue",),
    "groups": ("--workload=groups",),
    "register": ("--workload=register",),
    "churn": ("--workload=churn",),
}
NODES = (3, 5)
RHYTHM = ("--hold=5", "--quiet=3")
AROUND_SECONDS = 90.0
"""What a run takes beyond its time limit, about: start, healing, last reads, verdict."""


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of one run."""

    run: int
    load: str
    nodes: int
    faults: tuple[str, ...]
    seed: int
    began: str
    seconds: float
    """Of load and faults."""
    outcome: Outcome

    @property
    def pairs(self) -> set[Pair]:
        """Those that came: a run may end before each of its faults has had its turn."""
        return Planned(self.load, self.nodes, self.outcome.faults).pairs if self.outcome.operations else set()


@dataclass(frozen=True)
class Cover:
    """What is planned, and how each run is done. Seconds; `budget` bounds this sitting, `minutes` is what all sittings
    are to come to."""

    seed: int
    time_limit: float
    rate: float
    concurrency: int
    together: int
    folder: Path
    budget: float
    minutes: float = 0.0

    @property
    def path(self) -> Path:
        return self.folder / f"cover-{self.seed}.jsonl"

    def plan(self) -> list[Planned]:
        return plan(list(LOADS), NODES, list(FAULTS), self.together, self.seed)

    def rows(self) -> dict[int, Row]:
        """What is done; of a run that was done again, the last time."""
        if not self.path.exists():
            return {}
        lines = self.path.read_bytes().splitlines()
        return {row.run: row for row in (msgspec.json.decode(line, type=Row) for line in lines)}

    def go_on(self, again: frozenset[int], say: Callable[[str], None]) -> int:
        """Does what is left, while there is time for it. Returns how many runs are left."""
        ends = time.monotonic() + self.budget
        planned = self.plan()
        done = self.rows().keys() - again
        left = [number for number in range(1, len(planned) + 1) if number not in done]
        while left or self.minutes_done() < self.minutes:
            if time.monotonic() + self.time_limit + AROUND_SECONDS > ends:
                say(f"no time for another run; {len(left)} of {len(planned)} are left")
                break
            number = left.pop(0) if left else max(self.rows()) + 1
            row = self._one(number, planned[number - 1] if number <= len(planned) else self.further(number))
            with self.path.open("ab") as file:
                file.write(msgspec.json.encode(row) + b"\n")
            run = f"{row.run} of {len(planned)}: {row.load}, {row.nodes} nodes, {', '.join(row.faults)}"
            say(f"{run}: {row.outcome.text}")
            if number > len(planned) and row.outcome.verdict == COULD_NOT_RUN:
                break  # the next would not, either
        return len(left)

    def minutes_done(self) -> float:
        """Of load and faults."""
        return sum(row.seconds for row in self.rows().values() if row.outcome.operations) / 60

    def pairs(self) -> tuple[set[Pair], set[Pair]]:
        """(those there are, those that came)."""
        return every_pair(list(LOADS), NODES, list(FAULTS)), {
            pair for row in self.rows().values() for pair in row.pairs
        }

    def further(self, number: int) -> Planned:
        """A run beyond the plan, for what has not come yet."""
        every, tried = self.pairs()
        random = Random(f"cover {self.seed}, run {number}")
        return one_more(list(LOADS), NODES, list(FAULTS), self.together, every - tried, random)

    def _one(self, number: int, this: Planned) -> Row:
        seed = self.seed * 1000 + number
        began = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        arguments = [
            *(*LOADS[this.load], f"--nodes={this.nodes}", f"--faults={','.join(this.faults)}", f"--seed={seed}"),
            *(f"--time-limit={self.time_limit}", f"--rate={self.rate}", f"--concurrency={self.concurrency}", *RHYTHM),
        ]
        outcome = run_apart(arguments, f"cover-{self.seed}-{number:02}", self.folder)
        return Row(number, this.load, this.nodes, this.faults, seed, began, self.time_limit, outcome)


def table(cover: Cover) -> Iterator[str]:
    """The runs that are done, as lines of Markdown."""
    rows = [row for _, row in sorted(cover.rows().items())]
    yield "| run | load | nodes | faults, in rotation | times | operations | ok | verdict |"
    yield "| --: | --- | --: | --- | --: | --: | --: | --- |"
    for row in rows:
        done = row.outcome
        share = f"{100 * done.ok / done.operations:.0f} %" if done.operations else "-"
        found = f": {', '.join(done.found)}" if done.found else ""
        yield (
            f"| {row.run} | {row.load} | {row.nodes} | {', '.join(row.faults)} | {done.broken} | {done.operations:,} "
            f"| {share} | {done.verdict}{found} |"
        )
    every, tried = cover.pairs()
    operations = sum(row.outcome.operations for row in rows)
    yield ""
    yield from _availability(rows)
    yield ""
    yield (
        f"{len(rows)} runs, {cover.minutes_done():.0f} minutes of load and faults, {operations:,} operations; "
        f"{len(every & tried)} of {len(every)} pairs tried."
    )


def _availability(rows: Iterable[Row]) -> Iterator[str]:
    """Of all runs together, by kind of fault, as lines of Markdown."""
    by_kind: dict[str, list[FaultFigures]] = {}
    for row in rows:
        results = store.read_json(Path(row.outcome.folder) / store.RESULTS) if row.outcome.folder else {}
        if results:
            for each in msgspec.convert(results["availability"], type=Availability).faults:
                by_kind.setdefault(each.fault.partition(":")[0], []).append(each)
    yield "| fault | times | ok meanwhile | every partition takes writes, from its begin | from its end | not seen |"
    yield "| --- | --: | --: | --- | --- | --: |"
    for kind, figures in sorted(by_kind.items()):
        of_all = summary(kind, figures)
        share = "-" if of_all.ok_share is None else f"{of_all.ok_share:.0%}"
        begin = _seconds(of_all.writable_after_begin_median, of_all.writable_after_begin_max)
        end = _seconds(of_all.writable_after_end_median, of_all.writable_after_end_max)
        yield f"| {kind} | {of_all.times} | {share} | {begin} | {end} | {of_all.never} |"


def _seconds(median: float | None, longest: float | None) -> str:
    return "-" if median is None or longest is None else f"{median:.1f} s, longest {longest:.1f} s"
