"""The plan of a cover: every pair, no run too many, the same for the same seed."""

import itertools
from pathlib import Path

import msgspec
import pytest

from jepsen.apart import Outcome
from jepsen.cover import LOADS, NODES, Cover, Row
from jepsen.faults import FAULTS
from jepsen.pairs import plan

TOGETHER = 6


def test_every_pair_comes_in_some_run() -> None:
    runs = plan(list(LOADS), NODES, list(FAULTS), TOGETHER, seed=1)
    tried = {pair for run in runs for pair in run.pairs}
    counts = [f"{nodes} nodes" for nodes in NODES]
    for one, other in itertools.combinations([list(LOADS), counts, list(FAULTS)], 2):
        assert all(frozenset((a, b)) in tried for a in one for b in other)
    assert all(frozenset(pair) in tried for pair in itertools.combinations(FAULTS, 2))


def test_a_few_dozen_runs_are_enough() -> None:
    assert len(plan(list(LOADS), NODES, list(FAULTS), TOGETHER, seed=1)) <= 30


def test_a_seed_stands_for_one_plan() -> None:
    def plan_of(seed: int) -> object:
        return plan(list(LOADS), NODES, list(FAULTS), TOGETHER, seed)

    assert plan_of(3) == plan_of(3) != plan_of(4)


@pytest.mark.parametrize("together", [0, 1, 15])
def test_a_run_has_room_for_two_faults_at_least_and_for_all_at_most(together: int) -> None:
    with pytest.raises(ValueError, match="a run rotates 2 to 14 faults"):
        plan(list(LOADS), NODES, list(FAULTS), together, seed=1)


def test_beyond_the_plan_comes_what_its_runs_did_not_come_to(tmp_path: Path) -> None:
    cover = Cover(1, 120.0, 40.0, 8, TOGETHER, tmp_path, 0.0)
    with cover.path.open("wb") as file:
        for number, run in enumerate(cover.plan(), 1):
            came = tuple(fault for fault in run.faults if fault != "wipe" or run.load != "txn")
            outcome = Outcome("valid", operations=100, ok=100, faults=came)
            row = Row(number, run.load, run.nodes, run.faults, number, "", cover.time_limit, outcome)
            file.write(msgspec.json.encode(row) + b"\n")
    every, tried = cover.pairs()
    assert frozenset(("txn", "wipe")) in every - tried
    further = cover.further(len(cover.plan()) + 1)
    assert (further.load, "wipe" in further.faults) == ("txn", True)
    assert cover.minutes_done() == 2 * len(cover.plan())
