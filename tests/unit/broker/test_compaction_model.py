"""Compaction against a dictionary: whatever happens between any two awaits of a pass, the newest record of each key is
read where it was written, a tombstone stays for its time and what it deleted stays deleted, and replicas are equal."""

import os
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from raftbroker.broker import compaction_pass
from raftbroker.broker.compaction_pass import Rules
from raftbroker.state import partition_segments
from raftbroker.state.compaction import KeyMap
from raftbroker.state.partition import PartitionMachine
from raftbroker.state.partition_segments import Partition
from tests.unit.broker.compaction_world import PARTITION, TOMBSTONES_MS, World

KEYS = [b"a", b"b", b"c", b"d", b"e"]
drafts = st.lists(st.tuples(st.sampled_from(KEYS), st.none() | st.binary(max_size=40)), min_size=1, max_size=4)
rules = st.fixed_dictionaries(
    {
        "lag_ms": st.sampled_from((0, 0, 0, 700)),
        "map_bytes": st.sampled_from((24 * 9, 1 << 12)),
        "segment_bytes": st.sampled_from((1, 200, 600, 1 << 20)),
        "join": st.sampled_from((True, True, False)),
    }
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition_segments, "SEGMENT_BYTES_MIN", 250)
    monkeypatch.setattr(partition_segments, "SEGMENT_MS_MIN", 400)
    monkeypatch.setattr(compaction_pass, "READ_BYTES", 200)
    monkeypatch.setattr(compaction_pass, "MARKER_MS", 1500)


class Compaction(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @rule(drafts=drafts, ms=st.integers(0, 300), apply=st.booleans())
    def produce(self, drafts: list[tuple[bytes, bytes | None]], ms: int, apply: bool) -> None:
        self.world.now += ms
        self.world.produce(drafts)
        if apply:
            self.world.apply(100)

    @rule(drafts=drafts, producer=st.integers(1, 2), end=st.sampled_from((None, None, True, False)))
    def produce_in_a_transaction(
        self, drafts: list[tuple[bytes, bytes | None]], producer: int, end: bool | None
    ) -> None:
        self.world.produce(drafts, producer)
        if end is not None:
            self.world.finish(producer, commit=end)

    @precondition(lambda self: self.world.open)
    @rule(commit=st.booleans(), data=st.data())
    def finish(self, commit: bool, data: st.DataObject) -> None:
        self.world.finish(data.draw(st.sampled_from(sorted(self.world.open))), commit=commit)

    @rule(count=st.integers(1, 20))
    def apply(self, count: int) -> None:
        self.world.apply(count)

    @precondition(lambda self: self.world.waiting)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        self.world.truncate(data.draw(st.integers(0, len(self.world.waiting) - 1)))

    @rule(drawn=rules)
    def begin_pass(self, drawn: dict[str, Any]) -> None:
        self.world.begin_pass(
            lambda machine, now, timely: Rules(
                now, machine.age_floor_ms, tombstones_ms=TOMBSTONES_MS, timely=timely, **drawn
            )
        )

    @precondition(lambda self: self.world.coroutine is not None)
    @rule(steps=st.integers(1, 6))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.world.step_pass()

    @precondition(lambda self: self.world.coroutine is None)
    @rule(drawn=rules, share=st.floats(0, 1))
    def race(self, drawn: dict[str, Any], share: float) -> None:
        """A trim is in the log, but not applied, when a pass proposes."""
        self.delete_records(share)
        self.begin_pass(drawn)
        for _ in range(100):
            if self.world.coroutine is None or self.world.proposed:
                break
            self.world.step_pass()
        self.world.apply(100)

    @rule(drawn=rules, ms=st.integers(0, 3000))
    def whole_pass(self, drawn: dict[str, Any], ms: int) -> None:
        self.world.apply(100)
        self.world.now += ms
        if self.world.leader.machine.term != self.world.term or ms % 2:
            self.world.confirm()
            self.world.apply(100)
        self.begin_pass(drawn)
        for _ in range(1000):
            if self.world.coroutine is None:
                break
            self.world.step_pass()
            self.world.apply(100)
        else:
            raise AssertionError("a pass ends")

    @precondition(lambda self: self.world.proposed)
    @rule()
    def lose_answer(self) -> None:
        self.world.lose_answer()

    @rule(share=st.floats(0, 1))
    def delete_records(self, share: float) -> None:
        state = self.world.leader.machine.partition(PARTITION)
        self.world.trim(state.start + int((state.end - state.start) * share * 0.4))

    @rule(count=st.integers(1, 2))
    def retain(self, count: int) -> None:
        self.world.retain(count)

    @rule(ms=st.integers(1, 800), confirm=st.booleans())
    def time_goes_by(self, ms: int, confirm: bool) -> None:
        self.world.now += ms
        if confirm:
            self.world.confirm()

    @rule()
    def restart_leader(self) -> None:
        self.world.restart_leader()

    @rule(count=st.integers(1, 30))
    def follow(self, count: int) -> None:
        self.world.follow(count)

    @rule()
    def snapshot(self) -> None:
        self.world.snapshot()

    @invariant()
    def holds(self) -> None:
        self.world.check()


EXAMPLES = int(os.environ.get("COMPACTION_EXAMPLES", "30"))
PLANTED = 2_000
"""At most: the first that fails ends it. Which ones are drawn depends on what else has been imported."""
PHASES = [Phase.explicit, Phase.reuse, Phase.generate] if EXAMPLES > 100 else list(Phase)
QUICK: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck)}


