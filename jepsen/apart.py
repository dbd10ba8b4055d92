"""A test in a process of its own, as `cover` and `prove` run one after the other: what came of it, in brief."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from jepsen import store
from jepsen.availability import Availability
from jepsen.cluster import ROOT

EXAMPLE_CHARACTERS = 300


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """`verdict` is one of store.VERDICTS, or COULD_NOT_RUN."""

    verdict: str
    folder: str = ""
    commit: str = ""
    operations: int = 0
    ok: int = 0
    broken: int = 0
    """How many times something was broken..."""
    faults: tuple[str, ...] = ()
    """... and which faults came at all."""
    found: dict[str, str] = {}
    """Anomalies and problems by name, each with an example."""
    skipped: dict[str, str] = {}

    @property
    def text(self) -> str:
        return self.verdict + "".join(f"; {name}: {example}" for name, example in self.found.items())


KNOWN_AT_THE_END = ("unseen", "lost-message")
"""Their examples name only what is missed."""
COULD_NOT_RUN = "could not run"


class _Results(msgspec.Struct):
    """What is needed here of results.json."""

    valid: bool | None
    anomalies: dict[str, list[object]]
    bad: list[str]
    unknown: list[str]
    problems: dict[str, list[str]]
    skipped: dict[str, str]
    operations: dict[str, dict[str, int]]
    availability: Availability


def run_apart(arguments: Sequence[str], name: str, folder: Path) -> Outcome:
    """Runs `python -m jepsen test` with these arguments; its folder is made in `folder/name/`."""
    folder.mkdir(parents=True, exist_ok=True)
    before = set((folder / name).glob("*"))
    command = [sys.executable, "-m", "jepsen", "test", *arguments, f"--name={name}", f"--store={folder.resolve()}"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    made = sorted(set((folder / name).glob("*")) - before)
    results = store.read_json(made[-1] / store.RESULTS) if made else {}
    if not results:
        said = " ".join((ended.stdout + ended.stderr).split())[-EXAMPLE_CHARACTERS:]
        return Outcome(COULD_NOT_RUN, str(made[-1]) if made else "", found={"status": f"{ended.returncode}: {said}"})
    return _brief(made[-1], msgspec.convert(results, type=_Results))


def first_shown(folder: Path) -> float | None:
    """Seconds into the run by which the history held the first of the bad anomalies whole, of those that have examples;
    None where it shows none."""
    told = msgspec.convert(store.read_json(folder / store.RESULTS), type=_Results)
    names = [name for name in told.bad if name not in KNOWN_AT_THE_END]
    whole = [max(_indexes(example), default=None) for name in names for example in told.anomalies.get(name, [])]
    indexes = [index for index in whole if index is not None]
    if not indexes:
        return None
    wanted = f"{{:index {min(indexes)}, :time ".encode()
    with (folder / store.HISTORY).open("rb") as lines:
        for line in lines:
            if line.startswith(wanted):
                return int(line[len(wanted) :].split(b",")[0]) / 1e9
    return None


def _indexes(example: object) -> Iterator[int]:
    """Of the lines that an example names."""
    if isinstance(example, dict):
        index = example.get("index")
        if isinstance(index, int):
            yield index
    if isinstance(example, (dict, list)):
        for held in example.values() if isinstance(example, dict) else example:
            yield from _indexes(held)


def _brief(folder: Path, told: _Results) -> Outcome:
    counts = [count for kinds in told.operations.values() for count in kinds.items()]
    found = {name: str(told.anomalies.get(name, [""])[0])[:EXAMPLE_CHARACTERS] for name in told.bad}
    found |= {name: texts[0][:EXAMPLE_CHARACTERS] for name, texts in told.problems.items()}
    if told.valid is None and told.unknown:
        found["unknown"] = told.unknown[0][:EXAMPLE_CHARACTERS]
    return Outcome(
        verdict=store.VERDICTS[told.valid],
        folder=str(folder),
        commit=str(store.read_json(folder / store.TEST).get("commit") or "")[:7],
        operations=sum(number for _, number in counts),
        ok=sum(number for kind, number in counts if kind == "ok"),
        broken=len(told.availability.faults),
        faults=tuple(sorted({each.fault.partition(":")[0] for each in told.availability.faults})),
        found=found,
        skipped=told.skipped,
    )
