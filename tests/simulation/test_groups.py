"""Consumer groups under faults: seeds that pass, and bugs planted to see that they are found.

`python -m tests.simulation --groups --seeds 500` runs more.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from raftbroker.state.groups.classic import ClassicGroup
from raftbroker.state.groups.consumer import ConsumerGroup
from raftbroker.state.groups.offsets import Offsets

from .runner import run_groups


@pytest.mark.parametrize(("voters", "count"), [(1, 2), (3, 8), (5, 2)])
def test_seeds_pass(voters: int, count: int) -> None:
    commits = 0
    for seed in range(count):
        result = run_groups(seed, voters)
        commits += result.counts.get("commits", 0)
        if result.error is not None:
            again = f"python -m tests.simulation --groups --nodes {voters} --replay {seed} --trace"
            raise AssertionError(f"seed {seed} failed: {result.error}; to see it: {again}") from result.error
    assert commits > count, "a run in which nothing is committed proves nothing"


def test_one_seed_is_one_run() -> None:
    assert run_groups(5).digest == run_groups(5).digest


def anyone(self: ClassicGroup, member_id: str, instance_id: str | None, generation: int, transactional: bool) -> None:
    return None


def any_member(self: ConsumerGroup, member_id: str, epoch: int, modern: bool, transactional: bool) -> None:
    return None


def forgetful(self: Offsets, committed: Any, transactions: Any) -> None:
    self.committed = {}


PLANTS: dict[str, Sequence[tuple[Any, str, Callable[..., Any]]]] = {
    "whoever asks may commit": [(ClassicGroup, "check_commit", anyone), (ConsumerGroup, "check_commit", any_member)],
    "offsets are not read back from disk": [(Offsets, "restore", forgetful)],
}
"""What is replaced, and by what."""


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_bug_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, attribute, replacement in PLANTS[name]:
        monkeypatch.setattr(owner, attribute, replacement)
    for seed in range(40):
        if run_groups(seed).error is not None:
            return
    pytest.fail(f"{name}: not caught by 40 seeds")