def test_nothing_that_counts_is_lost_or_comes_back() -> None:
    run_state_machine_as_test(
        Compaction, settings=settings(max_examples=EXAMPLES, stateful_step_count=60, phases=PHASES, **QUICK)
    )


# --- bugs planted on purpose: each must be caught -----------------------------------------------------------


def forgetful_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """The map says that it has learned a batch, and has forgotten its keys."""
    monkeypatch.setattr(KeyMap, "newest", lambda self, key: None)


def blind_compact(monkeypatch: pytest.MonkeyPatch) -> None:
    """A `Compact` replaces whatever is there now."""
    original = Partition.compact

    def compact(self: Partition, command: Any, time_ms: int, stable: int) -> Any:
        bases = {one.base_offset: position for position, one in enumerate(self.closed)}
        position = bases.get(command.replaced[0][0])
        if position is not None:
            found = self.closed[position : position + len(command.replaced)]
            replaced = tuple((one.base_offset, one.generation) for one in found)
            command = msgspec.structs.replace(command, replaced=replaced, first=max(command.first, self.first_base))
        return original(self, command, time_ms, stable)

    monkeypatch.setattr(Partition, "compact", compact)


def undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is past the last stable offset is compacted as well."""
    compact, last_stable = PartitionMachine._compact, PartitionMachine.last_stable

    def _compact(self: PartitionMachine, command: Any, index: int) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(PartitionMachine, "last_stable", PartitionMachine.end)
            compact(self, command, index)

    def cleanable(machine: PartitionMachine, partition: int, rules: Rules) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(PartitionMachine, "last_stable", PartitionMachine.end)
            return original(machine, partition, rules)

    original = compaction_pass.cleanable
    assert last_stable is not PartitionMachine.end
    monkeypatch.setattr(PartitionMachine, "_compact", _compact)
    monkeypatch.setattr(compaction_pass, "cleanable", cleanable)


def aborted_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of aborted transactions are learned as the newest."""
    monkeypatch.setattr(compaction_pass.Pass, "_is_aborted", lambda self, header: False)


def hasty_tombstones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tombstones go with the first pass over them."""
    monkeypatch.setattr(Rules, "tombstones_go", lambda self, segment: True)


def early_tombstones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tombstones go with the second pass, whenever that is."""
    monkeypatch.setattr(Rules, "tombstones_go", lambda self, segment: segment.cleaned_ms > 0)


def lost_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of aborted transactions goes with the first segment that has a marker of one."""
    original = compaction_pass.Pass._filter

    async def _filter(self: Any, segment: Any, stop: int, until: int, keys: KeyMap) -> Any:
        part = await original(self, segment, stop, until, keys)
        part.forgotten = [marker for marker in self._markers if segment.base_offset <= marker < part.end + 3]
        return part

    monkeypatch.setattr(compaction_pass.Pass, "_filter", _filter)


def leftovers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was replaced stays on the disk."""
    original = Partition.compact

    def compact(self: Partition, command: Any, time_ms: int, stable: int) -> Any:
        replaced = original(self, command, time_ms, stable)
        if replaced is not None:
            replaced.gone.clear()
        return replaced

    monkeypatch.setattr(Partition, "compact", compact)


@pytest.fixture(
    params=[
        forgetful_map,
        blind_compact,
        undecided,
        aborted_counts,
        hasty_tombstones,
        early_tombstones,
        lost_rows,
        leftovers,
    ],
    ids=lambda plant: plant.__name__,
)
def planted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    request.param(monkeypatch)
    return


def test_a_planted_bug_is_caught(planted: None) -> None:
    found = settings(
        max_examples=PLANTED,
        stateful_step_count=60,
        phases=[Phase.generate],
        derandomize=True,
        report_multiple_bugs=False,
        **QUICK,
    )
    with pytest.raises((AssertionError, LookupError)):
        run_state_machine_as_test(Compaction, settings=found)
