"""A compacted topic of whole nodes under faults: seeds that pass, and bugs planted to see that they are found.

`python -m tests.simulation --compacted --seeds 500` runs more, `--compacted-transactions` with transactions.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from raftbroker.broker import compaction_pass
from raftbroker.state.compaction import KeyMap
from raftbroker.state.partition import PartitionMachine
from raftbroker.state.partition_segments import Partition

from .runner import Result, run_compacted, run_compacted_transactions


@pytest.mark.parametrize(
    ("run", "what", "voters", "count"),
    [
        (run_compacted, "compacted", 3, 8),
        (run_compacted, "compacted", 5, 2),
        (run_compacted_transactions, "compacted-transactions", 3, 4),
    ],
)
def test_seeds_pass(run: Callable[[int, int], Result], what: str, voters: int, count: int) -> None:
    removed = 0
    for seed in range(count):
        result = run(seed, voters)
        removed += result.counts.get("records compacted away", 0)
        if result.error is not None:
            again = f"python -m tests.simulation --{what} --nodes {voters} --replay {seed} --trace"
            raise AssertionError(f"seed {seed} failed: {result.error}; to see it: {again}") from result.error
    assert removed > 5 * count, "a run in which nothing is compacted proves nothing"


def test_one_seed_is_one_run() -> None:
    assert run_compacted(5).digest == run_compacted(5).digest


def loses_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The map takes the newest record of a key for an older one."""
    newest = KeyMap.newest
    monkeypatch.setattr(KeyMap, "newest", lambda self, key: (newest(self, key) or 0) + 1)


def forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The map forgets keys it has learned: what a tombstone deleted is back once that has gone."""
    monkeypatch.setattr(KeyMap, "newest", lambda self, key: None)
    monkeypatch.setattr(compaction_pass.Rules, "tombstones_go", lambda self, segment: True)


def leaves_batches_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was replaced stays on the disk."""
    original = Partition.compact

    def compact(self: Partition, command: Any, time_ms: int, stable: int) -> Any:
        replaced = original(self, command, time_ms, stable)
        return replaced and msgspec.structs.replace(replaced, gone=[])

    monkeypatch.setattr(Partition, "compact", compact)


def names_no_compacted_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot goes without what was compacted."""
    original = PartitionMachine.payload_ranges

    def payload_ranges(self: PartitionMachine) -> Any:
        return [one for one in original(self) if len(one[0]) == 16]

    monkeypatch.setattr(PartitionMachine, "payload_ranges", payload_ranges)


@pytest.mark.parametrize("plant", [loses_the_newest, forgets, leaves_batches_behind, names_no_compacted_batches])
def test_a_planted_bug_is_caught(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    for seed in range(20):
        if run_compacted(seed).error is not None:
            return
    pytest.fail("not caught by 20 seeds")


def test_counting_what_was_aborted_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of aborted transactions go before their records."""
    original = PartitionMachine._compact

    def _compact(self: PartitionMachine, command: Any, index: int) -> None:
        markers = tuple(one.marker_offset for one in self.all_aborted(command.partition))
        original(self, msgspec.structs.replace(command, forgotten=markers), index)

    monkeypatch.setattr(PartitionMachine, "_compact", _compact)
    for seed in range(30):
        if run_compacted_transactions(seed).error is not None:
            return
    pytest.fail("not caught by 30 seeds")
