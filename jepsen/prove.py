"""`python -m jepsen prove`: plants each bug in turn and runs the test that finds it. A harness must be shown to fail.

Each is tried with one seed after the other until it is found. What came of it is a line of `STORE/proofs.jsonl`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from jepsen.apart import Outcome, first_shown, run_apart
from jepsen.plants import PROOFS, Proof


class Tried(msgspec.Struct, frozen=True):
    """What came of looking for one bug. `seed` is the last one tried, of `tries`."""

    plant: str
    seed: int
    tries: int
    seconds: float
    outcome: Outcome

    @property
    def found(self) -> bool:
        return self.outcome.verdict == "anomalies"


@dataclass(frozen=True)
class Prover:
    """How to look. `time_limit`, in seconds, is of each try."""

    time_limit: float
    tries: int
    seed: int
    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / "proofs.jsonl"

    def arguments(self, plant: str, proof: Proof, seed: int) -> list[str]:
        """Of `jepsen test`."""
        usual = [f"--time-limit={self.time_limit:.0f}", "--rate=100", "--concurrency=12", "--quiet=3", f"--seed={seed}"]
        return [f"--plant={plant}", f"--workload={proof.workload}", f"--faults={proof.faults}", *usual, *proof.more]

    def prove(self, plants: Sequence[str], say: Callable[[str], None]) -> None:
        """Raises KeyError for a plant that no test is known to find."""
        for plant in plants:
            tried = self._one(plant, PROOFS[plant])
            with self.path.open("ab") as file:
                file.write(msgspec.json.encode(tried) + b"\n")
            say(f"{plant}: {'found' if tried.found else 'NOT FOUND'}, try {tried.tries}: {tried.outcome.text}")

    def _one(self, plant: str, proof: Proof) -> Tried:
        for turn in range(self.tries):
            seed = self.seed + turn
            outcome = run_apart(self.arguments(plant, proof, seed), f"prove-{plant}", self.folder)
            if outcome.verdict == "anomalies":
                break
        return Tried(plant, seed, turn + 1, self.time_limit, outcome)

    def rows(self) -> dict[str, Tried]:
        """The last word on each plant that a test is made for."""
        if not self.path.exists():
            return {}
        lines = self.path.read_bytes().splitlines()
        rows = (msgspec.json.decode(line, type=Tried) for line in lines)
        return {row.plant: row for row in rows if row.plant in PROOFS}


def table(prover: Prover) -> Iterator[str]:
    """What was tried, as lines of Markdown."""
    yield "| planted | workload, faults | found as | shown after | again |"
    yield "| --- | --- | --- | --- | --- |"
    for plant, row in sorted(prover.rows().items()):
        proof = PROOFS[plant]
        found = ", ".join(row.outcome.found) if row.found else f"**not found** in {row.tries} of {row.seconds:.0f} s"
        after = first_shown(Path(row.outcome.folder)) if row.found else None
        shown = "-" if not row.found else f"{after:.0f} s" if after is not None else f"a run of {row.seconds:.0f} s"
        again = f"python -m jepsen prove {plant} --seed {row.seed} --time-limit {row.seconds:.0f}"
        yield f"| `{plant}` | {proof.workload}, {proof.faults} | {found} | {shown} | `{again}` |"
