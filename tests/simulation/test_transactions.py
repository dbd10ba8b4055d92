"""Transactions under faults: seeds that pass, seeds that found something, and bugs planted to see that they are found.

`python -m tests.simulation --transactions --seeds 500` runs more.
"""

import re
from collections.abc import Callable
from typing import Any

import pytest

from raftbroker.broker import transaction_ends
from raftbroker.broker.transaction_ends import TransactionEnds
from raftbroker.state.partition import PartitionMachine
from raftbroker.state.transactions.ops import TxnError
from raftbroker.state.transactions.part import TransactionsPart

from .runner import run_transactions


@pytest.mark.parametrize(("voters", "count"), [(1, 3), (3, 12), (5, 3)])
def test_seeds_pass(voters: int, count: int) -> None:
    committed = 0
    for seed in range(count):
        result = run_transactions(seed, voters)
        committed += result.counts.get("deals committed", 0)
        if result.error is not None:
            again = f"python -m tests.simulation --transactions --nodes {voters} --replay {seed} --trace"
            raise AssertionError(f"seed {seed} failed: {result.error}; to see it: {again}") from result.error
    assert committed > count, "a run in which nothing is committed proves nothing"


@pytest.mark.parametrize("seed", [3, 38, 126])
def test_seeds_that_found_something_pass(seed: int) -> None:
    """A consumer group that was not there forgot the end of a transaction, and took an offset of it that came late."""
    result = run_transactions(seed)
    if result.error is not None:
        raise AssertionError(f"seed {seed} failed again: {result.error}") from result.error


def test_one_seed_is_one_run() -> None:
    assert run_transactions(5).digest == run_transactions(5).digest


def any_epoch(self: TransactionsPart, name: str, producer_id: int, epoch: int) -> Any:
    one = self.transaction(name)
    return (TxnError.INVALID_PRODUCER_ID_MAPPING, None) if one is None else (None, one)


async def no_markers(self: TransactionEnds, name: str, one: Any) -> None: ...


def nothing_aborted(self: PartitionMachine, partition: int, start: int, end: int) -> list[tuple[int, int]]:
    return []


DEAL_BROKEN = r"deals of dealer-\d are whole|was committed and is not there|was not committed and is there"
PLANTS: dict[str, tuple[Any, str, Callable[..., Any], str]] = {
    # Whoever was replaced writes into the transactions of its successor, and ends them.
    "producers are not fenced": (TransactionsPart, "_producer", any_epoch, DEAL_BROKEN),
    "transactions are complete before they are ended": (TransactionEnds, "end", no_markers, "hangs"),
    "readers are not told what was aborted": (
        PartitionMachine,
        "aborted",
        nothing_aborted,
        "was not committed and is there",
    ),
    "offsets of all transactions are alike": (transaction_ends, "offsets_epoch", lambda number: 0, "the offset of"),
}
"""What is replaced, by what, and of what the simulation complains, as a pattern."""


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_bug_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, replacement, complaint = PLANTS[name]
    for seed in range(40):
        with monkeypatch.context() as planted:
            planted.setattr(owner, attribute, replacement)
            error = run_transactions(seed).error
        if error is not None:
            assert re.search(complaint, str(error)), error
            assert run_transactions(seed).error is None, f"seed {seed} fails without it too"
            return
    pytest.fail(f"{name}: not caught by 40 seeds")
