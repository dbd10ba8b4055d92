"""`python -m jepsen cover`: the runs that together try every pair, one after the other, in one sitting or in many.

Every run is a `python -m jepsen test` of its own. What came of it is a line of `STORE/cover-SEED.jsonl`; runs that have
a line are not run again, unless they are named. A run that could not tell counts as run: its line says so.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from jepsen import store
from jepsen.cluster import ROOT
from jepsen.faults import FAULTS
from jepsen.pairs import Planned, plan

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
    verdict: str
    commit: str = ""
    operations: int = 0
    ok: int = 0
    broken: int = 0
    """How many times something was broken."""
    found: dict[str, str] = {}
    """Anomalies and problems by name, each with an example."""
    skipped: dict[str, str] = {}


@dataclass(frozen=True)
class Cover:
    """What is planned, and how each run is done. Seconds; `budget` bounds this sitting."""

    seed: int
    time_limit: float
    rate: float
    concurrency: int
    together: int
    folder: Path
    budget: float

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
        while left:
            if time.monotonic() + self.time_limit + AROUND_SECONDS > ends:
                say(f"no time for another run; {len(left)} of {len(planned)} are left")
                break
            row = self._one(left.pop(0), planned)
            with self.path.open("ab") as file:
                file.write(msgspec.json.encode(row) + b"\n")
            found = "".join(f"; {name}: {example}" for name, example in row.found.items())
            run = f"{row.run} of {len(planned)}: {row.load}, {row.nodes} nodes, {', '.join(row.faults)}"
            say(f"{run}: {row.verdict}{found}")
        return len(left)

    def _one(self, number: int, planned: list[Planned]) -> Row:
        this, seed, name = planned[number - 1], self.seed * 1000 + number, f"cover-{self.seed}-{number:02}"
        before = set((self.folder / name).glob("*"))
        self.folder.mkdir(parents=True, exist_ok=True)
        began = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "jepsen", "test", *LOADS[this.load]),
                *(f"--nodes={this.nodes}", f"--faults={','.join(this.faults)}", f"--seed={seed}", f"--name={name}"),
                *(f"--time-limit={self.time_limit}", f"--rate={self.rate}", f"--concurrency={self.concurrency}"),
                f"--store={self.folder.resolve()}",
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        made = sorted(set((self.folder / name).glob("*")) - before)
        results = store.read_json(made[-1] / store.RESULTS) if made else {}
        test = store.read_json(made[-1] / store.TEST) if made else {}
        blank = Row(number, this.load, this.nodes, this.faults, seed, began, self.time_limit, "could not run")
        if not results:
            said = (ended.stdout + ended.stderr).strip().splitlines()
            return msgspec.structs.replace(blank, found={"status": f"{ended.returncode}: {' '.join(said[-2:])[-300:]}"})
        return _row_of(blank, results, str(test.get("commit") or ""))


def _row_of(blank: Row, results: dict[str, object], commit: str) -> Row:
    told = msgspec.convert(results, type=_Results)
    counts = [count for kinds in told.operations.values() for count in kinds.items()]
    found = {name: str(told.anomalies.get(name, [""])[0])[:300] for name in told.bad}
    found |= {name: texts[0][:300] for name, texts in told.problems.items()}
    if told.valid is None and told.unknown:
        found["unknown"] = told.unknown[0][:300]
    return msgspec.structs.replace(
        blank,
        verdict=store.VERDICTS[told.valid],
        commit=commit[:7],
        operations=sum(number for _, number in counts),
        ok=sum(number for kind, number in counts if kind == "ok"),
        broken=len(told.availability.faults),
        found=found,
        skipped=told.skipped,
    )


class _Availability(msgspec.Struct):
    faults: list[object]


class _Results(msgspec.Struct):
    """What is needed here of results.json."""

    valid: bool | None
    anomalies: dict[str, list[object]]
    bad: list[str]
    unknown: list[str]
    problems: dict[str, list[str]]
    skipped: dict[str, str]
    operations: dict[str, dict[str, int]]
    availability: _Availability


def table(cover: Cover) -> Iterator[str]:
    """The runs that are done, as lines of Markdown."""
    rows = [row for _, row in sorted(cover.rows().items())]
    yield "| run | load | nodes | faults, in rotation | times | operations | ok | verdict |"
    yield "| --: | --- | --: | --- | --: | --: | --: | --- |"
    for row in rows:
        share = f"{100 * row.ok / row.operations:.0f} %" if row.operations else "-"
        found = f": {', '.join(row.found)}" if row.found else ""
        yield (
            f"| {row.run} | {row.load} | {row.nodes} | {', '.join(row.faults)} | {row.broken} | {row.operations:,} "
            f"| {share} | {row.verdict}{found} |"
        )
    planned = cover.plan()
    pairs = {pair for each in planned for pair in each.pairs}
    tried = {pair for row in rows if row.operations for pair in Planned(row.load, row.nodes, row.faults).pairs}
    minutes = sum(row.seconds for row in rows if row.operations) / 60
    operations = sum(row.operations for row in rows)
    yield ""
    yield (
        f"{len(rows)} of {len(planned)} runs, {minutes:.0f} minutes of load and faults, {operations:,} operations; "
        f"{len(pairs & tried)} of {len(pairs)} pairs tried."
    )
