"""`RaftLog` against the plainest model there is: a list of entries above a base."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.errors import EntriesGone, InvariantBroken
from consensus.log import RaftLog
from consensus.model import Configuration, Entry, EntryKind, LogBase, Member, encode_configuration

CONFIGURATIONS = [Configuration((Member(n, "a"),)) for n in range(1, 4)]


class Model:
    """Every entry that was ever appended and not truncated, those below the base included."""

    def __init__(self) -> None:
        self.base = LogBase(0, 0, CONFIGURATIONS[0])
        self.all: list[Entry] = []
        self.durable = 0
        self.hidden = 0
        """Entries up to here were replaced by a snapshot: not even the test knows them."""

    @property
    def last(self) -> int:
        return self.hidden + len(self.all)

    def entry(self, index: int) -> Entry:
        return self.all[index - self.hidden - 1]

    def term(self, index: int) -> int | None:
        if index == self.base.index:
            return self.base.term
        return self.entry(index).term if self.base.index < index <= self.last else None

    def configuration(self, index: int) -> Configuration:
        found = self.base.configuration
        for at in range(self.base.index + 1, index + 1):
            if self.entry(at).kind == EntryKind.CONFIGURATION:
                found = CONFIGURATIONS[self.entry(at).index % 3]
        return found

    def read(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        """The store: it holds what is durable."""
        assert self.base.index < first <= last <= self.durable, "only durable entries may be asked of the store"
        found: list[Entry] = []
        for index in range(first, last + 1):
            if found and sum(e.size for e in [*found, self.entry(index)]) > bytes_max:
                break
            found.append(self.entry(index))
        return found


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["append"] * 8 + ["flush"] * 4 + ["truncate", "drop", "drop", "trim", "reset"]),
        st.integers(0, 100),
        st.integers(0, 3),
    ),
    min_size=4,
    max_size=40,
)


def act(model: Model, log: RaftLog, action: str, where: int, how: int) -> None:
    inside = model.base.index + where % (model.last - model.base.index + 1)
    if action == "append":
        term = max(log.last_term, 1) + (how == 3)
        kinds = [EntryKind.NOOP, EntryKind.COMMAND, EntryKind.CONFIGURATION, EntryKind.COMMAND]
        index = model.last + 1
        command = encode_configuration(CONFIGURATIONS[index % 3]) if how == 2 else b"x" * where
        entry = Entry.of(term, index, kinds[how], command)
        model.all.append(entry)
        log.append((entry,))
    elif action == "truncate" and inside > model.base.index:
        del model.all[inside - model.hidden - 1 :]
        model.durable = min(model.durable, inside - 1)
        log.truncate_from(inside)
    elif action == "drop" and model.base.index < inside <= model.durable:
        through = inside
        base = LogBase(through, model.term(through) or 0, model.configuration(through))
        assert log.drop_through(through) == base
        model.base = base
    elif action == "trim":
        log.trim_memory(model.durable)
    elif action == "flush":
        model.durable = model.last
    elif action == "reset":
        index = model.last + 1 + how
        model.base = LogBase(index, log.last_term + how, CONFIGURATIONS[how % 3])
        model.all, model.hidden, model.durable = [], index, index
        log.reset(model.base)


def check(model: Model, log: RaftLog) -> None:
    assert (log.base, log.last_index) == (model.base, model.last)
    assert log.last_term == (model.term(model.last) if model.last else 0)
    for index in range(max(0, model.base.index - 2), model.last + 3):
        assert log.term_at(index) == model.term(index), index
        if model.base.index <= index <= model.last:
            assert log.configuration_at(index) == model.configuration(index)
    assert log.configuration == model.configuration(model.last)
    changes = [i for i in range(model.base.index + 1, model.last + 1) if model.entry(i).kind == EntryKind.CONFIGURATION]
    assert log.configuration_index == (changes[-1] if changes else model.base.index)


@given(ACTIONS, st.sampled_from([0, 200, 1 << 20]))
@settings(max_examples=100, deadline=None)
def test_the_shape_is_that_of_the_model(actions: list[tuple[str, int, int]], memory: int) -> None:
    model = Model()
    log = RaftLog(model.base, model.read, memory_bytes_max=memory)
    for action in actions:
        act(model, log, *action)
        check(model, log)


@given(ACTIONS, st.sampled_from([0, 200, 1 << 20]), st.integers(1, 60), st.integers(0, 60), st.integers(0, 500))
@settings(max_examples=100, deadline=None)
def test_entries_are_those_of_the_model(
    actions: list[tuple[str, int, int]], memory: int, first: int, count: int, bytes_max: int
) -> None:
    model = Model()
    log = RaftLog(model.base, model.read, memory_bytes_max=memory)
    for action in actions:
        act(model, log, *action)
    last = first + count
    if first <= model.base.index:
        with pytest.raises(EntriesGone):
            log.entries(first, last, bytes_max)
        return
    found = log.entries(first, last, bytes_max)
    wanted = [model.entry(i) for i in range(first, min(last, model.last) + 1)]
    assert found == wanted[: len(found)]
    assert bool(found) == bool(wanted), "at least one, where there is one"
    assert len(found) <= 1 or sum(e.size for e in found) <= bytes_max


@given(ACTIONS, st.integers(0, 60), st.integers(0, 6))
@settings(max_examples=100, deadline=None)
def test_the_hint_for_a_leader_skips_whole_terms(actions: list[tuple[str, int, int]], index: int, term: int) -> None:
    model = Model()
    log = RaftLog(model.base, model.read)
    for action in actions:
        act(model, log, *action)
    candidates = [i for i in range(model.base.index + 1, min(index, model.last) + 1) if model.entry(i).term <= term]
    assert log.last_at_or_below_term(index, term) == max(candidates, default=model.base.index)


def made(*terms: int) -> RaftLog:
    log = RaftLog(LogBase(), lambda first, last, size: [])
    log.append([Entry.of(term, index, EntryKind.NOOP) for index, term in enumerate(terms, 1)])
    return log


@pytest.mark.parametrize("entry", [Entry.of(2, 5, EntryKind.NOOP), Entry.of(2, 3, EntryKind.NOOP)])
def test_a_gap_or_an_overlap_is_a_fault(entry: Entry) -> None:
    with pytest.raises(InvariantBroken, match="cannot follow"):
        made(1, 1, 2).append((entry,))


def test_a_term_that_goes_back_is_a_fault() -> None:
    with pytest.raises(InvariantBroken, match="cannot follow"):
        made(1, 1, 2).append((Entry.of(1, 4, EntryKind.NOOP),))


def test_configurations_are_known_by_their_index_above_and_at_the_base() -> None:
    log = RaftLog(LogBase(0, 0, CONFIGURATIONS[0]), lambda first, last, size: [])
    for index in range(1, 7):
        kind = EntryKind.CONFIGURATION if index in (2, 5) else EntryKind.NOOP
        log.append((Entry.of(1, index, kind, encode_configuration(CONFIGURATIONS[index % 3])),))
    assert [log.configuration_at(i) for i in (1, 2, 4, 5)] == [CONFIGURATIONS[n] for n in (0, 2, 2, 2)]
    assert log.configurations_since(1) == [CONFIGURATIONS[0], CONFIGURATIONS[2], CONFIGURATIONS[2]]
    assert log.drop_through(3) == LogBase(3, 1, CONFIGURATIONS[2])
    assert log.configuration_index == 5
    log.truncate_from(5)
    assert (log.configuration_index, log.configuration) == (3, CONFIGURATIONS[2])


def test_nothing_at_or_below_the_base_can_be_truncated() -> None:
    log = made(1, 1, 2)
    log.drop_through(2)
    with pytest.raises(InvariantBroken, match="below the log's base 2"):
        log.truncate_from(2)
    log.truncate_from(3)
    assert (log.last_index, log.last_term) == (2, 1)


def test_the_base_stays_inside_the_log() -> None:
    with pytest.raises(InvariantBroken, match="outside the log"):
        made(1, 1, 2).drop_through(4)


def test_a_log_that_was_loaded_knows_its_shape_and_reads_the_store() -> None:
    stored = [Entry.of(term, index, EntryKind.NOOP) for index, term in ((4, 2), (5, 2), (6, 3))]
    asked: list[tuple[int, int]] = []

    def read(first: int, last: int, bytes_max: int) -> list[Entry]:
        asked.append((first, last))
        return stored[first - 4 : last - 3]

    log = RaftLog(LogBase(3, 1), read, last_index=6, terms=[(4, 2), (6, 3)])
    assert [log.term_at(index) for index in range(2, 8)] == [None, 1, 2, 2, 3, None]
    log.append((Entry.of(3, 7, EntryKind.NOOP),))
    assert [e.index for e in log.entries(5, 7, 1 << 20)] == [5, 6], "the store's part first"
    assert [e.index for e in log.entries(7, 7, 1 << 20)] == [7]
    assert asked == [(5, 6)]
