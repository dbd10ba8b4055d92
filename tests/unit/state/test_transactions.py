"""The coordinator's side of transactions: producer ids and epochs, states, fencing, time-outs, what is forgotten."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.model import Entry, EntryKind
from raftbroker.kafka.errors import ErrorCode
from raftbroker.state.commands import encode_command
from raftbroker.state.shard import Op, ShardEntry, ShardMachine
from raftbroker.state.transactions import ops as ops_module
from raftbroker.state.transactions.deadlines import Deadlines
from raftbroker.state.transactions.ops import (
    EPOCH_MAX,
    GROUPS_MAX,
    PARTITIONS_MAX,
    AddToTransaction,
    CompleteTransaction,
    DescribeTransaction,
    Done,
    EndTransaction,
    Initialized,
    InitProducer,
    ListTransactions,
    TxnError,
    TxnState,
    Verified,
    VerifyTransaction,
)
from raftbroker.state.transactions.part import DECIDED, DUE_MAX, TransactionsPart
from raftbroker.state.transactions.rows import Transaction
from tests.unit.state.strategies import groupings

TIMEOUT = 60_000
RETAIN = 7 * 24 * 3_600_000
OK = Done()
E = TxnError


class Shard:
    """Applies one op at a time, and keeps the rows as a store would."""

    def __init__(self, ids_max: int = 1000) -> None:
        self.machine = ShardMachine(7, lambda: [TransactionsPart(ids_max)])
        self.machine.attach(self)
        self.part = self.machine.part(TransactionsPart)
        self.ids_max = ids_max
        self.rows: dict[bytes, bytes] = {}
        self.entries: list[Entry] = []
        self.time_ms = 1_000_000
        self.new_producer_id = 100
        self.outcomes: list[Any] = []
        self.names: set[str] = set()

    def led(self, term: int) -> None: ...

    def unled(self) -> None: ...

    def applied(self, index: int, outcomes: list[Any], names: set[str]) -> None:
        self.outcomes, self.names = outcomes, names

    def __call__(self, *ops: Op[Any], after_ms: int = 0) -> Any:
        self.time_ms += after_ms
        raw = tuple(msgspec.Raw(msgspec.msgpack.encode(op)) for op in ops)
        index = len(self.entries) + 1
        self.entries.append(Entry.of(1, index, EntryKind.COMMAND, encode_command(ShardEntry(self.time_ms, raw))))
        for key, value in self.machine.apply(self.entries[-1:]).rows.items():
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value
        return self.outcomes[0] if ops else None

    def init(self, name: str = "t", expected: tuple[int, int] = (-1, -1), timeout_ms: int = TIMEOUT) -> Initialized:
        self.new_producer_id += 1
        outcome = self(
            InitProducer(
                name,
                new_producer_id=self.new_producer_id,
                expected_id=expected[0],
                expected_epoch=expected[1],
                timeout_ms=timeout_ms,
                retain_ms=RETAIN,
            )
        )
        assert isinstance(outcome, Initialized)
        return outcome

    def begun(self, name: str = "t") -> tuple[int, int]:
        made = self.init(name)
        assert made.error is None
        return made.producer_id, made.epoch

    def add(self, producer: tuple[int, int], *partitions: int, groups: tuple[str, ...] = (), name: str = "t") -> Done:
        op = AddToTransaction(name, producer_id=producer[0], epoch=producer[1], partitions=partitions, groups=groups)
        outcome = self(op)
        assert isinstance(outcome, Done)
        return outcome

    def end(self, producer: tuple[int, int], commit: bool = True, name: str = "t") -> Done:
        outcome = self(EndTransaction(name, producer_id=producer[0], epoch=producer[1], commit=commit))
        assert isinstance(outcome, Done)
        return outcome

    def complete(self, name: str = "t") -> None:
        assert self(CompleteTransaction(name, self[name].number)) == OK

    def verify(self, producer: tuple[int, int], *partitions: int, groups: tuple[str, ...] = ()) -> Verified:
        answer = self.part.query(
            VerifyTransaction("t", producer_id=producer[0], epoch=producer[1], partitions=partitions, groups=groups)
        )
        assert isinstance(answer, Verified)
        return answer

    def __getitem__(self, name: str) -> Transaction:
        found = self.part.transaction(name)
        assert found is not None
        return found

    def state(self, name: str = "t") -> TxnState:
        return self[name].state

    def check(self) -> None:
        assert self.machine.rows() == self.rows
        again = ShardMachine(7, lambda: [TransactionsPart(self.ids_max)])
        again.restore(dict(self.rows), len(self.entries))
        assert again.rows() == self.rows
        assert again.next_deadline() == self.machine.next_deadline()
        assert sorted(again.part(TransactionsPart).decided()) == sorted(self.part.decided())


@pytest.fixture
def shard() -> Shard:
    return Shard()


# --- a transaction's life -------------------------------------------------------------------------------


@pytest.mark.parametrize("commit", [True, False])
def test_a_transaction_begins_is_decided_and_completes(shard: Shard, commit: bool) -> None:
    producer = shard.begun()
    assert (producer, shard.state(), shard.part.next_deadline()) == ((101, 0), TxnState.EMPTY, None)
    assert shard.verify(producer, 5) == Verified(E.INVALID_TXN_STATE)
    assert shard.add(producer, 5, 9) == OK
    assert shard.add(producer, 7, 5, groups=("g",)) == OK
    assert (shard["t"].partitions, shard["t"].groups, shard["t"].number) == ((5, 9, 7), ("g",), 1)
    assert shard.verify(producer, 5, 7, groups=("g",)) == Verified(None, 1)
    assert shard.verify(producer, 5, 6) == Verified(E.INVALID_TXN_STATE)
    assert shard.verify(producer, groups=("h",)) == Verified(E.INVALID_TXN_STATE)
    assert shard.part.next_deadline() == shard.time_ms + TIMEOUT
    shard.check()
    assert shard.end(producer, commit) == OK
    assert DECIDED in shard.names
    assert shard.state() is (TxnState.PREPARE_COMMIT if commit else TxnState.PREPARE_ABORT)
    assert (shard.part.decided(), shard.part.next_deadline()) == (("t",), None)
    assert shard.verify(producer, 5) == Verified(E.CONCURRENT_TRANSACTIONS)
    assert shard.add(producer, 5) == Done(E.CONCURRENT_TRANSACTIONS)
    assert shard.init().error is E.CONCURRENT_TRANSACTIONS
    assert shard.end(producer, commit) == OK
    assert shard.end(producer, not commit) == Done(E.INVALID_TXN_STATE)
    shard.check()
    assert shard(CompleteTransaction("t", 7)) == OK  # of another one
    assert shard.state().decided
    shard.complete()
    shard.complete()
    assert shard.state() is (TxnState.COMPLETE_COMMIT if commit else TxnState.COMPLETE_ABORT)
    assert (shard["t"].partitions, shard["t"].groups, shard.part.decided()) == ((), (), ())
    assert shard.end(producer, commit) == OK
    assert shard.end(producer, not commit) == Done(E.INVALID_TXN_STATE)
    assert shard.add(producer, 9) == OK
    assert (shard["t"].number, shard["t"].partitions) == (2, (9,))
    shard.check()


def test_nothing_ends_that_has_not_begun(shard: Shard) -> None:
    assert shard.end((1, 0)) == Done(E.INVALID_PRODUCER_ID_MAPPING)
    assert shard.add((1, 0), 5) == Done(E.INVALID_PRODUCER_ID_MAPPING)
    assert shard.verify((1, 0), 5) == Verified(E.INVALID_PRODUCER_ID_MAPPING)
    assert shard(CompleteTransaction("t", 1)) == OK
    producer = shard.begun()
    assert shard.end(producer) == Done(E.INVALID_TXN_STATE)
    assert shard.end((producer[0] + 1, 0)) == Done(E.INVALID_PRODUCER_ID_MAPPING)
    assert shard.end((producer[0], 1)) == Done(E.PRODUCER_FENCED)
    shard.check()


# --- fencing --------------------------------------------------------------------------------------------


def test_a_new_producer_fences_the_one_before(shard: Shard) -> None:
    old = shard.begun()
    new = shard.begun()
    assert new == (old[0], old[1] + 1)
    for outcome in (shard.add(old, 5), shard.end(old), shard.verify(old, 5)):
        assert outcome.error is E.PRODUCER_FENCED
    assert shard.add(new, 5) == OK


def test_a_new_producer_waits_until_what_is_open_has_been_aborted(shard: Shard) -> None:
    old = shard.begun()
    shard.add(old, 5)
    assert shard.init().error is E.CONCURRENT_TRANSACTIONS
    assert (shard.state(), shard["t"].epoch) == (TxnState.PREPARE_ABORT, old[1] + 1)
    assert DECIDED in shard.names
    assert shard.end(old) == Done(E.PRODUCER_FENCED)
    assert shard.init().error is E.CONCURRENT_TRANSACTIONS
    assert shard["t"].epoch == old[1] + 1
    shard.complete()
    assert shard.begun() == (old[0], old[1] + 2)
    shard.check()


def test_a_transaction_whose_time_is_up_is_aborted_and_its_producer_fenced(shard: Shard) -> None:
    producer = shard.begun()
    shard.add(producer, 5)
    shard(after_ms=TIMEOUT - 1)
    assert shard.state() is TxnState.ONGOING
    shard.add(producer, 6)
    shard(after_ms=1)
    assert (shard.state(), shard["t"].epoch, shard["t"].partitions) == (TxnState.PREPARE_ABORT, 1, (5, 6))
    assert DECIDED in shard.names
    assert shard.end(producer) == Done(E.PRODUCER_FENCED)
    shard.complete()
    assert shard.init(expected=producer).error is E.PRODUCER_FENCED
    assert shard.begun() == (producer[0], 2)
    shard.check()


def test_the_time_begins_anew_with_every_transaction(shard: Shard) -> None:
    producer = shard.begun()
    for _ in range(3):
        shard.add(producer, 5)
        shard(after_ms=TIMEOUT // 2)
        shard.end(producer)
        shard.complete()
    shard.add(producer, 5)
    assert shard.part.next_deadline() == shard.time_ms + TIMEOUT
    shard.check()


# --- producers that go on (KIP-360) ---------------------------------------------------------------------


def test_a_producer_goes_on_with_the_next_epoch_however_often_it_asks(shard: Shard) -> None:
    producer = shard.begun()
    first = shard.init(expected=producer)
    assert first == Initialized(None, producer[0], 1)
    assert shard.init(expected=producer) == first  # its answer was lost
    assert shard.init(expected=(producer[0], 1)) == Initialized(None, producer[0], 2)
    assert shard.init(expected=producer).error is E.PRODUCER_FENCED
    assert shard.init(expected=(producer[0] + 50, 2)).error is E.PRODUCER_FENCED
    shard.check()


def test_a_producer_that_was_replaced_does_not_go_on(shard: Shard) -> None:
    old = shard.begun()
    new = shard.begun()
    assert shard.init(expected=old).error is E.PRODUCER_FENCED
    shard.add(new, 5)
    assert shard.init(expected=old).error is E.PRODUCER_FENCED
    assert shard.state() is TxnState.ONGOING
    assert shard.end(new) == OK


def test_a_transactional_id_that_was_forgotten_goes_on_as_a_new_one(shard: Shard) -> None:
    assert shard.init(expected=(55, 3)) == Initialized(None, 101, 0)


def test_used_up_epochs_give_a_new_producer_id(shard: Shard) -> None:
    producer = shard.begun()
    shard.add(producer, 5)
    shard.end(producer)
    shard.complete()
    for epoch in range(1, EPOCH_MAX):
        assert shard.init() == Initialized(None, producer[0], epoch)
    last = (producer[0], EPOCH_MAX - 1)
    shard.add(last, 5)
    assert shard.init().error is E.CONCURRENT_TRANSACTIONS
    assert shard["t"].epoch == EPOCH_MAX
    shard.complete()
    new = shard.init()
    assert (new.producer_id, new.epoch) == (shard.new_producer_id, 0)
    assert shard.add(last, 5) == Done(E.INVALID_PRODUCER_ID_MAPPING)
    assert shard.add((new.producer_id, 0), 5) == OK
    assert shard["t"].number == 3, "numbers go on"
    shard.check()


def test_a_producer_with_used_up_epochs_goes_on_with_a_new_id_however_often_it_asks(shard: Shard) -> None:
    producer = shard.begun()
    for _ in range(1, EPOCH_MAX):
        shard.init()
    last = (producer[0], EPOCH_MAX - 1)
    new = shard.init(expected=last)
    assert (new.error, new.producer_id, new.epoch) == (None, shard.new_producer_id, 0)
    assert shard.init(expected=last) == new
    assert shard.init(expected=(producer[0], 5)).error is E.PRODUCER_FENCED
    assert shard.init(expected=(new.producer_id, 0)) == Initialized(None, new.producer_id, 1)
    assert shard.init(expected=last).error is E.PRODUCER_FENCED
    shard.check()


# --- bounds ---------------------------------------------------------------------------------------------


def test_idle_ids_are_forgotten_and_others_are_not(shard: Shard) -> None:
    for name in ("idle", "open", "decided", "done"):
        producer = shard.begun(name)
        if name != "idle":
            shard.add(producer, 1, name=name)
        if name in ("decided", "done"):
            shard.end(producer, name=name)
    shard.complete("done")
    shard(after_ms=RETAIN - 1)
    assert shard.part.transaction("idle") is not None
    shard(after_ms=1)
    found = {name for name in ("idle", "open", "decided", "done") if shard.part.transaction(name) is not None}
    assert found == {"open", "decided"}, "the open one was aborted when its time was up"
    shard.check()


def test_ids_are_bounded_and_forgotten_a_few_at_a_time() -> None:
    shard = Shard(ids_max=DUE_MAX + 10)
    for number in range(DUE_MAX + 10):
        shard.begun(f"t-{number}")
    assert shard.init("one more").error is E.COORDINATOR_NOT_AVAILABLE
    assert shard.init("t-7").error is None
    shard(after_ms=RETAIN)
    assert len(shard.rows) == 1 + 10
    shard()
    assert shard.rows == {b"t": shard.rows[b"t"]}
    shard.check()


def test_partitions_and_groups_of_a_transaction_are_bounded(shard: Shard) -> None:
    producer = shard.begun()
    assert shard.add(producer, *range(PARTITIONS_MAX), groups=tuple(map(str, range(GROUPS_MAX)))) == OK
    assert shard.add(producer, 7, groups=("7",)) == OK
    assert shard.add(producer, PARTITIONS_MAX) == Done(E.INVALID_REQUEST)
    assert shard.add(producer, groups=("more",)) == Done(E.INVALID_REQUEST)
    assert len(shard["t"].partitions) == PARTITIONS_MAX


# --- what tools see -------------------------------------------------------------------------------------


def test_transactions_are_described_and_listed(shard: Shard) -> None:
    producer = shard.begun("a")
    shard.add(producer, 5, groups=("g",), name="a")
    other = shard.begun("b")
    shard(after_ms=500)
    view = shard.part.query(DescribeTransaction("a"))
    assert (view.error, view.state, view.producer_id, view.epoch) == (None, TxnState.ONGOING, *producer)
    assert (view.timeout_ms, view.age_ms, view.partitions, view.groups) == (TIMEOUT, 500, (5,), ("g",))
    assert shard.part.query(DescribeTransaction("c")).error is E.TRANSACTIONAL_ID_NOT_FOUND

    def listed(**filters: Any) -> list[str]:
        return [view.name for view in shard.part.query(ListTransactions("", **filters)).transactions]

    assert listed() == ["a", "b"]
    assert listed(states=(TxnState.EMPTY,)) == ["b"]
    assert listed(producer_ids=(other[0],)) == ["b"]
    assert (listed(age_ms=400), listed(age_ms=501)) == (["a"], [])
    assert [state.title for state in TxnState][:3] == ["Empty", "Ongoing", "PrepareCommit"]


def test_names_of_errors_are_those_of_kafka() -> None:
    assert {error.value for error in TxnError} <= {code.name for code in ErrorCode}
    assert ops_module.InitProducer.outcome is Initialized


# --- deadlines ------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.none() | st.integers(0, 9)), max_size=30))
def test_the_first_deadline_is_the_least(script: list[tuple[str, int | None]]) -> None:
    deadlines, model = Deadlines(), dict[str, int]()
    for name, at in script:
        if at is None:
            deadlines.discard(name)
            model.pop(name, None)
        else:
            deadlines.set(name, at)
            model[name] = at
        assert deadlines.first() == min(((at, name) for name, at in model.items()), default=None)
        assert len(deadlines) == len(model)


def test_moving_deadlines_on_takes_no_room() -> None:
    deadlines = Deadlines()
    for at in range(10_000):
        deadlines.set("a", at)
    assert len(vars(deadlines)["_waiting"]) == 1
    assert deadlines.first() == (9_999, "a")


# --- any script -----------------------------------------------------------------------------------------

steps = st.one_of(
    st.tuples(st.just("init"), st.sampled_from("tu"), st.integers(-1, 3), st.booleans()),
    st.tuples(st.just("add"), st.sampled_from("tu"), st.integers(0, 3), st.integers(1, 4)),
    st.tuples(st.just("end"), st.sampled_from("tu"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("complete"), st.sampled_from("tu"), st.integers(0, 1)),
    st.tuples(st.just("wait"), st.sampled_from([1, TIMEOUT // 2, TIMEOUT, RETAIN])),
)


class Seen:
    """What has been seen of one transactional id."""

    def __init__(self) -> None:
        self.producers: list[tuple[int, int]] = []
        """As given out, the newest last."""
        self.fates: dict[int, str] = {}

    def producer(self, back: int) -> tuple[int, int]:
        return self.producers[max(0, len(self.producers) - 1 - back)] if self.producers else (9, 9)


@settings(max_examples=300)
@given(st.lists(steps, max_size=60), st.lists(st.integers(0, 100), max_size=4))
def test_fates_never_change_and_only_the_newest_producer_acts(script: list[Any], cuts: list[int]) -> None:
    shard = Shard()
    seen = {"t": Seen(), "u": Seen()}
    for what, *details in script:
        if what == "wait":
            shard(after_ms=details[0])
        else:
            name, number, *more = details
            act(shard, seen[name], what, name, number, more)
        for name, known in seen.items():
            watch(shard, known, name)
    grouped = ShardMachine(7, lambda: [TransactionsPart(1000)])
    stored: dict[bytes, bytes | None] = {}
    for run in groupings(shard.entries, cuts):
        stored |= grouped.apply(run).rows
    if shard.entries:
        shard.check()
        assert {key: value for key, value in stored.items() if value is not None} == shard.rows


def act(shard: Shard, known: Seen, what: str, name: str, number: int, more: list[Any]) -> None:
    producer = known.producer(max(0, number))
    one = shard.part.transaction(name)
    newest = one is not None and producer == (one.producer_id, one.epoch)
    if what == "init":
        made = shard.init(name, producer if number >= 0 and known.producers else (-1, -1))
        if made.error is None:
            pair = (made.producer_id, made.epoch)
            assert pair not in known.producers or pair == known.producers[-1]
            if pair not in known.producers:
                known.producers.append(pair)
    elif what == "add":
        done = shard.add(producer, more[0], name=name)
        assert done.error is None or not newest or shard.state(name).decided
        assert newest or done.error is not None
    elif what == "end":
        done = shard.end(producer, more[0], name=name)
        assert newest or done.error is not None
        if done.error is None:
            fate = known.fates.setdefault(shard[name].number, "commit" if more[0] else "abort")
            assert fate == ("commit" if more[0] else "abort")
    elif one is not None:
        shard(CompleteTransaction(name, one.number - number))


def watch(shard: Shard, known: Seen, name: str) -> None:
    one = shard.part.transaction(name)
    if one is None:
        known.fates.clear()  # forgotten while idle: what comes now is another one, with another producer id
        return
    if one.state is TxnState.ONGOING:
        assert shard.time_ms < one.began_ms + one.timeout_ms
        assert one.number not in known.fates
    elif one.number:
        ended = {TxnState.PREPARE_COMMIT: "commit", TxnState.COMPLETE_COMMIT: "commit"}
        if one.state is not TxnState.EMPTY:
            fate = ended.get(one.state, "abort")
            assert known.fates.setdefault(one.number, fate) == fate
    assert (name in shard.part.decided()) == one.state.decided
