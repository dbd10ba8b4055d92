"""Clients that speak to leaders, under faults: seeds that pass, and a bug planted to see that it is found.

`python -m tests.simulation --pipelines --seeds 500` runs more.
"""

import pytest

from raftbroker.broker.gaps import Gaps
from raftbroker.state.batch import BatchHeader

from .runner import run_pipelines


@pytest.mark.parametrize(("voters", "count"), [(3, 12), (5, 3)])
def test_seeds_pass(voters: int, count: int) -> None:
    acknowledged = 0
    for seed in range(count):
        result = run_pipelines(seed, voters)
        acknowledged += result.counts.get("batches acknowledged", 0)
        if result.error is not None:
            again = f"python -m tests.simulation --pipelines --nodes {voters} --replay {seed} --trace"
            raise AssertionError(f"seed {seed} failed: {result.error}; to see it: {again}") from result.error
    assert acknowledged > 20 * count, "a run in which nothing is acknowledged proves nothing"


def test_one_seed_is_one_run() -> None:
    assert run_pipelines(5).digest == run_pipelines(5).digest


def test_a_planted_bug_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows a refused batch of an idempotent producer is taken, or called out of order."""

    def none(self: Gaps, partition: int, header: BatchHeader) -> None: ...

    monkeypatch.setattr(Gaps, "before", none)
    for seed in range(40):
        error = run_pipelines(seed).error
        if error is not None:
            assert "producer-" in str(error)
            return
    pytest.fail("not caught by 40 seeds")
