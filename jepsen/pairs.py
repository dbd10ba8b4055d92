"""Which runs together try every pair: of workload, number of nodes and fault, and of faults in the same run.

A run rotates a set of several faults, so a few dozen runs cover all pairs. Pure: the same seed plans the same runs.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

CANDIDATES = 300
"""Drawn for each run; the one that covers most pairs is taken."""

Pair = frozenset[str]


@dataclass(frozen=True)
class Planned:
    """One run. `load` is a workload with its clients, as `cover.LOADS` names them."""

    load: str
    nodes: int
    faults: tuple[str, ...]

    @property
    def pairs(self) -> set[Pair]:
        own = [self.load, f"{self.nodes} nodes", *self.faults]
        return {frozenset(pair) for pair in itertools.combinations(own, 2)}


def plan(loads: Sequence[str], nodes: Sequence[int], faults: Sequence[str], together: int, seed: int) -> list[Planned]:
    """Runs of `together` faults each, until every pair of two different kinds, and of two faults, has come.

    Raises ValueError where a run has room for fewer than two faults or for more than there are."""
    if not 2 <= together <= len(faults):
        raise ValueError(f"a run rotates 2 to {len(faults)} faults, not {together}")
    random = Random(f"cover {seed}")
    left = every_pair(loads, nodes, faults)
    runs: list[Planned] = []
    while left:
        best = one_more(loads, nodes, faults, together, left, random)
        if not best.pairs & left:
            continue
        runs.append(best)
        left -= best.pairs
    return runs


def every_pair(loads: Sequence[str], nodes: Sequence[int], faults: Sequence[str]) -> set[Pair]:
    """Of two different kinds, and of two faults."""
    kinds = (loads, [f"{count} nodes" for count in nodes], faults)
    return {
        *(frozenset((a, b)) for one, other in itertools.combinations(kinds, 2) for a in one for b in other),
        *(frozenset(pair) for pair in itertools.combinations(faults, 2)),
    }


def one_more(
    loads: Sequence[str], nodes: Sequence[int], faults: Sequence[str], together: int, left: set[Pair], random: Random
) -> Planned:
    """Of many drawn, the run that has most of the pairs that are `left`."""
    drawn = [
        Planned(random.choice(loads), random.choice(nodes), tuple(sorted(random.sample(faults, together))))
        for _ in range(CANDIDATES)
    ]
    return max(drawn, key=lambda planned: len(planned.pairs & left))
